package cni

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
	"github.com/uvswitch/uvswitch/internal/link"
)

func configured(t *testing.T, text string) *conf {
	t.Helper()
	c, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Without the key network, a configuration with a subnet has a network of its own; one without uses network default.
func TestNetworkOfConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		`{"name":"pods"}`:                                          "default",
		`{"name":"pods","subnet":"10.5.0.0/16"}`:                   "pods",
		`{"name":"pods","subnet":"10.5.0.0/16","network":"other"}`: "other",
	} {
		if got := configured(t, text).Network; got != want {
			t.Errorf("%s: network %s, want %s", text, got, want)
		}
	}
	if _, err := parse([]byte(`{"mtu":"large"}`)); err == nil {
		t.Error("a text as mtu is accepted")
	}
}

func TestAttachmentOf(t *testing.T) {
	c := configured(t, `{"name":"pods","subnet":"10.5.0.0/16","mtu":1400,"isolated":true,"runtimeConfig":{
		"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}],"mac":"02:00:00:00:00:05",
		"bandwidth":{"ingressRate":1000000,"ingressBurst":8,"egressRate":2000000,"egressBurst":9223372036854775807}}}`)
	a := c.attachmentOf(&skel.CmdArgs{ContainerID: "0123456789abcdef", Netns: "/run/netns/x", IfName: "eth0"})
	if a.Network != (api.NetworkAdd{Name: "pods", Subnet: "10.5.0.0/16", MTU: 1400, Isolated: true}) || a.MAC != "02:00:00:00:00:05" || a.Netns != "/run/netns/x" || a.Ifname != "eth0" {
		t.Errorf("%+v", a)
	}
	if len(a.Publish) != 1 || a.Publish[0].HostPort != 8080 {
		t.Errorf("%+v", a.Publish)
	}
	// ingress is what the container receives; bursts are in bits, and limited to what a port can have.
	if a.Set["rate_to"] != "1mbit/"+api.Setting(jsonNumber(api.MinBurst))+"b" || a.Set["rate_from"] != "2mbit/"+api.Setting(jsonNumber(api.MaxBurst))+"b" {
		t.Errorf("%v", a.Set)
	}
	if !strings.HasPrefix(a.Port, prefixOf("cni", "pods")) || !strings.Contains(a.Port, "0123456789ab") || len(a.Port) > 63 {
		t.Errorf("port %q", a.Port)
	}
	for _, text := range []string{`"8080:80, 53:53/udp"`, `["8080:80", "53:53/udp"]`} {
		if got := configured(t, `{"name":"pods","publish":`+text+`}`).attachmentOf(&skel.CmdArgs{}).Ports.List(); !slices.Equal(got, []string{"8080:80", "53:53/udp"}) {
			t.Errorf("publish %s: %q", text, got)
		}
	}
	same := c.attachmentOf(&skel.CmdArgs{ContainerID: "0123456789abcdef", IfName: "eth0"}).Port
	other := c.attachmentOf(&skel.CmdArgs{ContainerID: "0123456789abcdef", IfName: "eth1"}).Port
	if same != a.Port || other == a.Port {
		t.Errorf("the name of a port depends on the container and the device: %s, %s, %s", a.Port, same, other)
	}
}

func jsonNumber(v uint64) string { b, _ := json.Marshal(v); return string(b) }

// The result of ADD adds the device to the result of the plugin before.
func TestResult(t *testing.T) {
	c := configured(t, `{"cniVersion":"1.0.0","name":"pods","dns":{"nameservers":["10.0.0.53"]},"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"lo"}],"ips":[],"routes":[]},
		"runtimeConfig":{"dns":{"searches":["cluster.local"]}}}`)
	got := attach.Result{MAC: "02:75:0a:05:00:02", MTU: 1400, Addr: netip.MustParsePrefix("10.5.0.2/16"), Gateway: netip.MustParseAddr("10.5.0.1"),
		Routes: []link.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.5.0.1")}}}
	r, err := c.result(&skel.CmdArgs{IfName: "eth0", Netns: "/run/netns/x"}, got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"name":"lo"}`, `{"mac":"02:75:0a:05:00:02","mtu":1400,"name":"eth0","sandbox":"/run/netns/x"}`, `"interface":1`, `"address":"10.5.0.2/16"`,
		`"gateway":"10.5.0.1"`, `{"dst":"0.0.0.0/0","gw":"10.5.0.1"}`, `"nameservers":["10.0.0.53"]`, `"search":["cluster.local"]`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%s lacks %s", b, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"ndProxy": "true"}`:                    "key ndProxy needs true or false, without quotes, and has: string",
		`{"mtu": "1500"}`:                        "key mtu needs a whole number, without quotes, and has: string",
		`{"nat6": true}`:                         "key nat6 needs a text in quotes, and has: bool",
		`{"runtimeConfig": {"ips": "10.0.0.1"}}`: "key runtimeConfig.ips needs a list, and has: string",
		`{"nd-proxy": true}`:                     `unknown key "nd-proxy"; did you mean "ndProxy"?`,
		`{"Nd_Proxy": true}`:                     `unknown key "Nd_Proxy"; did you mean "ndProxy"?`,
		`{"subnet6": "auto"}`:                    "subnet6 needs subnet",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := parse([]byte(`{"ndproxy": true, "other-key": 1}`)); err != nil {
		t.Error(err)
	}
}

// Errors have the codes of the CNI specification, section 5.
func TestExplain(t *testing.T) {
	own := types.NewError(types.ErrInvalidNetNS, "x", "")
	for _, tt := range []struct {
		err  error
		code uint
	}{
		{context.DeadlineExceeded, types.ErrTryAgainLater}, {api.Errorf(400, "x"), types.ErrInvalidNetworkConfig}, {api.Errorf(409, "x"), types.ErrInternal},
		{own, types.ErrInvalidNetNS},
	} {
		var e *types.Error
		if !errors.As(explain(tt.err), &e) || e.Code != tt.code {
			t.Errorf("%v: %v, want code %d", tt.err, explain(tt.err), tt.code)
		}
	}
	if explain(nil) != nil {
		t.Error("nil is an error")
	}
	if got := explain(api.Errorf(400, "--nd-proxy needs --nat6 routed: see `uvswitch network add --nd-proxy`")).Error(); !strings.Contains(got, "ndProxy needs nat6 routed: see `uvswitch network add --nd-proxy`") {
		t.Error(got)
	}
	if m := extraArgs("IgnoreUnknown=1;IP=10.5.0.9;MAC=02:00:00:00:00:09"); m["IP"] != "10.5.0.9" || m["MAC"] != "02:00:00:00:00:09" {
		t.Errorf("%v", m)
	}
}

func TestNetavarkAttachment(t *testing.T) {
	const text = `{"container_id":"0123456789abcdef","network":{"name":"pods","id":"77","subnets":[{"subnet":"10.89.0.0/24","gateway":"10.89.0.1"}],"options":{"mtu":"1400","publish":"8443:443","isolated":"false","socket":"/s"}},
		"port_mappings":[{"container_port":80,"host_ip":"","host_port":8080,"protocol":"tcp","range":3}],"network_options":{"interface_name":"eth0","static_ips":["10.89.0.7"],"static_mac":"02:00:00:00:00:07"}}`
	read := func(text string) (*attach.Attachment, error) {
		var q netavarkCall
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			t.Fatal(err)
		}
		return q.attachment("/run/netns/x")
	}
	a, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	if a.Network != (api.NetworkAdd{Name: "pods", Subnet: "10.89.0.0/24", Gateway: "10.89.0.1", MTU: 1400}) || a.IP != "10.89.0.7" || a.MAC != "02:00:00:00:00:07" {
		t.Errorf("%+v", a)
	}
	if a.Ports != "8443:443" {
		t.Errorf("option publish: %q", a.Ports)
	}
	if spec, err := a.Publish[0].Spec(); spec != "8080-8082:80/tcp" || err != nil {
		t.Errorf("%s, %v", spec, err)
	}
	both := strings.NewReplacer(`"gateway":"10.89.0.1"}`, `"gateway":"10.89.0.1"},{"subnet":"fd00:9::/64","gateway":"fd00:9::1"}`, `"10.89.0.7"`, `"fd00:9::7","10.89.0.7"`)
	if a, err = read(both.Replace(text)); err != nil || a.Network.Subnet6 != "fd00:9::/64" || a.Network.Gateway6 != "fd00:9::1" || a.IP != "10.89.0.7" || a.IP6 != "fd00:9::7" {
		t.Errorf("both families: %+v, %v", a, err)
	}
	if a, err = read(strings.Replace(text, `"id":"77"`, `"id":"77","ipv6_enabled":true`, 1)); err != nil || a.Network.Subnet6 != "auto" {
		t.Errorf("IPv6 without a subnet: %+v, %v", a, err)
	}
	for want, replace := range map[string][2]string{
		"subnets 10.89.0.0/24 and 10.9":  {`"gateway":"10.89.0.1"}`, `"gateway":"10.89.0.1"},{"subnet":"10.90.0.0/24"}`},
		"the network has no IPv4 subnet": {`{"subnet":"10.89.0.0/24","gateway":"10.89.0.1"}`, ``},
		`option "color" does not exist`:  {`"mtu":"1400"`, `"color":"red"`},
		"option mtu=large: the value":    {`"mtu":"1400"`, `"mtu":"large"`},
		"container_id or interface_name": {`"interface_name":"eth0"`, `"interface_name":""`},
		"10.89.0.7 and 10.89.0.8 are re": {`"10.89.0.7"`, `"10.89.0.7","10.89.0.8"`},
	} {
		if _, err := read(strings.Replace(text, replace[0], replace[1], 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
