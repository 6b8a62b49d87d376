package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

const maxBody = 64 << 10 // bytes of a request

// Listen makes the control socket, or another of the switch's, for root and, when it is shared, its group, refusing when another switch answers there and replacing what a dead one left.
func Listen(path string, shared bool) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there, and is no socket: it stays as it is; name another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		cred, _ := peerOf(c)
		c.Close()
		return nil, fmt.Errorf("a switch is running already on %s (pid %d); stop it, or give this one another socket and name (--socket, --name)", path, cred.Pid)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(path) // of a switch that died; a failure shows below
	}
	before := unix.Umask(0o177) // nobody else connects before its mode is what it should be
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(before)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if !shared {
		return l, nil
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if g, err := user.LookupGroup("uvswitch"); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Chown(path, -1, gid) // root may; others cannot give it away anyhow
		}
	}
	return l, nil
}

type (
	peerKey struct{}
	connKey struct{}
)

// rememberPeer keeps who connected, and the connection, for the handlers.
func rememberPeer(ctx context.Context, c net.Conn) context.Context {
	ctx = context.WithValue(ctx, connKey{}, c)
	cred, err := peerOf(c)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

func peerOf(c net.Conn) (*unix.Ucred, error) {
	u, ok := c.(syscall.Conn)
	if !ok {
		return &unix.Ucred{}, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return &unix.Ucred{}, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return &unix.Ucred{}, err
	}
	if cerr != nil {
		return &unix.Ucred{}, cerr
	}
	return cred, nil
}

// mayChange: root and the switch's own user; everyone else who can open the socket may read.
func mayChange(r *http.Request) bool {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	return ok && trusted(cred)
}

func trusted(c *unix.Ucred) bool { return c.Uid == 0 || int(c.Uid) == os.Getuid() }

// handler is the control API, as routes lists it.
func (d *Daemon) handler() http.Handler {
	m := http.NewServeMux()
	for _, rt := range d.routes() {
		m.Handle(rt.method+" /v1"+rt.path, d.serve(rt))
	}
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, api.Errorf(http.StatusNotFound, "the control API has no %s %s; GET /v1/openapi.json describes it", r.Method, r.URL.Path))
	})
	return m
}

// serve is a route's handler. What changes the switch is for root, and locks by itself; what shows it runs under mu.
func (d *Daemon) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer dropHanded(r)
		if (rt.method != http.MethodGet || rt.forRoot) && !rt.open && !mayChange(r) {
			answer(w, nil, api.Errorf(http.StatusForbidden, "only root may do that"))
			return
		}
		for k := range r.URL.Query() {
			if !slices.ContainsFunc(rt.query, func(p param) bool { return p.name == k }) {
				answer(w, nil, api.Errorf(http.StatusBadRequest, "%s %s has no parameter %q", rt.method, rt.path, k))
				return
			}
		}
		limit := rt.limit
		if limit == 0 {
			limit = maxBody
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		switch {
		case rt.stream != nil:
			rt.stream(w, r)
		case rt.view != nil:
			d.mu.Lock()
			v, err := rt.view(r)
			d.mu.Unlock()
			answer(w, v, err)
		default:
			v, err := rt.change(r)
			d.mu.Lock()
			d.keep()
			d.mu.Unlock()
			answer(w, v, err)
		}
	}
}

// filterOf reads what selects flows; what can match nothing is an error. mu is held.
func (d *Daemon) filterOf(q url.Values) (flowFilter, error) {
	f := flowFilter{proto: q.Get("proto"), port: q.Get("port"), sport: q.Get("sport"), dport: q.Get("dport"), state: q.Get("state")}
	for _, p := range []string{f.sport, f.dport} {
		if _, err := strconv.ParseUint(p, 10, 16); p != "" && err != nil {
			return f, api.Errorf(http.StatusBadRequest, "%q is no port number", p)
		}
	}
	for key, to := range map[string]*netip.Prefix{"src": &f.src, "dst": &f.dst} {
		s := q.Get(key)
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if s != "" && err != nil {
			return f, api.Errorf(http.StatusBadRequest, "%q is not an address, nor a prefix such as 10.0.0.0/8", s)
		}
		*to = p
	}
	if f.port != "" && !slices.ContainsFunc(d.portList(), func(p *port) bool { return p.name == f.port }) {
		return f, noPort(f.port)
	}
	if f.state != "" && !slices.Contains(nat.TCPStates(), strings.ToUpper(f.state)) {
		return f, api.Errorf(http.StatusBadRequest, "%q is no TCP state; there are %s", f.state, strings.Join(nat.TCPStates(), ", "))
	}
	return f, nil
}

// body decodes a request strictly: an unknown key is an error that names it.
func body[T any](r *http.Request) (v T, err error) {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, api.Errorf(http.StatusBadRequest, "the request's body: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return v, api.Errorf(http.StatusBadRequest, "the request's body has more than one value")
	}
	return v, nil
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	status := http.StatusOK
	if err != nil {
		e := &api.Error{Status: http.StatusInternalServerError, Message: err.Error()}
		errors.As(err, &e)
		status, v = e.Status, &api.Error{Status: e.Status, Message: err.Error()} // with what stands around it
	}
	w.WriteHeader(status)
	if v == nil {
		v = struct{}{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may have gone
}
