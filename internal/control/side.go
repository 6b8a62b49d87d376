package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Beside the control socket there may be two more: metrics, and the live page. Both are for reading, and for this host: their
// addresses are loopback ones, and a request must name such a one, so that no page from elsewhere can ask by a name of its own.

// sideListen opens a loopback address and port, or a unix socket.
func sideListen(flag, addr string) (net.Listener, error) {
	if strings.HasPrefix(addr, "/") && flag != "--web" {
		l, err := Listen(addr, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		return l, nil
	}
	host, _, err := net.SplitHostPort(addr)
	ip, perr := netip.ParseAddr(host)
	if err != nil || perr != nil && host != "localhost" || perr == nil && !ip.IsLoopback() {
		return nil, fmt.Errorf("%s %s: say a loopback address and a port, such as 127.0.0.1:9101: what is served there is not for the network", flag, addr)
	}
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: the port is taken; choose another", flag, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return l, nil
}

// sideServer serves h, for requests that name a loopback host.
func (d *Daemon) sideServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, byTCP := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr) // a page from elsewhere reaches no unix socket
			if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
				http.Error(w, "this is for no other page", http.StatusForbidden)
				return
			}
			if byTCP && !localHost(r.Host) || r.Header.Get("Origin") != "" && r.Header.Get("Origin") != "http://"+r.Host {
				http.Error(w, fmt.Sprintf("host %q is not this one: ask for 127.0.0.1 or localhost", r.Host), http.StatusForbidden)
				return
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
}

// localHost tells whether a request's Host is a loopback address or localhost.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// serveSides opens what Options ask for. stop ends it.
func (d *Daemon) serveSides() (stop func(), err error) {
	var servers []*http.Server
	stop = func() {
		for _, s := range servers {
			s.Close()
		}
	}
	for _, side := range []struct {
		flag, addr string
		handler    func() http.Handler
	}{{"--metrics", d.opts.Metrics, d.metricsHandler}, {"--web", d.opts.Web, d.webHandler}} {
		if side.addr == "" {
			continue
		}
		l, err := sideListen(side.flag, side.addr)
		if err != nil {
			stop()
			return func() {}, err
		}
		s := d.sideServer(side.handler())
		servers = append(servers, s)
		go func() { _ = s.Serve(l) }() // ends with stop
		d.log.Info("serving", "what", side.flag, "address", l.Addr())
	}
	return stop, nil
}
