package apiserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/connlimit"
	"github.com/uvswitch/uvswitch/internal/rights"
)

const maxBody int64 = 64 << 10 // bytes of a request

// Listen creates a unix socket owned by root and, if it is shared, by its group. It refuses to replace a socket that still answers,
// and removes a stale one.
func Listen(path string, shared bool) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot create the unix socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s exists and is not a socket; it is left alone: use another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		cred, _ := peerOf(c)
		c.Close()
		return nil, fmt.Errorf("a switch is already running on %s (pid %d); stop it, or give the second one a --socket, a --state and a --name of its own", path, cred.Pid)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(path) // of a switch that died; a failure shows below
	}
	with := rights.ForOwner
	if shared {
		with = rights.ForGroup
	}
	var l *net.UnixListener
	err := with(func() (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("cannot create the control socket: %w; this user may not write into the folder: use another --socket, or run the switch with sudo", err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot create the control socket: %w", err)
	}
	if !shared {
		return l, nil
	}
	if g, err := user.LookupGroup("uvswitch"); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			_ = os.Lchown(path, -1, gid) // root may; others cannot give it away anyhow
		}
	}
	return l, nil
}

type (
	peerKey struct{}
	connKey struct{}
)

// rememberPeer keeps the client's credentials, and the connection, for the handlers.
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

// guestPatience is for how long a client that is not root may leave what is sent to it unread.
const guestPatience = 30 * time.Second

// patient makes a handler end the connections of clients that are not root, and do not read.
func patient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !mayChange(r) {
			w = patientWriter{w, http.NewResponseController(w)}
		}
		h.ServeHTTP(w, r)
	})
}

type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap is for http.ResponseController.
func (w patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w patientWriter) Write(b []byte) (n int, err error) {
	const part = 64 << 10 // that must be taken within guestPatience
	for first := true; first || n < len(b) && err == nil; first = false {
		_ = w.control.SetWriteDeadline(time.Now().Add(guestPatience)) // a server's own connection has them
		m := 0
		m, err = w.ResponseWriter.Write(b[n:min(n+part, len(b))])
		n += m
	}
	return n, err
}

// newConnLimit bounds the connections of one listener. Root's and those of the switch's own user do not count.
func newConnLimit() *connlimit.Limit {
	return connlimit.New(max(rights.ReaderFiles(), 8), func(c net.Conn) (int64, bool) {
		cred, err := peerOf(c) // over TCP, nobody: the kernel says -1
		if err != nil {
			return -1, true
		}
		return int64(cred.Uid), !trusted(cred)
	})
}

// mayChange reports whether the client is root or the switch's own user. Everyone else who can open the socket may read.
func mayChange(r *http.Request) bool {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	return ok && trusted(cred)
}

func trusted(c *unix.Ucred) bool { return c.Uid == 0 || int(c.Uid) == os.Getuid() }

// handler is the control API.
func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	for _, rt := range routeTable() {
		m.Handle(rt.method+" /v1"+rt.path, s.serve(rt))
	}
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, nil, api.Errorf(http.StatusNotFound, "the control API has no %s %s; GET /v1/openapi.json describes the API", r.Method, r.URL.Path))
	})
	return m
}

// serve is a route's handler. Only root, and the switch's own user, may change the switch.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer closeDescriptors(r)
		defer s.tellPanic(r)
		if (rt.method != http.MethodGet || rt.forRoot) && !rt.open && !mayChange(r) {
			writeJSON(w, nil, api.Errorf(http.StatusForbidden, "permission denied: only root and the user of the switch may do this"))
			return
		}
		if rt.private && isStranger(r) {
			writeJSON(w, nil, api.Errorf(http.StatusUnauthorized, "this needs the token of the page: `uvswitch web url` prints the page's address with it"))
			return
		}
		for k := range r.URL.Query() {
			if !slices.ContainsFunc(rt.query, func(p param) bool { return p.name == k }) {
				writeJSON(w, nil, badRequest("%s %s has no parameter %q", rt.method, rt.path, k))
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, cmp.Or(rt.limit, maxBody))
		switch {
		case rt.stream != nil:
			rt.stream(s, w, r)
		case rt.costly: // a client that writes or reads slowly keeps no turn meanwhile
			v, err := s.inTurn(rt, r)
			writeJSON(w, v, err)
		default:
			v, err := s.answer(rt, r)
			writeJSON(w, v, err)
		}
	}
}

// tellPanic logs a fault of the switch itself. The client finds its connection closed.
func (s *Server) tellPanic(r *http.Request) {
	x := recover()
	if x == nil {
		return
	}
	if x != http.ErrAbortHandler {
		s.log.Error("a fault in the switch: please report it", "request", r.Method+" "+r.URL.Path, "fault", x, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// answer does what a route is for.
func (s *Server) answer(rt route, r *http.Request) (any, error) {
	if rt.view != nil {
		return rt.view(s.view(), r)
	}
	return rt.change(s, r)
}

// inTurn is answer for a costly route, when its turn has come.
func (s *Server) inTurn(rt route, r *http.Request) (any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badRequest("the body of the request cannot be read: %v", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	done, err := s.turns.take(r.Context(), mayChange(r))
	if err != nil {
		return nil, err
	}
	defer done()
	return s.answer(rt, r)
}

func badRequest(format string, args ...any) error {
	return api.Errorf(http.StatusBadRequest, format, args...)
}

// decode reads a request's body strictly: an unknown key is an error that names it.
func decode[T any](r *http.Request) (v T, err error) {
	return v, decodeInto(r, &v)
}

// decodeInto reads the body of a request into a value, which keeps what the body does not name.
func decodeInto(r *http.Request, to any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return api.Errorf(http.StatusBadRequest, "the body of the request is not valid: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return api.Errorf(http.StatusBadRequest, "the body of the request has more than one JSON value")
	}
	return nil
}

// writeJSON answers a request: with v, or with an error and its status.
func writeJSON(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	status := http.StatusOK
	if err != nil {
		e := &api.Error{Status: http.StatusInternalServerError}
		errors.As(err, &e)
		if e.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		status, v = e.Status, &api.Error{Status: e.Status, Message: err.Error(), Code: e.Code} // the whole text, with its context
	}
	w.WriteHeader(status)
	if v == nil {
		v = struct{}{}
	}
	enc := api.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may have gone
}
