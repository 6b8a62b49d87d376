package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// hostExec runs plugins in a bed's namespace host.
type hostExec struct {
	invoke.DefaultExec
	path string // of the namespace host
}

func (e *hostExec) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	c := exec.CommandContext(ctx, plugin)
	var out, stderr bytes.Buffer
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &out, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := netns.Do(e.path, c.Start); err != nil {
		return nil, err
	}
	if err := c.Wait(); err != nil {
		said := &types.Error{}
		if json.Unmarshal(out.Bytes(), said) != nil {
			return nil, fmt.Errorf("%w: %s%s", err, out.String(), stderr.String())
		}
		return nil, said
	}
	return out.Bytes(), nil
}

// A cniHost is a bed with CNI's library libcni, which runtimes and cnitool use.
type cniHost struct {
	*Bed
	*libcni.CNIConfig
	dir string
}

func newCNI(t *testing.T) *cniHost { return cniOn(t, New(t)) }

func cniOn(t *testing.T, b *Bed) *cniHost {
	dir := t.TempDir()
	if err := os.Symlink(uvswitch, filepath.Join(dir, "uvswitch")); err != nil {
		t.Fatal(err)
	}
	e := &hostExec{invoke.DefaultExec{RawExec: &invoke.RawExec{}, PluginDecoder: version.PluginDecoder{}}, b.path("host")}
	return &cniHost{b, libcni.NewCNIConfigWithCacheDir([]string{dir, "/usr/lib/cni"}, filepath.Join(dir, "cache"), e), dir}
}

// conflist returns a configuration with uvswitch as the only plugin.
func (c *cniHost) conflist(version, more string) *libcni.NetworkConfigList {
	c.t.Helper()
	text := fmt.Sprintf(`{"cniVersion":"%s","name":"pods","plugins":[{"type":"uvswitch","socket":"%s"%s,"capabilities":{"portMappings":true,"ips":true,"mac":true,"dns":true,"bandwidth":true}}]}`, version, c.Socket(), more)
	l, err := libcni.ConfListFromBytes([]byte(text))
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

func (c *cniHost) runtime(ns, id string, capabilities map[string]any) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: c.path(ns), IfName: "eth0", CapabilityArgs: capabilities}
}

func (c *cniHost) ports() (out []api.Port) {
	c.t.Helper()
	var all []api.Port
	c.JSON(&all, "port", "ls")
	for _, p := range all {
		if strings.HasPrefix(p.Name, "cni-") {
			out = append(out, p)
		}
	}
	return out
}

const subnet50 = `,"subnet":"10.50.0.0/24"`

// TestCNI takes a container through ADD, CHECK and DEL in every supported version of the specification.
func TestCNI(t *testing.T) {
	c := newCNI(t)
	ctx := t.Context()
	for i, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(v, func(t *testing.T) {
			ns := fmt.Sprintf("pod%d", i)
			c.AddNS(ns)
			list := c.conflist(v, subnet50)
			rt := c.runtime(ns, "3f2a9c0d1b2e4455", map[string]any{
				"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
				"ips":          []string{"10.50.0.77/24"}, "mac": "02:00:00:00:00:4d", "dns": map[string]any{"servers": []string{"10.1.0.2"}, "searches": []string{"pods.local"}},
				"bandwidth": map[string]any{"ingressRate": 40_000_000, "ingressBurst": 2147483647, "egressRate": 20_000_000, "egressBurst": 400_000},
			})
			if _, err := c.ValidateNetworkList(ctx, list); err != nil {
				t.Fatal(err)
			}
			res, err := c.AddNetworkList(ctx, list, rt)
			if err != nil {
				t.Fatal(err)
			}
			got, err := current.NewResultFromResult(res)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.IPs) != 1 || got.IPs[0].Address.String() != "10.50.0.77/24" || got.IPs[0].Gateway.String() != "10.50.0.1" || len(got.Routes) != 1 || got.Interfaces[0].Mac != "02:00:00:00:00:4d" || got.Interfaces[0].Sandbox != c.path(ns) || got.DNS.Nameservers[0] != "10.1.0.2" || got.DNS.Search[0] != "pods.local" {
				t.Errorf("ADD: %v", res)
			}
			contains(t, c.Sh(ns, "ip addr show eth0; ip route"), "inet 10.50.0.77/24", "02:00:00:00:00:4d", "default via 10.50.0.1 dev eth0")
			ping(c.Bed, ns, "10.1.0.2")
			c.Web(ns)
			contains(t, c.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/"), "10.1.0.2")
			if p := c.ports(); len(p) != 1 || !strings.HasPrefix(p[0].Name, "cni-") || !strings.Contains(p[0].Name, "-3f2a9c0d1b2e-") || p[0].State != "forwarding" || p[0].Network != "pods" {
				t.Errorf("%+v", p)
			} else if p[0].TxRate != 40_000_000 || p[0].TxBurst != 2147483647/8 || p[0].RxRate != 20_000_000 || p[0].RxBurst != 50_000 {
				t.Errorf("bandwidth: %+v", p[0])
			}
			if v != "0.3.1" {
				if err := c.CheckNetworkList(ctx, list, rt); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				for damage, undo := range map[string]string{"ip link set eth0 mtu 1000": "ip link set eth0 mtu 1500", "ip route del default": "ip route add default via 10.50.0.1"} {
					c.Sh(ns, damage)
					if err := c.CheckNetworkList(ctx, list, rt); err == nil {
						t.Errorf("CHECK after %s", damage)
					}
					c.Sh(ns, undo)
				}
				name := c.ports()[0].Name
				for damage, undo := range map[string][]string{
					"publish del 8080/tcp":              {"publish", "add", "8080:80", "--port", name},
					"port set " + name + " tx_rate off": {"port", "set", name, "tx_rate", "40mbit"},
				} {
					c.CLI(strings.Fields(damage)...)
					if err := c.CheckNetworkList(ctx, list, rt); err == nil {
						t.Errorf("CHECK after %s", damage)
					}
					c.CLI(undo...)
				}
				c.Sh(ns, "ip addr del 10.50.0.77/24 dev eth0")
				if err := c.CheckNetworkList(ctx, list, rt); err == nil || !strings.Contains(err.Error(), "no longer has address 10.50.0.77/24") {
					t.Errorf("CHECK without the address: %v", err)
				}
			}
			if _, err := c.AddNetworkList(ctx, list, rt); err == nil {
				t.Error("ADD twice")
			}
			if n := len(c.ports()); n != 1 {
				t.Errorf("after it there are %d ports", n)
			}
			for range 2 {
				if err := c.DelNetworkList(ctx, list, rt); err != nil {
					t.Errorf("DEL: %v", err)
				}
			}
			if p := c.ports(); len(p) > 0 {
				t.Errorf("left: %+v", p)
			}
		})
	}
}

// TestCNIOddOrders tests unusual sequences of calls, which runtimes make after failures.
func TestCNIOddOrders(t *testing.T) {
	c := newCNI(t)
	ctx := t.Context()
	list := c.conflist("1.1.0", subnet50)
	if err := c.GetStatusNetworkList(ctx, list); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	if err := c.GetStatusNetworkList(ctx, c.conflist("1.1.0", `,"network":"none"`)); err == nil || !strings.Contains(err.Error(), `no network "none"`) {
		t.Errorf("STATUS without the network: %v", err)
	}

	// Concurrent ADDs create one network, and each gets its own address.
	var wg sync.WaitGroup
	for i := range 6 {
		ns := fmt.Sprintf("p%d", i)
		c.AddNS(ns)
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := c.AddNetworkList(ctx, list, c.runtime(ns, ns, nil)); err != nil {
				t.Errorf("%s: %v", ns, err)
			}
		}()
	}
	wg.Wait()
	if n := len(c.ports()); n != 6 {
		t.Errorf("%d ports", n)
	}
	ping(c.Bed, "p0", strings.TrimSpace(c.Sh("p5", "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'")))

	// GC of one configuration keeps the containers of another.
	c.AddNS("other")
	others, err := libcni.ConfListFromBytes([]byte(strings.Replace(string(list.Bytes), `"name":"pods"`, `"name":"others","network":"pods"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	others.Plugins[0].Bytes = bytes.Replace(others.Plugins[0].Bytes, []byte(`"type":"uvswitch"`), []byte(`"type":"uvswitch","network":"pods"`), 1)
	if _, err := c.AddNetworkList(ctx, others, c.runtime("other", "other", nil)); err != nil {
		t.Fatal(err)
	}
	if err := c.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "p0", IfName: "eth0"}, {ContainerID: "p1", IfName: "eth0"}}}); err != nil {
		t.Errorf("GC: %v", err)
	}
	if n := len(c.ports()); n != 3 {
		t.Errorf("after GC %d ports: %+v", n, c.ports())
	}

	// A second network in a container: the default route of the first network stays.
	second, err := libcni.ConfListFromBytes([]byte(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"second","plugins":[{"type":"uvswitch","socket":"%s","subnet":"10.52.0.0/24"}]}`, c.Socket())))
	if err != nil {
		t.Fatal(err)
	}
	also := c.runtime("p1", "p1", nil)
	also.IfName = "eth1"
	if _, err := c.AddNetworkList(ctx, second, also); err != nil {
		t.Errorf("a second network: %v", err)
	}
	contains(t, c.Sh("p1", "ip route; ip addr show eth1"), "default via 10.50.0.1 dev eth0", "inet 10.52.0.2/24")
	if err := c.CheckNetworkList(ctx, second, also); err != nil {
		t.Errorf("CHECK of it: %v", err)
	}
	if err := c.DelNetworkList(ctx, second, also); err != nil {
		t.Error(err)
	}

	// The namespace is removed before DEL.
	rt := c.runtime("p0", "p0", nil)
	c.Sh("host", "ip netns del "+c.NS("p0"))
	if err := c.DelNetworkList(ctx, list, rt); err != nil {
		t.Errorf("DEL after the namespace: %v", err)
	}
	rt.NetNS = ""
	if err := c.DelNetworkList(ctx, list, rt); err != nil {
		t.Errorf("DEL without a namespace: %v", err)
	}

	// A failed ADD leaves nothing behind.
	c.AddNS("bad")
	before := len(c.ports())
	for _, bad := range []struct {
		more, want string
		caps       map[string]any
	}{
		{`,"network":"none"`, `no network "none"`, nil},
		{`,"subnet":"10.51.0.0/24"`, "subnet 10.50.0.0/24, but the configuration says 10.51.0.0/24", nil},
		{`,"subnet":"10.1.0.0/24","network":"x"`, "overlaps", nil},
		{subnet50 + `,"internal":true`, "internal: false, but the configuration says true", nil},
		{subnet50, "not a usable address", map[string]any{"ips": []string{"192.0.2.1/24"}}},
		{subnet50, "a port has one address of each family", map[string]any{"ips": []string{"10.50.0.8/24", "10.50.0.9/24"}}},
		{subnet50, "MAC", map[string]any{"mac": "01:00:00:00:00:01"}},
		{subnet50, "is in use by", map[string]any{"portMappings": []map[string]any{{"hostPort": 8081, "containerPort": 80}, {"hostPort": 8082, "containerPort": 80}}}},
		{subnet50, "a port is 1 to 65535", map[string]any{"portMappings": []map[string]any{{"hostPort": 8081, "containerPort": 80000}}}},
		{subnet50 + `,"mtu":9`, "MTU 9", nil},
		{subnet50, "out of range; use 1kbit", map[string]any{"bandwidth": map[string]any{"ingressRate": 10}}},
	} {
		if bad.want == "is in use by" {
			c.Serve("host", 8082, uvswitch, "lab", "tool", "httpd", "8082", "x")
		}
		if _, err := c.AddNetworkList(ctx, c.conflist("1.0.0", bad.more), c.runtime("bad", "bad", bad.caps)); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s %v: %v, want %q", bad.more, bad.caps, err, bad.want)
		}
		if out := c.Sh("bad", "ip -br link"); strings.Contains(out, "eth0") || len(c.ports()) != before {
			t.Errorf("%s %v leaves %s %+v", bad.more, bad.caps, out, c.ports())
		}
	}

	// ADD into the host's own namespace fails. A namespace that does not exist is no reason to try again later.
	for path, code := range map[string]uint{c.path("host"): types.ErrInvalidNetNS, "/run/netns/uvt-none": types.ErrInvalidNetNS} {
		_, err := c.AddNetworkList(ctx, list, &libcni.RuntimeConf{ContainerID: "own", NetNS: path, IfName: "eth9"})
		var said *types.Error
		if !errors.As(err, &said) || said.Code != code {
			t.Errorf("ADD to %s: %v", path, err)
		}
	}
	if links := c.Sh("host", "ip -br link"); strings.Contains(links, "eth9") {
		t.Errorf("the host has\n%s", links)
	}

	// No switch runs.
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	if err := c.DelNetworkList(ctx, list, c.runtime("p1", "p1", nil)); err != nil {
		t.Errorf("DEL without a switch: %v", err)
	}
	if _, err := c.AddNetworkList(ctx, list, c.runtime("bad", "bad", nil)); err == nil || !strings.Contains(err.Error(), "no switch listens") {
		t.Errorf("ADD without a switch: %v", err)
	}
	if err := c.GetStatusNetworkList(ctx, list); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("STATUS without a switch: %v", err)
	}
}

// TestCNIDelegatedIPAM checks that the IPAM plugin host-local can assign addresses and routes.
func TestCNIDelegatedIPAM(t *testing.T) {
	c := newCNI(t)
	if _, err := os.Stat("/usr/lib/cni/host-local"); err != nil {
		Need(t, "host-local of containernetworking-plugins")
	}
	c.AddNS("pod")
	data := filepath.Join(c.dir, "leases")
	list := c.conflist("1.0.0", fmt.Sprintf(`%s,"ipam":{"type":"host-local","dataDir":"%s","ranges":[[{"subnet":"10.50.0.0/24","rangeStart":"10.50.0.40","gateway":"10.50.0.1"}]],"routes":[{"dst":"10.1.0.0/24"}]}`, subnet50, data))
	rt := c.runtime("pod", "pod", nil)
	if _, err := c.AddNetworkList(t.Context(), list, rt); err != nil {
		t.Fatal(err)
	}
	routes := c.Sh("pod", "ip addr show eth0; ip route")
	contains(t, routes, "inet 10.50.0.40/24", "10.1.0.0/24 via 10.50.0.1 dev eth0")
	if strings.Contains(routes, "default via") {
		t.Errorf("a default route that nobody has asked for:\n%s", routes)
	}
	ping(c.Bed, "pod", "10.1.0.2")
	if err := c.CheckNetworkList(t.Context(), list, rt); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	// An ADD that fails releases the address.
	c.AddNS("two")
	if _, err := c.AddNetworkList(t.Context(), list, c.runtime("two", "two", map[string]any{"mac": "01:00:00:00:00:01"})); err == nil {
		t.Error("a group address as MAC")
	}
	if err := c.DelNetworkList(t.Context(), list, rt); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if leases, _ := filepath.Glob(data + "/pods/10.50.*"); len(leases) > 0 {
		t.Errorf("leases left: %v", leases)
	}
}

// TestCNIBothFamilies: a container has an address of each family, as the runtime asks for it: by the capability ips, or by IP= of CNI_ARGS.
// CHECK sees that the IPv6 address has gone.
func TestCNIBothFamilies(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.Start()
	b.Eventually("IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
	c := cniOn(t, b)
	list := c.conflist("1.0.0", subnet50+`,"subnet6":"fd00:50::/64"`)
	for i, how := range []struct {
		ips  []string
		args string
		want string
	}{
		{[]string{"10.50.0.77/24", "fd00:50::77/64"}, "", "fd00:50::77/64"}, {[]string{"fd00:50::78"}, "", "fd00:50::78/64"},
		{nil, "fd00:50::79", "fd00:50::79/64"}, {nil, "10.50.0.80,fd00:50::80", "fd00:50::80/64"}, {nil, "", "fd00:50::"},
	} {
		ns := fmt.Sprintf("pod%d", i)
		b.AddNS(ns)
		rt := c.runtime(ns, fmt.Sprintf("3f2a9c0d1b2e445%d", i), map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}})
		if how.ips != nil {
			rt.CapabilityArgs["ips"] = how.ips
		}
		if how.args != "" {
			rt.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", how.args}}
		}
		res, err := c.AddNetworkList(t.Context(), list, rt)
		if err != nil {
			t.Fatalf("%+v: %v", how, err)
		}
		got, err := current.NewResultFromResult(res)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.IPs) != 2 || !strings.HasPrefix(got.IPs[1].Address.String(), how.want) || got.IPs[1].Gateway.String() != "fd00:50::1" || len(got.Routes) < 2 {
			t.Errorf("%+v: ADD: %v", how, res)
		}
		address := got.IPs[1].Address.String()
		contains(t, b.Sh(ns, "ip -6 addr show dev eth0; ip -6 route"), "inet6 "+address, "default via fd00:50::1 dev eth0")
		b.Sh(ns, "ping -6 -c 1 -W 5 "+out6)
		b.Web(ns)
		contains(t, b.Sh("out", "curl -sS -m 5 'http://["+host6+"]:8080/'"), "you are "+out6)
		if err := c.CheckNetworkList(t.Context(), list, rt); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		b.Sh(ns, "ip addr del "+address+" dev eth0")
		if err := c.CheckNetworkList(t.Context(), list, rt); err == nil || !strings.Contains(err.Error(), "no longer has address "+address) {
			t.Errorf("CHECK without the address: %v", err)
		}
		if err := c.DelNetworkList(t.Context(), list, rt); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	if p := c.ports(); len(p) != 0 {
		t.Errorf("left: %+v", p)
	}
}

// TestNetavark calls the plugin as netavark does.
func TestNetavark(t *testing.T) {
	b := New(t)
	b.AddNS("ctr")
	plugin := func(in string, args ...string) (map[string]any, error) {
		c := exec.Command(uvswitch, args...)
		c.Stdin = strings.NewReader(in)
		var out bytes.Buffer
		c.Stdout = &out
		err := netns.Do(b.path("host"), c.Run)
		var answer map[string]any
		if out.Len() > 0 {
			if jerr := json.Unmarshal(out.Bytes(), &answer); jerr != nil {
				t.Errorf("%v: %v: %s", args, jerr, out.String())
			}
		}
		return answer, err
	}
	if info, err := plugin("", "info"); err != nil || info["api_version"] != "1.0.0" || info["version"] == "" {
		t.Errorf("info: %v %v", info, err)
	}
	made, err := plugin(fmt.Sprintf(`{"name":"net1","id":"2f259bab","driver":"uvswitch","internal":false,"dns_enabled":false,"ipv6_enabled":false,"ipam_options":{"driver":"host-local"},"created":"2026-01-01T00:00:00Z","options":{"socket":"%s","mtu":"1400"}}`, b.Socket()), "create")
	if err != nil || made["id"] != "2f259bab" || made["created"] == nil {
		t.Fatalf("create: %v %v", made, err)
	}
	network, _ := json.Marshal(made)
	contains(t, string(network), `"subnet":"10.89.0.0/24"`, `"gateway":"10.89.0.1"`, `"host-local"`)
	call := fmt.Sprintf(`{"container_id":"752947ff91f961eb","container_name":"web","port_mappings":[{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp","range":2}],
		"network":%s,"network_options":{"aliases":["x"],"interface_name":"eth0","static_ips":["10.89.0.50"],"static_mac":"02:00:00:aa:00:01"}}`, network)
	got, err := plugin(call, "setup", b.path("ctr"))
	if err != nil {
		t.Fatalf("setup: %v %v", got, err)
	}
	answer, _ := json.Marshal(got)
	if want := `{"dns_search_domains":[],"dns_server_ips":[],"interfaces":{"eth0":{"mac_address":"02:00:00:aa:00:01","subnets":[{"gateway":"10.89.0.1","ipnet":"10.89.0.50/24"}]}}}`; string(answer) != want {
		t.Errorf("setup: %s\nwant %s", answer, want)
	}
	contains(t, b.Sh("ctr", "ip addr show eth0"), "mtu 1400", "inet 10.89.0.50/24")
	ping(b, "ctr", "10.1.0.2")
	b.Web("ctr")
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/"), "10.1.0.2")
	if got, err := plugin(call, "setup", b.path("ctr")); err == nil || got["error"] == nil {
		t.Errorf("setup twice: %v %v", got, err)
	}
	ping(b, "ctr", "10.1.0.2")
	for range 2 {
		if got, err := plugin(call, "teardown", b.path("ctr")); err != nil || got != nil {
			t.Errorf("teardown: %v %v", got, err)
		}
	}
	var ports []api.Port
	if b.JSON(&ports, "port", "ls"); len(ports) != 2 {
		t.Errorf("left: %+v", ports)
	}
	six, err := plugin(fmt.Sprintf(`{"name":"six","id":"6f259bab","ipv6_enabled":true,"dns_enabled":true,"subnets":[{"subnet":"10.91.0.0/24"},{"subnet":"fd00:91::/64"}],"options":{"socket":"%s","policy":"sandbox"}}`, b.Socket()), "create")
	if err != nil {
		t.Fatalf("create with both families: %v %v", six, err)
	}
	network, _ = json.Marshal(six)
	call = fmt.Sprintf(`{"container_id":"852947ff91f961eb","container_name":"six","network":%s,"network_options":{"aliases":["Vi","no name!"],"interface_name":"eth1","static_ips":["10.91.0.50","fd00:91::50"]}}`, network)
	if got, err = plugin(call, "setup", b.path("ctr")); err != nil {
		t.Fatalf("setup: %v %v", got, err)
	}
	answer, _ = json.Marshal(got)
	contains(t, string(answer), `"dns_search_domains":["six.uvs.internal"]`, `"dns_server_ips":["10.91.0.1","fd00:91::1"]`)
	contains(t, b.CLI("dns", "ls"), "six.six.uvs.internal", "vi.six.uvs.internal")
	contains(t, string(answer), `{"gateway":"10.91.0.1","ipnet":"10.91.0.50/24"}`, `{"gateway":"fd00:91::1","ipnet":"fd00:91::50/64"}`)
	contains(t, b.Sh("ctr", "ip addr show eth1"), "inet 10.91.0.50/24", "inet6 fd00:91::50/64")
	b.Sh("ctr", "ping -6 -c 1 -W 5 fd00:91::1")
	if out, err := b.TrySh("ctr", "ping -c 1 -W 3 -I eth1 10.1.0.2"); err == nil {
		t.Errorf("with policy sandbox: %s", out)
	}
	contains(t, b.CLI("policy", "ls"), "podman-")
	if got, err := plugin(call, "teardown", b.path("ctr")); err != nil || got != nil {
		t.Errorf("teardown: %v %v", got, err)
	}
	next, err := plugin(fmt.Sprintf(`{"name":"net2","id":"3f259bab","options":{"socket":"%s"}}`, b.Socket()), "create")
	if text, _ := json.Marshal(next); err != nil || !strings.Contains(string(text), "10.89.1.0/24") {
		t.Errorf("the next network: %s %v", text, err)
	}
	kept, err := plugin(`{"name":"net3","id":"4f259bab","subnets":[{"subnet":"10.90.0.0/24","lease_range":{"start_ip":"10.90.0.9"}}]}`, "create")
	if text, _ := json.Marshal(kept); err != nil || !strings.Contains(string(text), "10.90.0.9") || !strings.Contains(string(text), `"gateway":"10.90.0.1"`) {
		t.Errorf("a range: %s %v", text, err)
	}
	for _, bad := range []string{"", "{", `{"name":"x","subnets":[{"subnet":"fd00::/64"}]}`, `{"name":"x","subnets":[{"subnet":"10.0.0.0/8"}],"options":{"color":"red"}}`} {
		if got, err := plugin(bad, "create"); err == nil || got["error"] == nil {
			t.Errorf("create %q: %v %v", bad, got, err)
		}
	}
}

// TestPodman tests podman 4.3 with a CNI configuration.
func TestPodman(t *testing.T) {
	Need(t, "podman", "runc", "busybox", "curl")
	b := newWithIPv6(t)
	b.Start()
	tmp, err := os.MkdirTemp("/tmp", "uvp")
	if err != nil {
		t.Fatal(err)
	}
	bin, nets := filepath.Join(tmp, "bin"), filepath.Join(tmp, "net")
	for _, dir := range []string{bin, nets} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(uvswitch, filepath.Join(bin, "uvswitch")); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(nets, "net1.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":"net1","plugins":[{"type":"uvswitch","socket":"%s","subnet":"10.50.0.0/24","subnet6":"fd00:dead:beef:50::/64","capabilities":{"portMappings":true,"ips":true,"mac":true,"aliases":true}}]}`, b.Socket()))
	write(filepath.Join(tmp, "containers.conf"), fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
enable_port_reservation = false
[network]
network_backend = "cni"
cni_plugin_dirs = ["%s"]
network_config_dir = "%s"
`, bin, nets))
	path, err := exec.LookPath("podman")
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(bin, "podman"), fmt.Sprintf("#!/bin/sh\nexec %s --root %s/data --runroot %[2]s/run --tmpdir %[2]s/tmp --storage-driver vfs \"$@\"\n", path, tmp))
	if err := os.Chmod(filepath.Join(bin, "podman"), 0o755); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("set -e; export PATH=%s:$PATH CONTAINERS_CONF=%s/containers.conf UVSWITCH_SOCKET=%s; ", bin, tmp, b.Socket())
	podman := func(args string) string {
		t.Helper()
		return b.Sh("host", line+"podman "+args)
	}
	t.Cleanup(func() {
		_, _ = b.TrySh("host", line+"podman rm -f -t 0 --all")
		unmountBelow(tmp)
		os.RemoveAll(tmp)
	})
	root := filepath.Join(tmp, "image")
	b.local("sh", "-c", busyboxImage, root)
	podman("import " + root + ".tar busybox")

	b.CLI("policy", "add", "agent", "egress", "allow", "10.1.0.2", "icmp")
	write(filepath.Join(nets, "boxes.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":"boxes","plugins":[{"type":"uvswitch","socket":"%s","subnet":"10.55.0.0/24","policies":"agent"}]}`, b.Socket()))
	out := podman("run --rm --network boxes localhost/busybox sh -c 'ping -c 1 10.1.0.2; ping -c 1 -W 2 10.1.0.1 || true'")
	contains(t, out, "64 bytes from 10.1.0.2: seq=0 ttl=63", "100% packet loss")
	podman("run -d --name web --network net1 --network-alias www -p 8080:80 localhost/busybox httpd -f -p 80 -h /www")
	out = podman("run --rm --network net1 localhost/busybox sh -c 'ip addr show eth0; ip route; ping -c 1 10.50.0.2; ping -c 1 10.1.0.2; wget -qO- http://10.50.0.2/cgi-bin/who'")
	contains(t, out, "inet 10.50.0.3/24", "default via 10.50.0.1 dev eth0", "64 bytes from 10.50.0.2: seq=0 ttl=64", "64 bytes from 10.1.0.2: seq=0 ttl=63", "you are 10.50.0.3")
	out = podman("run --rm --network net1 localhost/busybox sh -c 'cat /etc/resolv.conf; nslookup www; wget -qO- http://web/cgi-bin/who'")
	contains(t, out, "nameserver 10.50.0.1", "search net1.uvs.internal", "10.50.0.2", "you are fd00:dead:beef:50:")
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/cgi-bin/who"), "you are 10.1.0.2")
	contains(t, b.Sh("host", "curl -sS -m 5 http://127.0.0.1:8080/cgi-bin/who"), "you are ")
	if rules := b.Sh("host", "iptables-save"); strings.Contains(rules, "-A ") {
		t.Errorf("netfilter has rules:\n%s", rules)
	}
	outside6(b)
	b.Eventually("the switch knows that IPv6 leads out", func() bool { return strings.Contains(b.CLI("status"), "leads out") })
	write(filepath.Join(nets, "net6.conflist"), fmt.Sprintf(`{"cniVersion":"1.0.0","name":"net6","plugins":[{"type":"uvswitch","socket":"%s","subnet":"10.51.0.0/24","subnet6":"fd00:51::/64","capabilities":{"portMappings":true,"ips":true,"mac":true}}]}`, b.Socket()))
	podman("run -d --name six --network net6 -p 8086:80 localhost/busybox httpd -f -p 80 -h /www")
	out = podman("run --rm --network net6 localhost/busybox sh -c 'ip -6 addr show eth0; ip -6 route; ping -6 -c 1 fd00:51::1'")
	contains(t, out, "inet6 fd00:51::", "default via fd00:51::1 dev eth0", "64 bytes from fd00:51::1")
	contains(t, b.Sh("out", "curl -sS -m 5 'http://["+host6+"]:8086/cgi-bin/who'"), "you are "+out6)
	podman("rm -f -t 0 web six")
	b.CLI("network", "del", "net6")
	b.CLI("network", "del", "net1") // the page begins with a network that has given no address yet
	commands, expect := fencesOf(t, "podman.md", "sh podman")
	contains(t, b.Sh("host", line+commands), expect...)
	var ports []api.Port
	if b.JSON(&ports, "port", "ls"); len(ports) != 2 {
		t.Errorf("left: %+v", ports)
	}
}
