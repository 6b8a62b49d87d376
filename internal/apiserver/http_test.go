package apiserver

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

// A moment is how long ago it was, a time in one of several forms, or seconds since 1970.
func TestParseMoment(t *testing.T) {
	now := time.Unix(1_795_890_000, 0)
	for text, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "1795883815": time.Unix(1795883815, 0), "2026-11-28T12:00:00Z": time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC),
		"2026-11-28T12:00": time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local), "2026-11-28 12:00:00": time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local),
	} {
		if got, err := parseMoment("since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"10", "yesterday", "-5m", "2026-13-01"} {
		if _, err := parseMoment("since", text, now); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
