package control

import (
	"net/http"
	"strings"

	"github.com/uvswitch/uvswitch/internal/web"
)

// webHandler is the live page, and of the control API what reads: a request that comes by TCP has no peer that might
// change anything (mayChange), and only these get as far as that.
func (d *Daemon) webHandler() http.Handler {
	api := d.handler()
	page := http.FileServerFS(web.Files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		isAPI := strings.HasPrefix(r.URL.Path, "/v1/")
		switch {
		case isAPI && (r.Method == http.MethodGet || r.Method == http.MethodPost && r.URL.Path == "/v1/trace"):
			h.Set("Cache-Control", "no-store")
			api.ServeHTTP(w, r)
		case isAPI:
			http.Error(w, "this page only reads; changes go by the control socket", http.StatusForbidden)
		default:
			page.ServeHTTP(w, r)
		}
	})
}
