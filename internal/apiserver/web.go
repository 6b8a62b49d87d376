package apiserver

import (
	"context"
	"net/http"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/web"
)

// webHandler is the live page, and the reading part of the control API. A request over TCP has no peer credentials, so it may
// change nothing (mayChange); here it does not get as far as that. Without the token it is a stranger's.
func (s *Server) webHandler() http.Handler {
	calls := s.handler()
	page := http.FileServerFS(web.Files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		isAPI := strings.HasPrefix(r.URL.Path, "/v1/")
		switch {
		case isAPI && (r.Method == http.MethodGet || r.Method == http.MethodPost && (r.URL.Path == "/v1/trace" || r.URL.Path == "/v1/layers")):
			h.Set("Cache-Control", "no-store")
			if s.opts.Web.Addr().Network() == "tcp" && !s.token.IsIn(r) {
				r = r.WithContext(context.WithValue(r.Context(), strangerKey{}, true))
			}
			calls.ServeHTTP(w, r)
		case isAPI:
			http.Error(w, "the page only reads; use the control socket to change something", http.StatusForbidden)
		default:
			page.ServeHTTP(w, r)
		}
	})
}

// strangerKey marks a request whose client may not see what containers send.
type strangerKey struct{}

func isStranger(r *http.Request) bool { return r.Context().Value(strangerKey{}) != nil }

// WebURL returns the address of the live page, with the token; empty without the page.
func (s *Server) WebURL() string {
	if s.opts.Web == nil {
		return ""
	}
	return s.token.URL(s.opts.Web.Addr())
}

func (s *Server) webPage(*http.Request) (any, error) {
	return api.WebPage{URL: s.WebURL()}, nil
}
