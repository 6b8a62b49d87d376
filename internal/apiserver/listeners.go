package apiserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Beside the control socket there may be two more listeners: metrics, and the live page. Both only read, and both are for this host:
// their addresses are loopback addresses, and a request must name one, so that no page of another site can reach them by DNS
// rebinding.

// ListenReader opens a loopback address and port, or a unix socket, for a flag; nil for an empty address.
func ListenReader(flag, addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	if path := strings.TrimPrefix(addr, "unix:"); strings.HasPrefix(path, "/") {
		l, err := Listen(path, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		return l, nil
	}
	host, _, err := net.SplitHostPort(addr)
	ip, perr := netip.ParseAddr(host)
	if err != nil || perr != nil && host != "localhost" || perr == nil && !ip.IsLoopback() {
		return nil, fmt.Errorf("%s %s: use a loopback address and a port, such as 127.0.0.1:9101, or unix:/PATH; only programs on this host may connect", flag, addr)
	}
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: the port is already in use; choose another port", flag, addr)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("%s %s: this user may not listen on ports below 1024; choose another port", flag, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return l, nil
}

// readerServer serves h to requests that name a loopback host.
func (s *Server) readerServer(h http.Handler) *http.Server {
	l := newConnLimit()
	h = patient(h)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, byTCP := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr) // a browser reaches no unix socket
			site := r.Header.Get("Sec-Fetch-Site")
			if site == "cross-site" || site == "same-site" {
				http.Error(w, "requests from other sites are refused", http.StatusForbidden)
				return
			}
			origin := r.Header.Get("Origin")
			own := origin == "" || origin == "http://"+r.Host || site == "same-origin" // which a browser says also behind a proxy
			if byTCP && !isLocalHost(r.Host) || !own {
				http.Error(w, fmt.Sprintf("host %q is refused: use 127.0.0.1 or localhost", r.Host), http.StatusForbidden)
				return
			}
			if c, ok := r.Context().Value(connKey{}).(net.Conn); ok && s.token.IsIn(r) {
				l.Favor(c)
			}
			h.ServeHTTP(w, r)
		}),
		ConnContext: rememberPeer, ConnState: l.ConnState,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: s.errorLog(),
	}
}

// isLocalHost reports whether a request's Host is a loopback address or localhost.
func isLocalHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// serveReaders serves what the options ask for.
func (s *Server) serveReaders() {
	for _, x := range []struct {
		what    string
		l       net.Listener
		handler func() http.Handler
	}{{"metrics", s.opts.Metrics, s.metricsHandler}, {"web", s.opts.Web, s.webHandler}} {
		if x.l == nil {
			continue
		}
		server := s.readerServer(x.handler())
		s.servers = append(s.servers, server)
		go func() { _ = server.Serve(x.l) }() // ends with Close
		s.log.Info("serving", "what", x.what, "address", x.l.Addr())
	}
}
