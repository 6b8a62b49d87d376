package apiserver

import (
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// OpenAPI describes the control API. Source: the OpenAPI Specification 3.0.3.
func OpenAPI() map[string]any {
	s := schemas{}
	paths := map[string]any{}
	for _, rt := range routeTable() {
		full := "/v1" + rt.path
		at, ok := paths[full].(map[string]any)
		if !ok {
			at = map[string]any{}
			paths[full] = at
		}
		at[strings.ToLower(rt.method)] = s.operation(&rt)
	}
	_ = s.of(reflect.TypeFor[api.Error]())
	return map[string]any{
		"openapi": "3.0.3",
		"info": map[string]any{"title": "uvswitch control API", "version": "1", "license": map[string]any{"name": "MIT"},
			"description": "HTTP and JSON on the switch's unix socket, /run/uvswitch/uvswitch.sock. Everyone who may open the socket may read; only root and the switch's own user may change something (SO_PEERCRED). Times in seconds, sizes in bytes."},
		"servers":    []any{map[string]any{"url": "http://uvswitch"}},
		"paths":      paths,
		"components": map[string]any{"schemas": map[string]any(s)},
	}
}

// schemas are the bodies' types by name.
type schemas map[string]any

var inPath = regexp.MustCompile(`\{(\w+)\}`)

func (s schemas) operation(rt *route) map[string]any {
	params := []any{}
	for _, m := range inPath.FindAllStringSubmatch(rt.path, -1) {
		params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, p := range rt.query {
		schema := map[string]any{"type": p.kind}
		if p.kind == "array" {
			schema["items"] = map[string]any{"type": "string"}
		}
		params = append(params, map[string]any{"name": p.name, "in": "query", "description": p.text, "schema": schema})
	}
	content := map[string]any{}
	switch {
	case rt.pcapng:
		content["application/x-pcapng"] = map[string]any{"schema": map[string]any{"type": "string", "format": "binary"}}
	case rt.ndjson:
		content["application/x-ndjson"] = map[string]any{"schema": s.of(reflect.TypeOf(rt.gives))}
	case rt.gives != nil:
		content["application/json"] = map[string]any{"schema": s.of(reflect.TypeOf(rt.gives))}
	default:
		content["application/json"] = map[string]any{"schema": map[string]any{"type": "object"}}
	}
	op := map[string]any{
		"summary": rt.summary, "parameters": params,
		"responses": map[string]any{
			"200":     map[string]any{"description": "success", "content": content},
			"default": map[string]any{"description": "refused, and why", "content": map[string]any{"application/json": map[string]any{"schema": map[string]any{"$ref": "#/components/schemas/Error"}}}},
		},
	}
	if rt.takes != nil {
		op["requestBody"] = map[string]any{"required": true, "content": map[string]any{"application/json": map[string]any{"schema": s.of(reflect.TypeOf(rt.takes))}}}
	}
	return op
}

// of is the schema of a type; structs stand under components.
func (s schemas) of(t reflect.Type) map[string]any {
	if t == reflect.TypeFor[api.Setting]() { // a word, or JSON's true and false
		return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, map[string]any{"type": "boolean"}}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		ref := map[string]any{"$ref": "#/components/schemas/" + t.Name()}
		if _, known := s[t.Name()]; known {
			return ref
		}
		o := map[string]any{"type": "object"}
		s[t.Name()] = o
		props, required := map[string]any{}, []string{}
		s.fields(t, props, &required)
		o["properties"] = props
		if len(required) > 0 {
			slices.Sort(required)
			o["required"] = required
		}
		if strings.HasSuffix(t.Name(), "Add") || strings.HasSuffix(t.Name(), "Request") {
			o["additionalProperties"] = false // an unknown key is an error
		}
		return ref
	case reflect.Interface:
		return map[string]any{}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}
	}
	panic("apiserver: the API has no schema for " + t.String())
}

func (s schemas) fields(t reflect.Type, props map[string]any, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			s.fields(f.Type, props, required)
			continue
		}
		props[tag] = s.of(f.Type)
		if !strings.Contains(rest, "omitempty") {
			*required = append(*required, tag)
		}
	}
}
