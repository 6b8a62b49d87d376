package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// The same rules are judged by uvswitch and, in another bed, by nftables in a router between the same addresses. The same flows are tried in
// both.

// A place is an end of flows: an address of each family in a namespace.
type place struct {
	name, ns  string
	four, six netip.Addr
}

// A tried flow is one that is begun in both beds.
type triedFlow struct {
	from, to  *place
	v6        bool
	proto     string // tcp, udp, icmp
	port      int    // of the destination
	published bool   // it goes to a published port of the host, in the bed of uvswitch
}

func (f triedFlow) String() string {
	s := fmt.Sprintf("%s -> %s %s", f.from.name, f.to.name, f.proto)
	if f.port != 0 {
		s += fmt.Sprintf("/%d", f.port)
	}
	if f.published {
		s += ", published"
	}
	if f.v6 {
		return s + ", IPv6"
	}
	return s + ", IPv4"
}

func (f triedFlow) addrs() (src, dst netip.Addr) {
	if f.v6 {
		return f.from.six, f.to.six
	}
	return f.from.four, f.to.four
}

// Outcomes of a flow. Others are the texts of errors.
const (
	answered   = "answered"
	closedPort = "port closed"
	prohibited = "prohibited" // ICMP 3/13, ICMPv6 1/1
	silent     = "silent"
)

// A try is a flow with its addresses in a bed.
type try struct {
	v6       bool
	proto    string
	src, dst netip.AddrPort // the source port of icmp is the identifier
	outcome  string

	fd  int
	end time.Time // when it counts as silent
}

const (
	pace     = 2 * time.Millisecond // between two flows: the switch limits the rate of ICMP errors
	waitOnce = 400 * time.Millisecond
	waitMore = 1500 * time.Millisecond
)

// run tries flows from one namespace, the i-th at start + at[i].
func run(path string, tries []*try, at []time.Duration, start time.Time, wait time.Duration) error {
	return netns.Do(path, func() error {
		var open []*try
		defer func() {
			for _, x := range open {
				unix.Close(x.fd)
			}
		}()
		for next := 0; next < len(tries) || len(open) > 0; {
			now := time.Now()
			for ; next < len(tries) && !start.Add(at[next]).After(now); next++ {
				x := tries[next]
				if err := x.begin(); err != nil {
					x.outcome = outcomeOf(err, x.v6)
					continue
				}
				x.end = now.Add(wait)
				open = append(open, x)
			}
			open = slices.DeleteFunc(open, func(x *try) bool {
				if x.outcome == "" && now.After(x.end) {
					if x.hear(); x.outcome == "" {
						x.outcome = silent
					}
				}
				if x.outcome != "" {
					unix.Close(x.fd)
				}
				return x.outcome != ""
			})
			until := now.Add(wait)
			if len(open) > 0 {
				until = open[0].end
			}
			if next < len(tries) && start.Add(at[next]).Before(until) {
				until = start.Add(at[next])
			}
			fds := make([]unix.PollFd, len(open))
			for i, x := range open {
				fds[i] = unix.PollFd{Fd: int32(x.fd), Events: unix.POLLIN}
				if x.proto == "tcp" {
					fds[i].Events = unix.POLLOUT
				}
			}
			if _, err := unix.Poll(fds, max(0, int(time.Until(until).Milliseconds()+1))); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			for i, x := range open {
				if fds[i].Revents != 0 {
					x.hear()
				}
			}
		}
		return nil
	})
}

// begin sends the first packet of a flow.
func (x *try) begin() (err error) {
	family, kind, proto := unix.AF_INET, unix.SOCK_DGRAM, 0
	if x.v6 {
		family = unix.AF_INET6
	}
	switch {
	case x.proto == "tcp":
		kind = unix.SOCK_STREAM
	case x.proto == "icmp" && x.v6:
		proto = unix.IPPROTO_ICMPV6
	case x.proto == "icmp":
		proto = unix.IPPROTO_ICMP
	}
	if x.fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Close(x.fd)
		}
	}()
	switch {
	case x.v6:
		err = unix.SetsockoptInt(x.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	default:
		err = unix.SetsockoptInt(x.fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	if err == nil && x.proto == "tcp" {
		err = unix.SetsockoptLinger(x.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	if err != nil {
		return err
	}
	if err = unix.Bind(x.fd, sockaddr(x.src)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err = unix.Connect(x.fd, sockaddr(x.dst)); x.proto == "tcp" {
		if errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	message := []byte("question")
	if x.proto == "icmp" {
		message[0] = 8 // echo request; the kernel writes the checksum and the identifier
		if x.v6 {
			message[0] = 128
		}
		clear(message[1:])
	}
	_, err = unix.Write(x.fd, message)
	return err
}

// hear notes what has come back.
func (x *try) hear() {
	if x.proto == "tcp" {
		errno, err := unix.GetsockoptInt(x.fd, unix.SOL_SOCKET, unix.SO_ERROR) // also an ICMP error that came while connect had the socket
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		} else if _, peer := unix.Getpeername(x.fd); peer != nil { // the kernel may wake us before it notes the error
			return
		}
		x.outcome = outcomeOf(err, x.v6)
		return
	}
	_, _, err := unix.Recvfrom(x.fd, make([]byte, 100), 0)
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	x.outcome = outcomeOf(err, x.v6)
}

func outcomeOf(err error, v6 bool) string {
	switch {
	case err == nil:
		return answered
	case errors.Is(err, unix.ECONNREFUSED):
		return closedPort
	case !v6 && errors.Is(err, unix.EHOSTUNREACH), v6 && errors.Is(err, unix.EACCES):
		return prohibited
	}
	return err.Error()
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// A matrix is both beds with their flows.
type matrix struct {
	b        *Bed
	places   map[string]*place
	flows    []triedFlow
	builtin  []api.Policy
	lastPort uint16 // source port of the last flow: each has another one, so that no flow is known already
	repeated int
}

// kernelNS is the namespace in the bed of nftables that stands for one of uvswitch's.
func kernelNS(ns string) string { return "k-" + ns }

// Ports on which the namespaces answer, and those that nobody has opened.
var (
	openPorts   = map[string][]int{"tcp": {22, 80, 8005}, "udp": {53, 5000}}
	closedPorts = map[string][]int{"tcp": {9}, "udp": {9}}
)

// publishedBase is added to a port of a container where it is published.
var publishedBase = map[string]int{"a": 11000, "b": 21000, "c": 31000}

// list fills in the flows: each place from which flows begin, to each other one.
func (m *matrix) list() {
	containers := []string{"a", "b", "c"}
	all := func(from, to string, v6, published bool) {
		f := triedFlow{from: m.places[from], to: m.places[to], v6: v6, published: published}
		for _, proto := range []string{"tcp", "udp"} {
			for _, port := range slices.Concat(openPorts[proto], closedPorts[proto]) {
				f.proto, f.port = proto, port
				if to == "gateway" && port != 22 && port != 5000 { // it has a name server at 53
					continue
				}
				m.flows = append(m.flows, f)
			}
		}
		if f.proto, f.port = "icmp", 0; !published {
			m.flows = append(m.flows, f)
		}
	}
	for _, v6 := range []bool{false, true} {
		for _, from := range containers {
			for _, to := range append([]string{"host", "host outside", "out", "far", "gateway"}, containers...) {
				if from != to {
					all(from, to, v6, false)
				}
			}
		}
		for _, to := range containers {
			all("host", to, v6, false)
			for _, from := range []string{"out", "far"} {
				all(from, to, v6, !v6 || to == "c") // else the network lets the outside in: in6
			}
		}
		all("a", "b", v6, true)
		all("a", "c", v6, true)
		all("c", "a", v6, true)
	}
	all("a", "metadata", false, false)
	all("b", "metadata", false, false)
	all("c", "metadata", false, false)
	slices.SortStableFunc(m.flows, func(x, y triedFlow) int { return x.port - y.port }) // mixes the senders
}

// play tries flows in both beds at once, and returns their outcomes.
func (m *matrix) play(flows []triedFlow, wait time.Duration) (ours, kernels []string) {
	m.b.t.Helper()
	type course struct {
		tries []*try
		at    []time.Duration
	}
	of := map[string]*course{}
	var both [2][]*try
	for i, f := range flows {
		if m.lastPort++; m.lastPort < 41000 || m.lastPort >= 65500 {
			m.lastPort = 41000
		}
		src, dst := f.addrs()
		for bed := range both {
			x := &try{v6: f.v6, proto: f.proto, src: netip.AddrPortFrom(src, m.lastPort), dst: netip.AddrPortFrom(dst, uint16(f.port))}
			ns := f.from.ns
			switch {
			case bed == 1:
				ns = kernelNS(ns)
			case f.published && f.v6:
				x.dst = netip.AddrPortFrom(m.places["host outside"].six, uint16(publishedBase[f.to.name]+f.port))
			case f.published:
				x.dst = netip.AddrPortFrom(m.places["host outside"].four, uint16(publishedBase[f.to.name]+f.port))
			}
			if of[ns] == nil {
				of[ns] = &course{}
			}
			of[ns].tries, of[ns].at = append(of[ns].tries, x), append(of[ns].at, time.Duration(i)*pace)
			both[bed] = append(both[bed], x)
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for ns, c := range of {
		wg.Go(func() {
			if err := run(m.b.path(ns), c.tries, c.at, start, wait); err != nil {
				m.b.t.Errorf("in %s: %v", ns, err)
			}
		})
	}
	wg.Wait()
	for i := range flows {
		ours, kernels = append(ours, both[0][i].outcome), append(kernels, both[1][i].outcome)
	}
	return ours, kernels
}

// compare tries all flows. A flow that only one bed leaves without an answer is tried again, with more time: a busy machine is late, and ICMP
// errors have a rate.
func (m *matrix) compare() (ours, kernels []string) {
	m.b.t.Helper()
	ours, kernels = m.play(m.flows, waitOnce)
	for range 3 {
		var again []triedFlow
		var which []int
		for i, f := range m.flows {
			if ours[i] != kernels[i] && (ours[i] == silent || kernels[i] == silent) && intendedFor(f, ours[i]) == "" {
				again, which = append(again, f), append(which, i)
			}
		}
		if len(again) == 0 {
			break
		}
		m.repeated += len(again)
		x, y := m.play(again, waitMore)
		for j, i := range which {
			ours[i], kernels[i] = x[j], y[j]
		}
	}
	return ours, kernels
}

// respond opens the open ports of a namespace. Answers over UDP have the address that was asked.
func (m *matrix) respond(ns, to string) {
	m.b.t.Helper()
	err := netns.Do(m.b.path(to), func() error {
		for _, port := range openPorts["tcp"] {
			l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)) // the kernel answers, nobody need accept
			if err != nil {
				return err
			}
			m.b.t.Cleanup(func() { l.Close() })
		}
		for _, p := range m.places {
			for _, a := range []netip.Addr{p.four, p.six} {
				if p.ns != ns || !a.IsValid() {
					continue
				}
				for _, port := range openPorts["udp"] {
					c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port))))
					if err != nil {
						return err
					}
					m.b.t.Cleanup(func() { c.Close() })
					go func() {
						buf := make([]byte, 100)
						for {
							n, from, err := c.ReadFromUDPAddrPort(buf)
							if errors.Is(err, net.ErrClosed) {
								return
							}
							if err == nil {
								_, _ = c.WriteToUDPAddrPort(buf[:n], from)
							}
						}
					}()
				}
			}
		}
		return nil
	})
	if err != nil {
		m.b.t.Fatalf("in %s: %v", to, err)
	}
}

// Networks of the switch. The first one lets the outside begin everything over IPv6, and the other one is masqueraded.
var policyNetworks = map[string][2]string{"default": {"172.29.0.0/16", "2001:db8:29::/64"}, "two": {"172.30.0.0/24", "fd00:30::/64"}}

var networkOf = map[string]string{"a": "default", "b": "default", "c": "two"}

// A ruleSet is policies, each attached to ports and networks. The builtin ones have no rules here.
type ruleSet struct {
	name     string
	policies []attached
}

type attached struct {
	to    string // ports, and networks as network:NAME, separated by commas
	rules []string
	named string // a builtin policy
}

func rules(to string, lines ...string) attached { return attached{to: to, rules: lines} }

// ruleSets are what is judged. Each must let some flows pass and refuse others.
var ruleSets = []ruleSet{
	{"subnets with a port", []attached{rules("a", "egress allow 10.1.0.0/24 tcp/80", "egress allow 2001:db8:1::/64 tcp/80", "egress allow 172.29.0.3 udp/53")}},
	{"ranges of ports", []attached{rules("c", "ingress allow any tcp/8000-8010", "ingress allow any udp/50-60,4999-5000"), rules("b", "egress allow tcp/1-79,8005", "egress allow udp/9-53")}},
	{"protocols", []attached{rules("network:default", "egress allow tcp", "ingress allow udp")}},
	{"protocols by number", []attached{rules("a", "egress allow 17", "egress drop 6"), rules("c", "ingress allow 1", "ingress allow inside 6")}},
	{"icmp", []attached{rules("a", "egress allow icmp"), rules("b,c", "ingress allow any icmp", "ingress drop tcp/80")}},
	{"overlaps", []attached{rules("a", "egress allow any", "egress reject 10.1.0.0/24 tcp", "egress drop 10.1.0.2 tcp/80", "egress allow 10.1.0.2 tcp/80", "egress drop inside udp/53", "egress reject udp", "egress reject 2001:db8::/32 tcp/22-80", "egress drop 2001:db8:29::/64 tcp/80-8005"),
		rules("c", "ingress allow 0.0.0.0/0", "ingress drop 172.29.0.2 tcp/22", "ingress reject 172.29.0.0/30 tcp/22-80", "ingress allow ::/0 udp", "ingress drop host udp/5000")}},
	{"ingress only", []attached{rules("b", "ingress allow port:a tcp/80", "ingress allow 203.0.113.0/24", "ingress allow 2001:db8:9::9 tcp", "ingress allow host icmp")}},
	{"egress only", []attached{rules("c", "egress allow inside", "egress drop outside udp"), rules("a", "egress reject inside icmp", "egress allow any icmp", "egress allow any udp/5000,9")}},
	{"both directions", []attached{rules("a", "egress allow network:two", "egress allow outside tcp/80", "ingress allow network:two udp", "ingress allow host", "ingress drop outside tcp"),
		rules("c", "ingress allow port:a tcp", "ingress allow network:default icmp", "egress allow port:a", "egress allow port:b udp/53")}},
	{"networks, and the host that has an address there", []attached{rules("a,c", "egress allow network:default", "egress drop network:two udp", "ingress allow network:default tcp")}},
	{"ports", []attached{rules("a", "egress allow port:b", "egress reject port:b udp/53", "egress drop port:c tcp/80", "egress allow port:c"), rules("b", "ingress allow port:a", "ingress drop port:a tcp/22"), rules("c", "ingress allow port:nobody", "ingress allow port:b")}},
	{"outside", []attached{rules("network:default", "egress allow outside", "ingress allow outside tcp", "ingress reject 203.0.113.9"), rules("c", "egress reject outside", "egress allow any", "ingress drop outside", "ingress allow any")}},
	{"the host excluded", []attached{rules("b", "egress drop host", "egress allow any"), rules("a", "egress reject host tcp", "egress allow any", "ingress reject host", "ingress allow any"), rules("c", "ingress allow host", "egress allow host tcp/80", "egress allow 10.1.0.1 icmp")}},
	{"several policies", []attached{rules("network:default", "egress allow any tcp", "ingress allow any"), rules("a", "egress drop 203.0.113.9", "egress allow udp"), rules("a,c", "ingress reject tcp/22", "egress allow icmp"), rules("network:two", "ingress allow inside")}},
	{"special addresses", []attached{rules("a", "egress allow any", "ingress allow any"), rules("b", "egress allow 169.254.0.0/16", "egress reject 169.254.169.254 tcp/22", "egress drop 0.0.0.0/0 udp"), rules("c", "egress allow 169.254.169.254 tcp/80", "egress allow 169.254.0.0/16 icmp", "egress allow any tcp/22")}},
	{"everything of one family", []attached{rules("a", "egress allow 0.0.0.0/0"), rules("c", "egress allow ::/0", "ingress drop ::/0", "ingress allow any")}},
	{"nothing", []attached{rules("a", "egress drop outside", "egress allow 169.254.0.0/16", "egress drop any"), rules("b", "ingress reject any"), rules("c", "ingress drop any", "egress drop 169.254.0.0/16")}},
	{"sandbox", []attached{{to: "a", named: "sandbox"}, rules("a", "egress allow outside", "egress allow port:b tcp/80", "ingress allow port:b udp"), {to: "network:two", named: "sandbox"}, rules("c", "egress allow any icmp")}},
}

// apply makes and attaches the policies of a set, side by side. remove takes them away.
func (m *matrix) apply(set ruleSet) (remove func()) {
	m.b.t.Helper()
	undo := make([][][]string, len(set.policies))
	each := func(commands func(i int) [][]string) {
		m.b.t.Helper()
		var wg sync.WaitGroup
		for i := range set.policies {
			wg.Go(func() {
				for _, args := range commands(i) {
					if out, err := m.b.TryCLI(args...); err != nil {
						m.b.t.Errorf("uvswitch %v: %v %s", args, err, out)
					}
				}
			})
		}
		wg.Wait()
	}
	each(func(i int) (do [][]string) {
		p := set.policies[i]
		name := p.named
		if name == "" {
			name = fmt.Sprintf("p%d", i)
			for _, r := range p.rules {
				do = append(do, append([]string{"policy", "add", name}, strings.Fields(r)...))
			}
		}
		for _, to := range strings.Split(p.to, ",") {
			what, of := "--port", to
			if network, ok := strings.CutPrefix(to, "network:"); ok {
				what, of = "--network", network
			}
			do = append(do, []string{"policy", "attach", name, what, of})
			undo[i] = append(undo[i], []string{"policy", "detach", name, what, of})
		}
		if p.named == "" {
			undo[i] = append(undo[i], []string{"policy", "del", name})
		}
		return do
	})
	return func() { each(func(i int) [][]string { return undo[i] }) }
}

// judge gives the same rules to nftables. For each container and direction there is a chain: what drops first, then what rejects, then what
// allows, and in the end all the rest is rejected.
func (m *matrix) judge(set ruleSet) {
	m.b.t.Helper()
	of := map[string][]string{} // lines of chains without their ends, by port and direction
	for _, action := range []string{"drop", "reject", "allow"} {
		for _, p := range set.policies {
			list := slices.Clone(p.rules)
			for _, x := range m.builtin {
				if x.Name == p.named {
					for _, r := range x.Rules {
						list = append(list, r.Rule)
					}
				}
			}
			for _, name := range []string{"a", "b", "c"} {
				if to := strings.Split(p.to, ","); !slices.Contains(to, name) && !slices.Contains(to, "network:"+networkOf[name]) {
					continue
				}
				for _, r := range list {
					words := strings.Fields(r)
					chain := name + "_" + words[0]
					if of[chain] == nil {
						of[chain] = []string{}
					}
					if words[1] == action {
						of[chain] = append(of[chain], m.nftRule(words)...)
					}
				}
			}
		}
	}
	const refuse = "reject with icmpx admin-prohibited"
	text := "flush ruleset\ntable inet judge {\n"
	for family, kind := range map[string]string{"4": "ipv4_addr", "6": "ipv6_addr"} {
		inside, host, special := []string{"224.0.0.0/4"}, []string{}, "169.254.0.0/16"
		if family == "6" {
			inside, special = []string{"ff00::/8", "fe80::/10"}, "fd00:ec2::/32"
		}
		for _, n := range policyNetworks {
			inside = append(inside, n[strings.Index("46", family)])
		}
		for _, p := range m.places {
			if p.ns == "host" {
				host = append(host, map[string]netip.Addr{"4": p.four, "6": p.six}[family].String())
			}
		}
		for name, list := range map[string][]string{"inside": inside, "host": host, "special": {special}} {
			text += fmt.Sprintf("set %s%s { type %s; flags interval; elements = { %s } }\n", name, family, kind, strings.Join(list, ", "))
		}
	}
	forward, input := "", ""
	for _, name := range []string{"a", "b", "c"} {
		for _, direction := range []string{"egress", "ingress"} {
			chain := name + "_" + direction
			lines, ok := of[chain]
			if !ok {
				continue
			}
			text += "chain " + chain + " {\n" + strings.Join(append(lines, refuse), "\n") + "\n}\n"
			if direction == "egress" {
				forward += "iifname v-" + name + " jump " + chain + "\n"
				input += "iifname v-" + name + " jump " + chain + "\n"
			}
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, ok := of[name+"_ingress"]; ok {
			forward += "oifname v-" + name + " jump " + name + "_ingress\n"
		}
	}
	const begin = "policy accept\nct state established,related accept\n"
	text += "chain forward {\ntype filter hook forward priority 0; " + begin + forward + "}\n"
	text += "chain input {\ntype filter hook input priority 0; " + begin + "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept\n" + input + "}\n}\n"
	text = strings.ReplaceAll(text, "REFUSE", refuse)
	file := filepath.Join(m.b.dir, "judge.nft")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		m.b.t.Fatal(err)
	}
	if said, err := m.b.TrySh("router", "nft -f "+file); err != nil {
		m.b.t.Fatalf("nft: %v\n%s\n%s", err, said, text)
	}
}

// nftRule is a rule of uvswitch in the words of nftables, for each family that it speaks of.
func (m *matrix) nftRule(words []string) (out []string) {
	verdict := map[string]string{"drop": "drop", "reject": "REFUSE", "allow": "return"}[words[1]]
	side := map[string]string{"egress": "daddr", "ingress": "saddr"}[words[0]]
	peer, proto, ports := "any", "", ""
	for _, w := range words[2:] {
		name, list, _ := strings.Cut(w, "/")
		if slices.Contains([]string{"tcp", "udp", "icmp"}, name) || strings.Trim(name, "0123456789") == "" {
			proto, ports = name, list
		} else {
			peer = w
		}
	}
	for i, family := range []string{"4", "6"} {
		address := map[string]string{"4": "ip ", "6": "ip6 "}[family] + side
		not := func(set string) string { return " " + address + " != @" + set + family }
		special := "" // where clouds keep credentials: only rules for the very addresses allow them
		if words[1] == "allow" {
			special = not("special")
		}
		var at string
		kind, name, named := strings.Cut(peer, ":")
		switch {
		case peer == "any":
			at = "meta nfproto " + map[string]string{"4": "ipv4", "6": "ipv6"}[family] + special
		case peer == "inside":
			at = address + " @inside" + family + not("host")
		case peer == "outside":
			at = not("inside") + not("host") + special
		case peer == "host":
			at = address + " @host" + family
		case named && kind == "port" && m.places[name] == nil: // nobody
			continue
		case named && kind == "port":
			at = address + " " + []netip.Addr{m.places[name].four, m.places[name].six}[i].String()
		case named && kind == "network":
			at = address + " " + policyNetworks[name][i] + not("host")
		case strings.Contains(peer, ":") == (family == "6"):
			if at = address + " " + peer; !strings.HasPrefix(peer, "169.254.") {
				at += special
			}
		default:
			continue
		}
		switch {
		case proto == "icmp" || proto == "1":
			at += " meta l4proto " + []string{"icmp", "ipv6-icmp"}[i]
		case ports != "":
			at += " " + proto + " dport { " + ports + " }"
		case proto != "":
			at += " meta l4proto " + proto
		}
		out = append(out, at+" "+verdict)
	}
	return out
}

// policyIntended has the intended differences from nftables: what uvswitch does with flows to a place, with the reasons.
var policyIntended = []struct{ to, proto, ours, reason string }{
	{"gateway", "icmp", answered, "the gateway's pings always pass, and so do its DHCP and its DNS"},
	{"gateway", "tcp", closedPort, "the gateway itself refuses what it does not serve: there is nothing to judge"},
	{"gateway", "udp", closedPort, "likewise"},
}

// intendedFor returns the reason why uvswitch may do otherwise than nftables with a flow; empty: there is none.
func intendedFor(f triedFlow, ours string) string {
	for _, x := range policyIntended {
		if f.to.name == x.to && f.proto == x.proto && ours == x.ours {
			return x.reason
		}
	}
	return ""
}

// TestPolicyMatrix compares what uvswitch's policies and what nftables do with the same flows under the same rules.
func TestPolicyMatrix(t *testing.T) {
	Need(t, "nft", "sysctl")
	b := newWithIPv6(t)
	outside6(b)
	m := &matrix{b: b, places: map[string]*place{}}
	add := func(name, ns, four, six string) {
		p := &place{name: name, ns: ns, four: netip.MustParseAddr(four)}
		if six != "" {
			p.six = netip.MustParseAddr(six)
		}
		m.places[name] = p
	}
	add("a", "a", "172.29.0.2", "2001:db8:29::2")
	add("b", "b", "172.29.0.3", "2001:db8:29::3")
	add("c", "c", "172.30.0.2", "fd00:30::2")
	add("host", "host", "172.29.255.254", "") // its IPv6 address, and the gateway's, are the switch's choice
	add("host outside", "host", "10.1.0.1", host6)
	add("out", "out", "10.1.0.2", out6)
	add("far", "out", "203.0.113.9", "2001:db8:9::9")
	add("metadata", "out", "169.254.169.254", "")
	add("gateway", "router", "172.29.0.1", "")
	m.switchBed()
	m.kernelBed()
	m.list()
	namespaces := []string{"a", "b", "c", "host", "out"}
	for _, ns := range namespaces {
		for _, in := range []string{ns, kernelNS(ns)} {
			b.Sh(in, "sysctl -qw net.ipv4.ping_group_range='0 0' net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0; sysctl -qw net.ipv4.icmp_msgs_per_sec=10000 2>/dev/null || true")
			m.respond(ns, in)
		}
	}
	differ := func(set string, ours, kernels []string) (n int) {
		for i, f := range m.flows {
			if ours[i] == kernels[i] || intendedFor(f, ours[i]) != "" {
				continue
			}
			if n++; n <= 20 {
				t.Errorf("%s: %s: uvswitch %s, nftables %s", set, f, ours[i], kernels[i])
			}
		}
		if n > 20 {
			t.Errorf("%s: %d flows more", set, n-20)
		}
		return n
	}

	// Without rules, everything is answered.
	m.judge(ruleSet{})
	var missing string
	b.Eventually("all flows pass without rules", func() bool {
		missing = ""
		ours, kernels := m.play(m.flows, waitOnce)
		for i, f := range m.flows {
			want := answered
			if slices.Contains(closedPorts[f.proto], f.port) || f.to.name == "gateway" && f.proto != "icmp" {
				want = closedPort
			}
			if ours[i] != want || kernels[i] != want {
				missing += fmt.Sprintf("%s: uvswitch %s, nftables %s\n", f, ours[i], kernels[i])
			}
		}
		return missing == ""
	})
	for _, set := range ruleSets {
		start := time.Now()
		remove := m.apply(set)
		m.judge(set)
		applied := time.Since(start)
		ours, kernels := m.compare()
		differ(set.name, ours, kernels)
		count := map[string]int{}
		for _, o := range kernels {
			count[o]++
		}
		t.Logf("%s: %v, in %v, of which %v to apply them", set.name, count, time.Since(start).Round(time.Millisecond), applied.Round(time.Millisecond))
		if count[answered] == 0 || count[answered]+count[closedPort] == len(m.flows) {
			t.Errorf("%s: these rules judge nothing: %v", set.name, count)
		}
		remove()
	}
	t.Logf("%d sets of rules, %d flows each; %d tries repeated", len(ruleSets), len(m.flows), m.repeated)
	b.Balanced()
}

// switchBed starts uvswitch with its networks, containers and published ports.
func (m *matrix) switchBed() {
	m.b.t.Helper()
	b := m.b
	b.AddNS("a", "b", "c")
	text := fmt.Sprintf("networks:\n- {name: default, subnet: %s, subnet6: %q, nat6: routed, in6: any}\n- {name: two, subnet: %s, subnet6: %q}\nports:\n",
		policyNetworks["default"][0], policyNetworks["default"][1], policyNetworks["two"][0], policyNetworks["two"][1])
	published := "publish:\n"
	for _, name := range []string{"a", "b", "c"} {
		p := m.places[name]
		text += fmt.Sprintf("- {name: %s, netns: %s, network: %s, ip: %s, ip6: %q}\n", name, b.NS(name), networkOf[name], p.four, p.six)
		for _, proto := range []string{"tcp", "udp"} {
			for _, port := range slices.Concat(openPorts[proto], closedPorts[proto]) {
				published += fmt.Sprintf("- {host: %q, to: %q, proto: %s}\n", fmt.Sprint(publishedBase[name]+port), fmt.Sprintf("%s:%d", name, port), proto)
			}
		}
	}
	file := filepath.Join(b.dir, "uvs.yml")
	if err := os.WriteFile(file, []byte(text+published), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.Start("-c", file)
	m.places["host"].six = netip.MustParseAddr(addr6(b, "host"))
	m.places["gateway"].six = netip.MustParseAddr(addrOfGateway6(b))
	b.Sh("out", "ip addr add 203.0.113.9/32 dev lo && ip addr add 2001:db8:9::9/128 dev lo && ip addr add 169.254.169.254/32 dev lo && ip -6 route add "+policyNetworks["default"][1]+" via "+host6)
	b.JSON(&m.builtin, "policy", "ls")
}

// kernelBed makes the same places around a router, each with a link of its own.
func (m *matrix) kernelBed() {
	m.b.t.Helper()
	b := m.b
	b.AddNS("router")
	b.Sh("router", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0; sysctl -qw net.ipv4.icmp_msgs_per_sec=10000 2>/dev/null || true")
	gateway := m.places["gateway"]
	b.Sh("router", fmt.Sprintf("ip addr add %s/32 dev lo && ip addr add %s/128 dev lo", gateway.four, gateway.six))
	for _, ns := range []string{"a", "b", "c", "host", "out"} {
		k := kernelNS(ns)
		b.AddNS(k)
		b.Sh("router", fmt.Sprintf("ip link add v-%[1]s type veth peer name eth0 netns %[2]s && ip link set v-%[1]s up && ip addr add fe80::1/64 dev v-%[1]s nodad", ns, b.NS(k)))
		b.Sh(k, fmt.Sprintf("ip link set eth0 up && ip route add %[1]s dev eth0 && ip route add default via %[1]s && ip -6 route add default via fe80::1 dev eth0", gateway.four))
		for _, p := range m.places {
			if p.ns != ns {
				continue
			}
			b.Sh(k, fmt.Sprintf("ip addr add %s/32 dev eth0", p.four))
			b.Sh("router", fmt.Sprintf("ip route add %s dev v-%s", p.four, ns))
			if p.six.IsValid() {
				b.Sh(k, fmt.Sprintf("ip addr add %s/128 dev eth0 nodad", p.six))
				b.Sh("router", fmt.Sprintf("ip -6 route add %s dev v-%s", p.six, ns))
			}
		}
	}
}
