package control

import (
	"net/http"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// A route is one request of the control API. The API's description is made of the same table (openapi.go).
type route struct {
	method, path, summary string
	query                 []param
	takes, gives          any   // zero values of the bodies' types; nil: none
	ndjson                bool  // gives is one line of a stream
	pcapng                bool  // a stream of that kind
	forRoot               bool  // though it changes nothing
	open                  bool  // to who may read, though it is no GET
	limit                 int64 // bytes of the body; 0: maxBody

	// One of these.
	view   func(r *http.Request) (any, error) // mu is held
	change func(r *http.Request) (any, error)
	stream http.HandlerFunc
}

// A param is a query parameter.
type param struct{ name, kind, text string }

var (
	flowParams = []param{{"src", "string", "original source, an address or a prefix"}, {"dst", "string", "original destination, likewise"}, {"proto", "string", "protocol"},
		{"port", "string", "the container's port, by name"}, {"sport", "integer", "original source port"}, {"dport", "integer", "original destination port"}, {"state", "string", "TCP state"}}
	captureParams = []param{{"port", "array", "ports, by name; none: all"}, {"filter", "string", "tcpdump's filter language"}}
)

// guestFlows is how many flows one request may list that is not root's: a million take seconds and a gigabyte.
const guestFlows = 2000

// with decodes the body for do.
func with[T any](do func(T) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		v, err := body[T](r)
		if err != nil {
			return nil, err
		}
		return do(v)
	}
}

// routes is the whole control API.
func (d *Daemon) routes() []route {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	list := []route{
		{method: get, path: "/status", summary: "The switch on one screen", gives: api.Status{}, view: func(*http.Request) (any, error) { return d.statusView(), nil }},
		{method: get, path: "/stats", summary: "Counters, drops by reason, and the account of every frame", gives: api.Stats{}, view: func(*http.Request) (any, error) { return d.statsView(), nil }},
		{method: get, path: "/reasons", summary: "Every drop reason, what it means and what to do", gives: []api.Reason{}, view: func(*http.Request) (any, error) { return reasonsView(), nil }},

		{method: get, path: "/networks", summary: "Networks", gives: []api.Network{}, view: func(*http.Request) (any, error) { return d.networksView(), nil }},
		{method: post, path: "/networks", summary: "Add a network", takes: api.NetworkAdd{}, change: with(func(a api.NetworkAdd) (any, error) { return nil, d.addNetwork(a) })},
		{method: del, path: "/networks/{name}", summary: "Remove a network without ports", change: func(r *http.Request) (any, error) { return nil, d.deleteNetwork(r.PathValue("name")) }},

		{method: get, path: "/ports", summary: "Ports", gives: []api.Port{}, view: func(*http.Request) (any, error) { return d.portsView(), nil }},
		{method: get, path: "/ports/{name}", summary: "One port", gives: api.Port{}, view: func(r *http.Request) (any, error) {
			p := d.ports[r.PathValue("name")]
			if p == nil {
				return nil, noPort(r.PathValue("name"))
			}
			return d.portView(p), nil
		}},
		{method: post, path: "/ports", summary: "Add a port: make a device in a namespace, plug one, or take over a TAP whose descriptor comes along (SCM_RIGHTS)", takes: api.PortAdd{}, gives: api.Port{}, change: func(r *http.Request) (any, error) {
			a, err := body[api.PortAdd](r)
			if err != nil {
				return nil, err
			}
			handed, err := handedWith(r)
			if err != nil {
				return nil, err
			}
			return d.addPort(a, handed)
		}},
		{method: patch, path: "/ports/{name}", summary: "Turn a port's knobs", takes: api.PortSet{}, change: func(r *http.Request) (any, error) {
			return with(func(s api.PortSet) (any, error) { return nil, d.setPort(r.PathValue("name"), s) })(r)
		}},
		{method: del, path: "/ports/{name}", summary: "Remove a port and what is published of it", change: func(r *http.Request) (any, error) { return nil, d.deletePort(r.PathValue("name")) }},

		{method: get, path: "/fdb", summary: "The forwarding database", gives: []api.FDBEntry{}, view: func(*http.Request) (any, error) { return d.fdbView(), nil }},
		{method: post, path: "/fdb", summary: "Add an entry that does not age", takes: api.FDBAdd{}, change: with(func(a api.FDBAdd) (any, error) { return nil, d.addFDB(a) })},
		{method: del, path: "/fdb/{mac}", summary: "Remove an entry", change: func(r *http.Request) (any, error) { return nil, d.deleteFDB(r.PathValue("mac")) }},
		{method: del, path: "/fdb", summary: "Forget what was learned", query: []param{{"port", "string", "only behind this port"}}, change: func(r *http.Request) (any, error) { return nil, d.flushFDB(r.URL.Query().Get("port")) }},
		{method: get, path: "/bridge", summary: "Networks as bridges", gives: []api.Bridge{}, view: func(*http.Request) (any, error) { return d.bridgeView(), nil }},

		{method: get, path: "/neighbors", summary: "The router's neighbors", gives: []api.Neighbor{}, view: func(*http.Request) (any, error) { return d.neighView(), nil }},
		{method: post, path: "/neighbors", summary: "Add a permanent neighbor", takes: api.NeighborAdd{}, change: with(func(a api.NeighborAdd) (any, error) { return nil, d.addNeighbor(a) })},
		{method: del, path: "/neighbors/{dst}", summary: "Forget a neighbor", change: func(r *http.Request) (any, error) { return nil, d.deleteNeighbor(r.PathValue("dst")) }},
		{method: del, path: "/neighbors", summary: "Forget what was learned", change: func(*http.Request) (any, error) { d.flushNeighbors(); return nil, nil }},
		{method: get, path: "/routes", summary: "The router's routes", gives: []api.Route{}, view: func(*http.Request) (any, error) { return d.routeView(), nil }},
		{method: post, path: "/routes", summary: "Add or replace a route", takes: api.RouteAdd{}, change: with(func(a api.RouteAdd) (any, error) { return nil, d.addRoute(a) })},
		{method: del, path: "/routes", summary: "Remove a route", query: []param{{"dst", "string", "its destination"}}, change: func(r *http.Request) (any, error) { return nil, d.deleteRoute(r.URL.Query().Get("dst")) }},

		{method: get, path: "/publish", summary: "Published ports", gives: []api.Publish{}, view: func(*http.Request) (any, error) { return d.publishedView(), nil }},
		{method: post, path: "/publish", summary: "Publish a port", takes: api.PublishAdd{}, gives: api.Publish{}, change: with(func(a api.PublishAdd) (any, error) { return d.addPublish(a) })},
		{method: del, path: "/publish", summary: "Take a published port back", query: []param{{"host", "string", "its host side, [ADDR:]PORT[-END][/PROTO]"}}, change: func(r *http.Request) (any, error) { return nil, d.deletePublish(r.URL.Query().Get("host")) }},

		{method: get, path: "/nat", summary: "Translation rules with their counters", gives: []api.NATRule{}, view: func(*http.Request) (any, error) { return d.natView(), nil }},
		{method: get, path: "/nat/settings", summary: "Windows and time-outs", gives: api.NATSettings{}, view: func(*http.Request) (any, error) { return d.natSettings(), nil }},
		{method: get, path: "/nat/ports", summary: "Outside ports in use, and who holds them", gives: []api.PortUse{}, view: func(*http.Request) (any, error) { return d.portUseView(), nil }},
		{method: get, path: "/flows", summary: "Tracked connections", query: append([]param{{"limit", "integer", "how many at most; 0: all (2000, for who is not root)"}}, flowParams...), gives: []api.Flow{}, view: func(r *http.Request) (any, error) {
			f, err := d.filterOf(r.URL.Query())
			if err != nil {
				return nil, err
			}
			limit, err := natural(r.URL.Query(), "limit")
			if err != nil {
				return nil, err
			}
			if !mayChange(r) && (limit == 0 || limit > guestFlows) {
				limit = guestFlows
			}
			return d.flowsView(f, limit), nil
		}},
		{method: get, path: "/flows/stats", summary: "Flows by state, and how they ended", gives: api.FlowStats{}, view: func(*http.Request) (any, error) { return d.flowStatsView(), nil }},
		{method: get, path: "/flows/events", summary: "Flows as they come and go", query: flowParams, gives: api.FlowEvent{}, ndjson: true, stream: d.serveFlowEvents},
		{method: del, path: "/flows", summary: "End the flows that match; all, without a parameter", query: flowParams, gives: api.Deleted{}, change: func(r *http.Request) (any, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			f, err := d.filterOf(r.URL.Query())
			if err != nil {
				return nil, err
			}
			n := d.dp.NAT.Flush(func(x nat.Flow) bool { v := d.flowView(x); return f.matches(&v) })
			return api.Deleted{Deleted: n}, nil
		}},

		{method: post, path: "/trace", summary: "What would happen to a packet, and why; nothing is changed", takes: api.TraceRequest{}, gives: api.Trace{}, open: true, limit: 4 * maxBody, change: with(func(q api.TraceRequest) (any, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.trace(q)
		})},
		{method: get, path: "/monitor", summary: "What becomes of frames, and why", query: append([]param{{"verdict", "string", "forwarded, flooded, consumed or dropped"}, {"reason", "string", "a drop reason"}, {"last", "integer", "begin with so many of the last drops"}, {"follow", "string", "0: end after those"}}, captureParams...), gives: api.Verdict{}, ndjson: true, stream: d.serveMonitor},
		{method: get, path: "/capture", summary: "Frames as they come and go", query: append([]param{{"count", "integer", "end after so many packets"}, {"snap", "integer", "bytes of each frame; 0: all"}, {"dir", "string", "in, out or both"}, {"drops", "string", "1: only what is dropped"}, {"split", "string", "1: super-frames as a wire would carry them"}}, captureParams...), pcapng: true, forRoot: true, stream: d.serveCapture},

		{method: post, path: "/reload", summary: "Make the switch what a configuration file says, all or nothing", takes: api.ReloadRequest{}, gives: api.Reload{}, limit: 16 * maxBody, change: with(func(q api.ReloadRequest) (any, error) {
			o, err := d.opts.Load([]byte(q.File))
			if err != nil {
				return nil, api.Errorf(http.StatusBadRequest, "%v", err)
			}
			return d.Reload(o, q.Dry)
		})},
	}
	return append(list, route{method: get, path: "/openapi.json", summary: "This description", gives: map[string]any{}, view: func(*http.Request) (any, error) { return describeAPI(d.routes()), nil }})
}
