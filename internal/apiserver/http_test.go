package apiserver

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// Bodies of the API: anything but one JSON object with known keys is an error, and nothing panics.
func FuzzBody(f *testing.F) {
	f.Add(`{"name":"web","netns":"web"}`)
	f.Add(`{"nmae":"web"}`)
	f.Add(`{}{}`)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := decode[api.PortAdd](httptest.NewRequest("POST", "/v1/ports", strings.NewReader(text)))
		if err == nil && !json.Valid([]byte(text)) {
			t.Errorf("%q is not JSON, and was read as %+v", text, v)
		}
		if p, err := decode[api.PublishAdd](httptest.NewRequest("POST", "/v1/publish", strings.NewReader(text))); err == nil {
			_, _ = model.ParsePublish(p)
		}
	})
}
