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

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

const maxBody = 64 << 10 // bytes of a request

// listen makes the control socket, refusing when another switch answers there and replacing what a dead one left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		cred, _ := peerOf(c)
		c.Close()
		return nil, fmt.Errorf("a switch is running already on %s (pid %d); stop it, or give this one another socket and name (--socket, --name)", path, cred.Pid)
	} else if errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(path) // of a switch that died; a failure shows below
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
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

type peerKey struct{}

// rememberPeer keeps who connected, for the handlers.
func rememberPeer(ctx context.Context, c net.Conn) context.Context {
	cred, err := peerOf(c)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

func peerOf(c net.Conn) (*unix.Ucred, error) {
	u, ok := c.(*net.UnixConn)
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
	return ok && (cred.Uid == 0 || int(cred.Uid) == os.Getuid())
}

// handler is the control API.
func (d *Daemon) handler() http.Handler {
	m := http.NewServeMux()
	get := func(path string, view func(r *http.Request) (any, error)) {
		m.HandleFunc("GET /v1"+path, func(w http.ResponseWriter, r *http.Request) {
			d.mu.Lock()
			v, err := view(r)
			d.mu.Unlock()
			answer(w, v, err)
		})
	}
	change := func(method, path string, do func(r *http.Request) (any, error)) {
		m.HandleFunc(method+" /v1"+path, func(w http.ResponseWriter, r *http.Request) {
			if !mayChange(r) {
				answer(w, nil, api.Errorf(http.StatusForbidden, "only root may change the switch"))
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			v, err := do(r)
			answer(w, v, err)
		})
	}
	get("/status", func(*http.Request) (any, error) { return d.statusView(), nil })
	get("/stats", func(*http.Request) (any, error) { return d.statsView(), nil })
	get("/reasons", func(*http.Request) (any, error) { return reasonsView(), nil })
	get("/bridge", func(*http.Request) (any, error) { return d.bridgeView(), nil })
	get("/nat", func(*http.Request) (any, error) { return d.natView(), nil })
	get("/nat/settings", func(*http.Request) (any, error) { return d.natSettings(), nil })
	get("/nat/ports", func(*http.Request) (any, error) { return d.portUseView(), nil })
	m.HandleFunc("POST /v1/reload", d.serveReload)
	d.portRoutes(get, change)
	d.tableRoutes(get, change)
	d.publishRoutes(get, change)
	m.HandleFunc("GET /v1/capture", d.serveCapture)
	m.HandleFunc("GET /v1/flows/events", d.serveFlowEvents)
	m.HandleFunc("GET /v1/monitor", d.serveMonitor)
	m.HandleFunc("POST /v1/trace", func(w http.ResponseWriter, r *http.Request) { // it changes nothing: who may read may ask
		r.Body = http.MaxBytesReader(w, r.Body, 4*maxBody)
		q, err := body[api.TraceRequest](r)
		if err != nil {
			answer(w, nil, err)
			return
		}
		d.mu.Lock()
		v, err := d.trace(q)
		d.mu.Unlock()
		answer(w, v, err)
	})
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, api.Errorf(http.StatusNotFound, "the control API has no %s %s", r.Method, r.URL.Path))
	})
	return m
}

// serveReload takes a whole file: more than other bodies have room for.
func (d *Daemon) serveReload(w http.ResponseWriter, r *http.Request) {
	if !mayChange(r) {
		answer(w, nil, api.Errorf(http.StatusForbidden, "only root may change the switch"))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 16*maxBody)
	q, err := body[api.ReloadRequest](r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	o, err := d.opts.Load([]byte(q.File))
	if err != nil {
		answer(w, nil, api.Errorf(http.StatusBadRequest, "%v", err))
		return
	}
	v, err := d.Reload(o, q.Dry)
	answer(w, v, err)
}

type (
	getFunc    = func(path string, view func(r *http.Request) (any, error))
	changeFunc = func(method, path string, do func(r *http.Request) (any, error))
)

func (d *Daemon) portRoutes(get getFunc, change changeFunc) {
	get("/ports", func(*http.Request) (any, error) {
		out := []api.Port{}
		for _, p := range d.portList() {
			out = append(out, d.portView(p))
		}
		return out, nil
	})
	get("/ports/{name}", func(r *http.Request) (any, error) {
		p := d.ports[r.PathValue("name")]
		if p == nil {
			return nil, noPort(r.PathValue("name"))
		}
		return d.portView(p), nil
	})
	change("POST", "/ports", func(r *http.Request) (any, error) {
		a, err := body[api.PortAdd](r)
		if err != nil {
			return nil, err
		}
		return d.addPort(a)
	})
	change("PATCH", "/ports/{name}", func(r *http.Request) (any, error) {
		set, err := body[api.PortSet](r)
		if err != nil {
			return nil, err
		}
		return nil, d.setPort(r.PathValue("name"), set)
	})
	change("DELETE", "/ports/{name}", func(r *http.Request) (any, error) { return nil, d.deletePort(r.PathValue("name")) })
	get("/networks", func(*http.Request) (any, error) {
		out := []api.Network{}
		for _, n := range d.networkList() {
			out = append(out, d.networkView(n))
		}
		return out, nil
	})
	change("POST", "/networks", func(r *http.Request) (any, error) {
		a, err := body[api.NetworkAdd](r)
		if err != nil {
			return nil, err
		}
		return nil, d.addNetwork(a)
	})
	change("DELETE", "/networks/{name}", func(r *http.Request) (any, error) { return nil, d.deleteNetwork(r.PathValue("name")) })
}

func (d *Daemon) tableRoutes(get getFunc, change changeFunc) {
	get("/fdb", func(*http.Request) (any, error) { return d.fdbView(), nil })
	change("POST", "/fdb", func(r *http.Request) (any, error) {
		a, err := body[api.FDBAdd](r)
		if err != nil {
			return nil, err
		}
		return nil, d.addFDB(a)
	})
	change("DELETE", "/fdb/{mac}", func(r *http.Request) (any, error) { return nil, d.deleteFDB(r.PathValue("mac")) })
	change("DELETE", "/fdb", func(r *http.Request) (any, error) { return nil, d.flushFDB(r.URL.Query().Get("port")) })
	get("/neighbors", func(*http.Request) (any, error) { return d.neighView(), nil })
	change("POST", "/neighbors", func(r *http.Request) (any, error) {
		a, err := body[api.NeighborAdd](r)
		if err != nil {
			return nil, err
		}
		return nil, d.addNeighbor(a)
	})
	change("DELETE", "/neighbors/{dst}", func(r *http.Request) (any, error) { return nil, d.deleteNeighbor(r.PathValue("dst")) })
	change("DELETE", "/neighbors", func(*http.Request) (any, error) { d.flushNeighbors(); return nil, nil })
	get("/routes", func(*http.Request) (any, error) { return d.routeView(), nil })
	change("POST", "/routes", func(r *http.Request) (any, error) {
		a, err := body[api.RouteAdd](r)
		if err != nil {
			return nil, err
		}
		return nil, d.addRoute(a)
	})
	change("DELETE", "/routes", func(r *http.Request) (any, error) { return nil, d.deleteRoute(r.URL.Query().Get("dst")) })
	get("/flows/stats", func(*http.Request) (any, error) { return d.flowStatsView(), nil })
	get("/flows", func(r *http.Request) (any, error) {
		f, err := d.filterOf(r.URL.Query())
		if err != nil {
			return nil, err
		}
		limit, err := natural(r.URL.Query(), "limit")
		if err != nil {
			return nil, err
		}
		return d.flowsView(f, limit), nil
	})
	change("DELETE", "/flows", func(r *http.Request) (any, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		f, err := d.filterOf(r.URL.Query())
		if err != nil {
			return nil, err
		}
		n := d.dp.NAT.Flush(func(x nat.Flow) bool { v := d.flowView(x); return f.matches(&v) })
		return map[string]int{"deleted": n}, nil
	})
}

// filterOf reads what selects flows; what can match nothing is an error.
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

func (d *Daemon) publishRoutes(get getFunc, change changeFunc) {
	get("/publish", func(*http.Request) (any, error) {
		out := []api.Publish{}
		for _, r := range d.rules {
			out = append(out, d.publishView(r))
		}
		return out, nil
	})
	change("POST", "/publish", func(r *http.Request) (any, error) {
		a, err := body[api.PublishAdd](r)
		if err != nil {
			return nil, err
		}
		return d.addPublish(a)
	})
	change("DELETE", "/publish", func(r *http.Request) (any, error) {
		return nil, d.deletePublish(r.URL.Query().Get("host"))
	})
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
		status, v = e.Status, e
	}
	w.WriteHeader(status)
	if v == nil {
		v = struct{}{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may have gone
}

func (d *Daemon) addFDB(a api.FDBAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := frame.ParseMAC(a.MAC)
	if err != nil || m.IsGroup() {
		return api.Errorf(http.StatusBadRequest, "%q is not the MAC address of a station", a.MAC)
	}
	if a.State != "static" && a.State != "sticky" {
		return api.Errorf(http.StatusBadRequest, "state %q: say static or sticky", a.State)
	}
	p := d.ports[a.Port]
	if p == nil || p.net == nil {
		return noPort(a.Port)
	}
	if m == p.net.mac {
		return api.Errorf(http.StatusConflict, "MAC %s is the gateway's", m)
	}
	if !d.dp.Switch.FDB(p.net.id).Set(m, p.id, a.State == "sticky") {
		return api.Errorf(http.StatusConflict, "no place for %s: its bucket is full of static entries", m)
	}
	return nil
}

func (d *Daemon) deleteFDB(mac string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := frame.ParseMAC(mac)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, "%v", err)
	}
	for _, n := range d.networkList() {
		if h := d.ports[hostPort]; h != nil && h.mac == m {
			return api.Errorf(http.StatusConflict, "%s is the host port's own", m)
		}
		if d.dp.Switch.FDB(n.id).Delete(m) {
			return nil
		}
	}
	return api.Errorf(http.StatusNotFound, "%s is not in any table; `uvswitch fdb show`", m)
}

func (d *Daemon) flushFDB(port string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := frame.NoPort
	if port != "" {
		p := d.ports[port]
		if p == nil {
			return noPort(port)
		}
		id = p.id
	}
	for _, n := range d.networkList() {
		d.dp.Switch.FDB(n.id).Flush(id, false)
	}
	return nil
}
