package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/model"
)

// fieldComments reads the comments of struct fields, such as "config.Uplink.Device", from the Go files in folders of the repository.
func fieldComments(folders ...string) (map[string]string, error) {
	_, here, _, _ := runtime.Caller(0)
	out := map[string]string{}
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(filepath.Dir(here), "..", "..", folder, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, path := range files {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				spec, _ := n.(*ast.TypeSpec)
				if spec == nil {
					return true
				}
				if s, ok := spec.Type.(*ast.StructType); ok {
					for _, field := range s.Fields.List {
						text := cmp.Or(field.Comment.Text(), field.Doc.Text())
						for _, name := range field.Names {
							out[f.Name.Name+"."+spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(text), " ")
						}
					}
				}
				return false
			})
		}
	}
	return out, nil
}

// A part is a struct of the configuration file, and where it stands in the file.
type part struct {
	path string // such as networks[]
	keys []key
}

type key struct {
	name, kind, meaning string
	needed              bool
	schema              map[string]any
}

// configFile walks through the types of the configuration file. Every key needs a comment in the code: it is the key's documentation.
type configFile struct {
	comments map[string]string
	parts    []part
}

// structure returns the schema of a struct, and appends its keys to the parts.
func (c *configFile) structure(t reflect.Type, path string) (map[string]any, error) {
	at := len(c.parts)
	c.parts = append(c.parts, part{path: path})
	properties, required := map[string]any{}, []any{}
	var keys []key
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(cmp.Or(f.Tag.Get("yaml"), f.Tag.Get("json")), ",") // as the YAML library does
		if name == "handed" {
			continue // the file refuses it
		}
		k := key{name: name, meaning: c.comments[t.String()+"."+f.Name]}
		if k.meaning == "" {
			return nil, fmt.Errorf("%s.%s, key %s of %s: the field has no comment that says what it means", t, f.Name, name, path)
		}
		var err error
		if k.kind, k.schema, err = c.value(f.Type, strings.TrimPrefix(path+"."+name, ".")); err != nil {
			return nil, err
		}
		k.schema["description"] = k.meaning
		properties[name] = k.schema
		if !strings.Contains(options, "omitempty") && t.Name()+"."+f.Name != "NetworkAdd.Subnet" { // network default needs none
			k.needed = true
			required = append(required, name)
		}
		keys = append(keys, k)
	}
	c.parts[at].keys = keys
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s, nil
}

func anyOf(choices ...map[string]any) map[string]any {
	list := []any{}
	for _, c := range choices {
		list = append(list, c)
	}
	return map[string]any{"anyOf": list}
}

func enum(words []string) map[string]any { return map[string]any{"type": "string", "enum": words} }

func typed(name string) map[string]any { return map[string]any{"type": name} }

// value returns the kind of a key's value, in words, and its schema.
func (c *configFile) value(t reflect.Type, path string) (kind string, schema map[string]any, err error) {
	texts := map[string]any{"type": "array", "items": typed("string")}
	switch t {
	case reflect.TypeFor[api.Words]():
		return "text or list", anyOf(typed("string"), texts), nil
	case reflect.TypeFor[api.PortSet]():
		properties := map[string]any{}
		for _, name := range model.SettingNames() {
			properties[name] = anyOf(typed("string"), typed("boolean"), typed("number"))
		}
		return "settings", map[string]any{"type": "object", "properties": properties, "additionalProperties": false}, nil
	case reflect.TypeFor[config.Host]():
		long, err := c.structure(t, path)
		return "keys, or on, off", anyOf(long, typed("boolean"), enum([]string{"on", "off"})), err
	case reflect.TypeFor[config.Timers]():
		long, err := c.structure(t, path)
		return "keys, or a profile", anyOf(long, enum(config.Choices[path+".profile"])), err
	}
	if choices := config.Choices[path]; choices != nil {
		return "one of " + strings.Join(choices, ", "), enum(choices), nil
	}
	switch t.Kind() {
	case reflect.String:
		return "text", anyOf(typed("string"), typed("number")), nil // 8080 is the text "8080"
	case reflect.Bool:
		return "true or false", typed("boolean"), nil
	case reflect.Int, reflect.Uint32:
		return "number", map[string]any{"type": "integer", "minimum": 0}, nil
	case reflect.Struct:
		s, err := c.structure(t, path)
		return "keys", s, err
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			items, err := c.structure(t.Elem(), path+"[]")
			return "list", map[string]any{"type": "array", "items": items}, err
		}
		return "list of texts", texts, nil
	case reflect.Map:
		return "keys with numbers", map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "integer", "minimum": 0}}, nil
	}
	return "", nil, fmt.Errorf("%s: no words for a value of type %s", path, t)
}

func readConfigFile() (*configFile, map[string]any, error) {
	comments, err := fieldComments("internal/config", "cmd/uvswitch/api")
	if err != nil {
		return nil, nil, err
	}
	c := &configFile{comments: comments}
	schema, err := c.structure(reflect.TypeFor[config.File](), "")
	return c, schema, err
}

// configSchema writes a schema for editors. Source: JSON Schema, draft 7, which editors know best.
func configSchema(out io.Writer) error {
	_, schema, err := readConfigFile()
	if err != nil {
		return err
	}
	schema["$schema"] = "http://json-schema.org/draft-07/schema#"
	schema["title"] = "uvswitch configuration file"
	e := api.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(schema)
}

// configPage writes the reference of all keys.
func configPage(out io.Writer) error {
	c, _, err := readConfigFile()
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("# Configuration reference\n\n`make docs` makes this page from the types in `internal/config` and `cmd/uvswitch/api`.\n\n" +
		"[configure.md](configure.md) says how to use a configuration file.\n" +
		"[uvswitch.yaml](../internal/packaging/uvswitch.yaml) is a sample to begin with.\n" +
		"`uvswitch config check FILE` checks a file, and `uvswitch config show` prints the running configuration as one.\n\n" +
		"[config.schema.json](config.schema.json) is a schema for editors.\n" +
		"An editor with a YAML language server completes and checks the keys if this is the file's first line:\n\n" +
		"```yaml\n# yaml-language-server: $schema=/usr/share/doc/uvswitch/config.schema.json\n```\n\n" +
		"A key in **bold** must be there. Others may be left out, unless their meaning says something else.\n")
	for _, p := range c.parts {
		title := p.path
		if title == "" {
			title = "The file"
		} else {
			title = "`" + title + "`"
		}
		fmt.Fprintf(&b, "\n## %s\n\n| key | value | meaning |\n|---|---|---|\n", title)
		for _, k := range p.keys {
			name := "`" + k.name + "`"
			if k.needed {
				name = "**" + name + "**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", name, k.kind, strings.ReplaceAll(k.meaning, "|", `\|`))
		}
	}
	_, err = io.WriteString(out, b.String())
	return err
}
