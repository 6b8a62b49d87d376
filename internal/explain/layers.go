package explain

import (
	"encoding/hex"
	"fmt"
	"net"
	"reflect"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// maxValue bounds a value's text, in bytes: a list of options or of DNS answers may be long.
const maxValue = 400

// maxLayers bounds how many headers are described: a frame may consist of thousands of tags.
const maxLayers = 64

// Layers decodes the headers of a frame, whose first bytes are data, by gopacket: each header with its fields, in the order in which they stand.
func Layers(data []byte) (out []api.Layer) {
	defer func() {
		if recover() != nil { // gopacket's decoders have panicked on hostile input
			out = append(out, api.Layer{Name: "undecodable"})
		}
	}()
	k := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	for _, l := range k.Layers() {
		if len(out) == maxLayers {
			return append(out, api.Layer{Name: "more headers"})
		}
		x := api.Layer{Name: l.LayerType().String(), Length: len(l.LayerContents())}
		switch l := l.(type) {
		case *gopacket.Payload:
			x.Fields = []api.Field{{Name: "bytes", Value: cut(hex.EncodeToString(*l))}}
		case *gopacket.DecodeFailure: // as a rule, the frame is cut off
			x.Name, x.Fields = "undecodable", []api.Field{{Name: "error", Value: cut(l.Error().Error())}}
		default:
			x.Fields = fieldsOf(l)
		}
		out = append(out, x)
	}
	return out
}

// fieldsOf lists the exported fields of a layer, but for the bytes that all layers have.
func fieldsOf(l gopacket.Layer) (out []api.Field) {
	v := reflect.Indirect(reflect.ValueOf(l))
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || f.Anonymous || f.Type.Kind() == reflect.Slice && v.Field(i).Len() == 0 || f.Type.Kind() == reflect.Pointer {
			continue
		}
		out = append(out, api.Field{Name: f.Name, Value: cut(valueText(v.Field(i).Interface()))})
	}
	return out
}

func valueText(v any) string {
	switch v := v.(type) {
	case net.HardwareAddr, net.IP:
		return fmt.Sprint(v)
	case []byte:
		switch len(v) {
		case net.IPv4len:
			return net.IP(v).String()
		case 6:
			return net.HardwareAddr(v).String()
		}
		return hex.EncodeToString(v)
	}
	return fmt.Sprint(v)
}

func cut(s string) string {
	if len(s) > maxValue {
		return s[:maxValue] + "…"
	}
	return s
}
