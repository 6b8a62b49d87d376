package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

// TestOpenAPI checks that the switch serves a valid OpenAPI description, and that its answers match the description.
func TestOpenAPI(t *testing.T) {
	b := New(t)
	containers(b)
	b.Web("web")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.CLI("route", "add", "blackhole", "192.0.2.0/24")
	ping(b, "web", "10.1.0.2")
	b.Sh("db", "curl -s http://10.1.0.1:8080/ >/dev/null; echo x | socat - udp-sendto:240.0.0.1:9")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.Socket())
	}}}
	resp, err := client.Get("http://uvswitch/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	spec, err := openapi3.NewLoader().LoadFromData(text)
	if err == nil {
		err = spec.Validate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	router, err := legacy.NewRouter(spec)
	if err != nil {
		t.Fatal(err)
	}
	opts := &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true}
	call := func(method, path, body string, status int) {
		t.Helper()
		req, _ := http.NewRequest(method, "http://uvswitch/v1"+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		var rt *routers.Route
		rt, params, err := router.FindRoute(req)
		if err != nil {
			t.Errorf("%s %s is not described: %v", method, path, err)
			return
		}
		in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: rt, Options: opts}
		if err := openapi3filter.ValidateRequest(t.Context(), in); (err == nil) != (status < 400) && status != http.StatusNotFound && status != http.StatusConflict {
			t.Errorf("%s %s %s: by the description: %v", method, path, body, err)
		}
		req.Body = io.NopCloser(strings.NewReader(body))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s %s %s: %d, not %d: %s", method, path, body, resp.StatusCode, status, answer)
		}
		if err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header,
			Body: io.NopCloser(bytes.NewReader(answer)), Options: opts}); err != nil {
			t.Errorf("%s %s: the answer is not as described: %v\n%.300s", method, path, err, answer)
		}
	}
	gets := 0
	for path, item := range spec.Paths.Map() {
		if item.Get == nil || strings.Contains(path, "{") {
			continue
		}
		stream := false
		for kind := range item.Get.Responses.Value("200").Value.Content {
			stream = stream || kind != "application/json"
		}
		if gets++; !stream {
			call("GET", strings.TrimPrefix(path, "/v1"), "", 200)
		}
	}
	call("GET", "/routes/get/10.1.0.2", "", 200)
	if gets < 18 {
		t.Errorf("only %d GETs are described", gets)
	}
	call("GET", "/ports/web", "", 200)
	call("GET", "/ports/nobody", "", 404)
	call("GET", "/flows?limit=1&proto=icmp", "", 200)
	call("POST", "/networks", `{"name":"lab","subnet":"10.9.0.0/24"}`, 200)
	call("POST", "/networks", `{"name":"lab","subnet":"10.9.0.0/24"}`, 409)
	call("POST", "/networks", `{"name":"lab2","subnt":"10.9.1.0/24"}`, 400)
	call("POST", "/networks", `{"name":7}`, 400)
	call("POST", "/publish", `{"spec":"9090:80","port":"web"}`, 200)
	call("PATCH", "/ports/web", `{"isolated":true}`, 200)
	call("POST", "/trace", `{"in":"web","packet":"tcp > 1.1.1.1:443 S","reverse":true}`, 200)
	call("POST", "/routes", `{"dst":"192.0.2.0/24","type":"prohibit","replace":true}`, 200)
	call("POST", "/neighbors", `{"dst":"172.29.0.99","lladdr":"02:00:00:00:00:99"}`, 200)
	call("POST", "/fdb", `{"mac":"02:00:00:00:00:98","port":"web","state":"static"}`, 200)
	call("DELETE", "/fdb/02:00:00:00:00:98", "", 200)
	call("DELETE", "/flows?proto=icmp", "", 200)
	call("DELETE", "/publish?host=9090", "", 200)
	call("DELETE", "/networks/lab", "", 200)

	// Another user of the host may read if the socket's mode allows it, but may neither change anything nor capture.
	if err := os.Chmod(b.Socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(b.Socket()); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	for request, want := range map[string]string{"http://x/v1/ports": "200", "-X POST -d {} http://x/v1/ports": "403", "-X DELETE http://x/v1/flows": "403", "http://x/v1/capture": "403",
		"-X POST -d {} http://x/v1/reload": "403", "http://x/v1/monitor?follow=0&last=1": "200"} {
		args := append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", b.Socket()}, strings.Fields(request)...)
		if out, err := exec.Command("setpriv", args...).Output(); err != nil || string(out) != want {
			t.Errorf("nobody asks for %s: %v, %s, not %s", request, err, out, want)
		}
	}

	// Requests that are too large or too slow fail and do no harm.
	large, err := client.Post("http://uvswitch/v1/ports", "application/json", strings.NewReader(`{"name":"`+strings.Repeat("x", 100<<10)+`"}`))
	if err != nil || large.StatusCode != 400 {
		t.Errorf("a large body: %v, %v", large, err)
	}
	slow, err := net.Dial("unix", b.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_, _ = io.WriteString(slow, "GET /v1/status HTTP/1.1\r\nHost: ")
	_ = slow.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(slow); err != nil {
		t.Errorf("a request that never ends is not ended: %v", err)
	}
	b.CLI("status")
}
