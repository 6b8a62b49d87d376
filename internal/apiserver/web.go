package apiserver

import (
	"net/http"
	"strings"

	"github.com/uvswitch/uvswitch/internal/web"
)

// webHandler is the live page, and the reading part of the control API. A request over TCP has no peer credentials, so it may
// change nothing (mayChange); here it does not get as far as that.
func (s *Server) webHandler() http.Handler {
	api := s.handler()
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
			http.Error(w, "the page only reads; use the control socket to change something", http.StatusForbidden)
		default:
			page.ServeHTTP(w, r)
		}
	})
}
