package apiserver

import (
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/explain"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
)

// A route is one call of the control API. The same table makes the API's description (openapi.go).
type route struct {
	method, path, summary string
	query                 []param
	takes, gives          any   // zero values of the bodies' types; nil: none
	ndjson                bool  // gives is one line of a stream
	pcapng                bool  // a stream of that kind
	forRoot               bool  // for root only, although it is a GET
	open                  bool  // for every reader, although it is not a GET
	costly                bool  // few at a time: see turns
	private               bool  // shows what containers send, and to whom: not for strangers (see web.Token)
	limit                 int64 // bytes of the body; 0: maxBody

	// One of these.
	view   func(v *view, r *http.Request) (any, error)
	change func(s *Server, r *http.Request) (any, error)
	stream func(s *Server, w http.ResponseWriter, r *http.Request)
}

// A param is a query parameter.
type param struct{ name, kind, text string }

var (
	flowParams = []param{{"family", "string", "ipv4 or ipv6"}, {"src", "string", "original source: an address or a prefix"}, {"dst", "string", "original destination: an address or a prefix"}, {"proto", "string", "protocol"},
		{"port", "string", "name of the container's port on the switch"}, {"sport", "integer", "original source port"}, {"dport", "integer", "original destination port"}, {"state", "string", "TCP state"}}
	familyParam   = []param{{"family", "string", "ipv4 or ipv6; without this parameter: both"}}
	captureParams = []param{{"port", "array", "names of ports; without this parameter: all ports"}, {"filter", "string", "a filter in tcpdump's language"}}
)

// guestFlows limits the flows in an answer to a client that is not root: a million flows take seconds and a gigabyte.
const guestFlows = 2000

// with makes a handler that decodes the body of the request and calls do.
func with[T any](do func(*Server, T) (any, error)) func(*Server, *http.Request) (any, error) {
	return func(s *Server, r *http.Request) (any, error) {
		v, err := decode[T](r)
		if err != nil {
			return nil, err
		}
		return do(s, v)
	}
}

// show is a view that needs nothing of the request.
func show[T any](of func(*view) T) func(*view, *http.Request) (any, error) {
	return func(v *view, _ *http.Request) (any, error) { return of(v), nil }
}

// named is a change of the object that the path names.
func named(change func(s *Server, name string) error) func(*Server, *http.Request) (any, error) {
	return func(s *Server, r *http.Request) (any, error) { return nil, change(s, r.PathValue("name")) }
}

// asked makes a handler that passes the value of one query parameter to change.
func asked(param string, change func(s *Server, value string) error) func(*Server, *http.Request) (any, error) {
	return func(s *Server, r *http.Request) (any, error) { return nil, change(s, r.URL.Query().Get(param)) }
}

// routeTable is the whole control API.
func routeTable() []route {
	const get, post, patch, del = http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete
	return []route{
		{method: get, path: "/status", summary: "The state of the switch", gives: api.Status{}, view: show((*view).status)},
		{method: get, path: "/stats", summary: "Counters, drops by reason, and the balance of all frames", gives: api.Stats{}, view: show((*view).stats)},
		{method: get, path: "/problems", summary: "What does not work now, as far as the switch can see it, and what to do", gives: []api.Problem{}, private: true, costly: true, change: listProblems},
		{method: get, path: "/history", summary: "Rates of the last ten minutes: of all ports together, of ports, and of drops by reason", gives: api.History{},
			query: []param{{"port", "array", "names of ports; without this parameter: none"}},
			view:  func(v *view, r *http.Request) (any, error) { return v.history.View(r.URL.Query()["port"]), nil }},
		{method: get, path: "/reasons", summary: "Every drop reason: its meaning and its remedy", gives: []api.Reason{}, view: show((*view).reasons)},

		{method: get, path: "/networks", summary: "Networks", gives: []api.Network{}, view: show((*view).networks)},
		{method: post, path: "/networks", summary: "Add a network", takes: api.NetworkAdd{},
			change: with(func(s *Server, a api.NetworkAdd) (any, error) { return nil, s.d.AddNetwork(a) })},
		{method: patch, path: "/networks/{name}", summary: "Change settings of a network; keys that are missing keep their values", takes: api.NetworkAdd{}, change: setNetwork},
		{method: del, path: "/networks/{name}", summary: "Remove a network that has no ports",
			change: named(func(s *Server, name string) error { return s.d.DeleteNetwork(name) })},

		{method: get, path: "/ports", summary: "Ports", gives: []api.Port{}, view: show((*view).ports)},
		{method: get, path: "/ports/{name}", summary: "One port", gives: api.Port{}, view: (*view).onePort},
		{method: post, path: "/ports", summary: "Add a port: create a device in a namespace, plug an existing device, or take a TAP whose descriptor comes with the request (SCM_RIGHTS)",
			takes: api.PortAdd{}, gives: api.Port{}, change: addPort},
		{method: patch, path: "/ports/{name}", summary: "Change settings of a port", takes: api.PortSet{}, change: setPort},
		{method: post, path: "/ports/{name}/rename", summary: "Give a port another name", takes: api.PortRename{}, change: renamePort},
		{method: del, path: "/ports/{name}", summary: "Remove a port and its published ports",
			change: named(func(s *Server, name string) error { return s.d.DeletePort(name) })},

		{method: get, path: "/fdb", summary: "The forwarding database", gives: []api.FDBEntry{}, view: show((*view).fdb)},
		{method: post, path: "/fdb", summary: "Add a static or sticky entry, which never expires", takes: api.FDBAdd{},
			change: with(func(s *Server, a api.FDBAdd) (any, error) { return nil, s.d.AddFDB(a) })},
		{method: del, path: "/fdb/{mac}", summary: "Remove an entry",
			change: func(s *Server, r *http.Request) (any, error) { return nil, s.d.DeleteFDB(r.PathValue("mac")) }},
		{method: del, path: "/fdb", summary: "Forget learned entries", query: []param{{"port", "string", "only the entries of this port"}},
			change: asked("port", func(s *Server, port string) error { return s.d.FlushFDB(port) })},
		{method: get, path: "/bridge", summary: "The networks, shown as bridges", gives: []api.Bridge{}, view: (*view).bridges,
			query: []param{{"network", "string", "only this network"}}},

		{method: get, path: "/neighbors", summary: "The router's neighbors", gives: []api.Neighbor{}, query: familyParam, view: (*view).neighbors},
		{method: get, path: "/neighbors/unanswered", summary: "Addresses for which stations have asked in the last minute, by ARP or neighbor discovery, and nobody has answered",
			gives: []api.Unanswered{}, private: true, view: show(func(v *view) []api.Unanswered { return v.unanswered(v.ports(), v.networks()) })},
		{method: post, path: "/neighbors", summary: "Add a permanent neighbor", takes: api.NeighborAdd{},
			change: with(func(s *Server, a api.NeighborAdd) (any, error) { return nil, s.d.AddNeighbor(a) })},
		{method: del, path: "/neighbors/{dst}", summary: "Remove a neighbor",
			change: func(s *Server, r *http.Request) (any, error) { return nil, s.d.DeleteNeighbor(r.PathValue("dst")) }},
		{method: del, path: "/neighbors", summary: "Forget learned neighbors",
			change: func(s *Server, _ *http.Request) (any, error) { return nil, s.d.FlushNeighbors() }},
		{method: get, path: "/routes", summary: "The router's routes", gives: []api.Route{}, query: familyParam, view: (*view).routes},
		{method: get, path: "/routes/get/{dst}", summary: "Where a packet to an address goes, by which device, and why", gives: api.Way{}, view: (*view).way,
			query: []param{{"src", "string", "address of a container (the host may route by it)"}}},
		{method: post, path: "/routes", summary: "Add or replace a route", takes: api.RouteAdd{},
			change: with(func(s *Server, a api.RouteAdd) (any, error) { return nil, s.d.AddRoute(a) })},
		{method: del, path: "/routes", summary: "Remove a route", query: []param{{"dst", "string", "destination of the route"}},
			change: asked("dst", func(s *Server, dst string) error { return s.d.DeleteRoute(dst) })},

		{method: get, path: "/leases", summary: "Addresses that stations have got by DHCP", gives: []api.Lease{}, view: (*view).leases,
			query: []param{{"network", "string", "only leases of this network"}, {"port", "string", "only leases of stations behind this port"}}},
		{method: del, path: "/leases/{address}", summary: "End a lease before its time",
			change: func(s *Server, r *http.Request) (any, error) { return nil, s.d.DeleteLease(r.PathValue("address")) }},
		{method: get, path: "/names", summary: "Names that the gateways answer for", gives: []api.Name{}, view: show((*view).names)},
		{method: post, path: "/names", summary: "Give a network a name, until the switch ends", takes: api.NameAdd{},
			change: with(func(s *Server, a api.NameAdd) (any, error) { return nil, s.d.AddName(a) })},
		{method: del, path: "/names", summary: "Remove a name that was added by hand",
			query: []param{{"name", "string", "name inside the network's zone"}, {"network", "string", "name of the network; default when empty"}, {"address", "string", "one address of the name; all when empty"}},
			change: func(s *Server, r *http.Request) (any, error) {
				q := r.URL.Query()
				return nil, s.d.DeleteName(api.NameAdd{Network: q.Get("network"), Name: q.Get("name"), Address: q.Get("address")})
			}},

		{method: get, path: "/policies", summary: "Policies: their rules, what the rules have done, and to what the policies are attached", gives: []api.Policy{}, view: show((*view).policies)},
		{method: post, path: "/policies", summary: "Make a policy, or replace all of its rules", takes: api.PolicyAdd{}, limit: 16 * maxBody,
			change: with(func(s *Server, a api.PolicyAdd) (any, error) { return nil, s.d.SetPolicy(a) })},
		{method: del, path: "/policies/{name}", summary: "Remove a policy that is attached to nothing",
			change: named(func(s *Server, name string) error { return s.d.DeletePolicy(name) })},
		{method: post, path: "/policies/{name}/rules", summary: "Add a rule to a policy, which is made if it does not exist", takes: api.PolicyRuleAdd{}, gives: api.Policy{}, change: addPolicyRule},
		{method: del, path: "/policies/{name}/rules/{number}", summary: "Remove a rule from a policy; 1 is the first", change: deletePolicyRule},
		{method: post, path: "/policies/{name}/attach", summary: "Attach a policy to a port, or to all ports of a network", takes: api.PolicyAttach{}, change: attachPolicy(true)},
		{method: post, path: "/policies/{name}/detach", summary: "Detach a policy", takes: api.PolicyAttach{}, change: attachPolicy(false)},
		{method: post, path: "/policy-test", summary: "Say whether a port may begin a flow, and why; nothing is changed", takes: api.PolicyTest{}, gives: api.PolicyTestResult{}, open: true, costly: true, private: true,
			change: with(policyTest)},
		{method: get, path: "/policy-refusals", summary: "Names for which ports have asked, and that their policies do not allow; the last one first", gives: []api.PolicyRefusal{}, private: true, view: show((*view).policyRefusals)},
		{method: get, path: "/ports/{name}/names", summary: "Names for which a port with policies has asked, with the addresses of the answers", gives: []api.LearnedName{}, private: true, view: (*view).learnedNames},

		{method: get, path: "/publish", summary: "Published ports", gives: []api.Publish{}, view: show((*view).publishes)},
		{method: post, path: "/publish", summary: "Publish a port", takes: api.PublishAdd{}, gives: api.Publish{}, change: with(publish)},
		{method: del, path: "/publish", summary: "End a published port", query: []param{{"host", "string", "host side of the published port: [ADDR:]PORT[-END][/PROTO]"}},
			change: asked("host", func(s *Server, host string) error { return s.d.DeletePublish(host) })},

		{method: patch, path: "/nat", summary: "Change which ports of the host NAT may give out, until the next reload", takes: api.NATSet{},
			change: with(func(s *Server, a api.NATSet) (any, error) { return nil, s.d.SetNATPorts(a.Ports) })},
		{method: get, path: "/nat", summary: "NAT rules with their counters", gives: []api.NATRule{}, view: show((*view).natRules)},
		{method: get, path: "/nat/settings", summary: "The check of TCP windows, and the timeouts", gives: api.NATSettings{}, view: show((*view).natSettings)},
		{method: get, path: "/nat/ports", summary: "Outside ports in use, by the ports of the switch that hold them", gives: []api.PortUse{}, view: show((*view).portUse)},
		{method: get, path: "/flows", summary: "Flows: the tracked connections", gives: []api.Flow{}, view: (*view).flowList, costly: true, private: true,
			query: append([]param{{"limit", "integer", "at most so many; 0: all (2000 for a reader that is not root)"}}, flowParams...)},
		{method: get, path: "/flows/stats", summary: "Flows by state, and how flows ended", gives: api.FlowStats{}, view: show((*view).flowStats), costly: true},
		{method: get, path: "/events", summary: "What has happened to the switch, and what happens: ports, networks, policies, leases, refusals",
			query: []param{{"since", "string", "events since a time (RFC 3339), or since so long ago (10m)"}, {"until", "string", "likewise: the end"},
				{"filter", "array", "KEY=VALUE; the keys are event, action, network, port, name and reason"}, {"follow", "string", "0: end after those that are remembered"}},
			gives: api.Event{}, ndjson: true, private: true, stream: (*Server).streamEvents},
		{method: get, path: "/flows/events", summary: "Flows as they begin, change and end", query: flowParams, gives: api.FlowEvent{}, ndjson: true, private: true, stream: (*Server).streamFlowEvents},
		{method: del, path: "/flows", summary: "End the flows that match; all flows without a parameter", query: flowParams, gives: api.Deleted{}, change: deleteFlows, costly: true},

		{method: post, path: "/trace", summary: "Trace a packet: what would happen to it, and why; nothing is changed", takes: api.TraceRequest{}, gives: api.Trace{}, open: true, costly: true, private: true, limit: 4 * maxBody,
			change: with(trace)},
		{method: post, path: "/layers", summary: "The headers of a frame, with their fields", takes: api.LayersRequest{}, gives: []api.Layer{}, open: true, costly: true, private: true, limit: 4 * maxBody,
			change: with(layersOf)},
		{method: get, path: "/monitor", summary: "Frames with their verdicts, live, and the reason of each drop", gives: api.Verdict{}, ndjson: true, private: true, stream: (*Server).streamMonitor,
			query: append([]param{{"verdict", "string", "forwarded, flooded, consumed or dropped"}, {"reason", "string", "a drop reason"},
				{"last", "integer", "print this many of the last drops first"}, {"follow", "string", "0: end after the last drops"}, {"bytes", "string", "1: with the first bytes of each frame"}}, captureParams...)},
		{method: get, path: "/capture", summary: "Frames as they arrive and leave", pcapng: true, forRoot: true, private: true, stream: (*Server).streamCapture,
			query: append([]param{{"count", "integer", "end after this many packets"}, {"snap", "integer", "capture only this many bytes of each frame; 0: all"}, {"dir", "string", "in, out or both"},
				{"drops", "string", "1: only dropped frames"}, {"split", "string", "1: split super-frames into the frames that a wire would carry"}}, captureParams...)},

		{method: get, path: "/web", summary: "The address of the live page, with its token", gives: api.WebPage{}, private: true, change: (*Server).webPage},
		{method: post, path: "/reload", summary: "Apply a configuration file, completely or not at all", takes: api.ReloadRequest{}, gives: api.Reload{}, limit: 16 * maxBody,
			change: with(reload)},
		{method: get, path: "/openapi.json", summary: "This description", gives: map[string]any{},
			view: func(*view, *http.Request) (any, error) { return OpenAPI(), nil }},
	}
}

func addPolicyRule(s *Server, r *http.Request) (any, error) {
	a, err := decode[api.PolicyRuleAdd](r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if err := s.d.AddPolicyRule(name, a.Rule); err != nil {
		return nil, err
	}
	all := s.view().policies()
	return all[slices.IndexFunc(all, func(p api.Policy) bool { return p.Name == name })], nil
}

func deletePolicyRule(s *Server, r *http.Request) (any, error) {
	n, err := strconv.Atoi(r.PathValue("number"))
	if err != nil {
		return nil, badRequest("%q is not the number of a rule; `uvswitch policy show NAME` numbers the rules of a policy", r.PathValue("number"))
	}
	return nil, s.d.DeletePolicyRule(r.PathValue("name"), n)
}

func attachPolicy(attach bool) func(*Server, *http.Request) (any, error) {
	return func(s *Server, r *http.Request) (any, error) {
		a, err := decode[api.PolicyAttach](r)
		if err != nil {
			return nil, err
		}
		return nil, s.d.AttachPolicy(r.PathValue("name"), a, attach)
	}
}

func addPort(s *Server, r *http.Request) (any, error) {
	a, err := decode[api.PortAdd](r)
	if err != nil {
		return nil, err
	}
	byFD, err := tapOf(r)
	if err != nil {
		return nil, err
	}
	p, err := s.d.AddPort(a, byFD)
	if err != nil {
		return nil, err
	}
	return s.view().port(&p, s.d.PortStatuses(p.Name)[p.Name]), nil
}

func setNetwork(s *Server, r *http.Request) (any, error) {
	return nil, s.d.SetNetwork(r.PathValue("name"), func(a *api.NetworkAdd) error { return decodeInto(r, a) })
}

func setPort(s *Server, r *http.Request) (any, error) {
	set, err := decode[api.PortSet](r)
	if err != nil {
		return nil, err
	}
	return nil, s.d.SetPort(r.PathValue("name"), set)
}

func renamePort(s *Server, r *http.Request) (any, error) {
	to, err := decode[api.PortRename](r)
	if err != nil {
		return nil, err
	}
	return nil, s.d.RenamePort(r.PathValue("name"), to)
}

func publish(s *Server, a api.PublishAdd) (any, error) {
	p, err := s.d.AddPublish(a)
	if err != nil {
		return nil, err
	}
	return s.view().publish(&p), nil
}

func deleteFlows(s *Server, r *http.Request) (any, error) {
	v := s.view()
	f, err := parseFlowFilter(r.URL.Query(), v.State)
	if err != nil {
		return nil, err
	}
	n := s.dp.NAT.Flush(f.matches)
	return api.Deleted{Deleted: n}, nil
}

// layersOf decodes a frame. Nothing of the switch is in the answer.
func layersOf(_ *Server, q api.LayersRequest) (any, error) {
	data, err := hex.DecodeString(q.Hex)
	if err != nil {
		return nil, badRequest("hex: %v", err)
	}
	return explain.Layers(data), nil
}

func trace(s *Server, q api.TraceRequest) (any, error) {
	states := s.d.PortStatuses() // before the trace: it runs on a worker, where nothing may wait
	return explain.Trace(explain.Switch{
		State: s.d.State(), Dataplane: s.dp, Claims: s.d.UplinkClaims, UplinkMAC: uplink.RouterMAC,
		Way6: func(inside uint32, t frame.Tuple6, class uint8) (explain.Way, error) {
			if a := s.d.InsideAt(inside); !a.IsZero() {
				t.Src = a
			}
			w, err := s.d.Way6(t, class)
			return wayOf(w), err
		},
		Way: func(t frame.Tuple, class uint8) (explain.Way, error) {
			w, err := s.d.Way(t, class)
			return wayOf(w), err
		},
		Refusal: func(f *frame.Frame) (why, remedy string, ok bool) {
			r, ok := s.d.ExplainRefusal(f)
			return r.Why, r.Remedy, ok
		},
		NoSocket: s.d.SocketRefusal,
		IsDown:   func(port string) bool { return states[port].State == daemon.Down },
	}, q)
}

func wayOf(w uplink.Way) explain.Way {
	return explain.Way{Code: w.Code, Device: w.Device, NextHop: w.NextHop, Source: w.Source, MTU: w.MTU, Socket: w.Socket}
}

func reload(s *Server, q api.ReloadRequest) (any, error) {
	done, err := s.reload(q.File, q.Dry)
	if done.Changes == nil {
		done.Changes = []string{}
	}
	return done, err
}
