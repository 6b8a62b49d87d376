package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
)

// Netavark's plugin protocol (netavark plugin-API.md): a command with the namespace as argument, and JSON on standard input and
// output.

// netavarkNetwork has the keys of a podman network that the plugin uses.
type netavarkNetwork struct {
	Name        string            `json:"name"`
	ID          string            `json:"id"`
	Internal    bool              `json:"internal"`
	IPv6Enabled bool              `json:"ipv6_enabled"`
	DNSEnabled  bool              `json:"dns_enabled"`
	Options     map[string]string `json:"options"`
	Subnets     []netavarkSubnet  `json:"subnets"`
}

type netavarkSubnet struct {
	Subnet  string `json:"subnet"`
	Gateway string `json:"gateway"`
}

// netavarkCall is the input of setup and teardown.
type netavarkCall struct {
	ContainerID   string          `json:"container_id"`
	ContainerName string          `json:"container_name"`
	Network       netavarkNetwork `json:"network"`
	PortMappings  []struct {
		ContainerPort int    `json:"container_port"`
		HostIP        string `json:"host_ip"`
		HostPort      int    `json:"host_port"`
		Protocol      string `json:"protocol"`
		Range         int    `json:"range"`
	} `json:"port_mappings"`
	NetworkOptions struct {
		InterfaceName string   `json:"interface_name"`
		StaticIPs     []string `json:"static_ips"`
		StaticMAC     string   `json:"static_mac"`
		Aliases       []string `json:"aliases"`
	} `json:"network_options"`
}

// attachment returns the attachment that a call is about.
func (q *netavarkCall) attachment(netns string) (*attach.Attachment, error) {
	n, err := q.Network.settle()
	if err != nil {
		return nil, err
	}
	if q.ContainerID == "" || q.NetworkOptions.InterfaceName == "" {
		return nil, errors.New("container_id or interface_name is missing")
	}
	a := &attach.Attachment{
		Switch: attach.Client(q.Network.Options["socket"]), Network: n, Netns: netns, Ifname: q.NetworkOptions.InterfaceName, MAC: q.NetworkOptions.StaticMAC,
		Port: portName("podman", q.Network.ID, q.ContainerID, q.NetworkOptions.InterfaceName), ID: q.ContainerID, Tenant: q.Network.Options["tenant"],
		Policies: api.Words(q.Network.Options["policy"]), Ports: api.Words(q.Network.Options["publish"]), Aliases: append([]string{attach.PlainName(q.ContainerName)}, q.NetworkOptions.Aliases...),
	}
	if err := takeAddresses(a, q.NetworkOptions.StaticIPs); err != nil {
		return nil, err
	}
	for _, p := range q.PortMappings {
		a.Publish = append(a.Publish, attach.PortMapping{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: p.Protocol, HostIP: p.HostIP, Count: p.Range})
	}
	return a, nil
}

// settle converts a podman network to a network of the switch.
func (n *netavarkNetwork) settle() (api.NetworkAdd, error) {
	out := api.NetworkAdd{Name: n.Name, Internal: n.Internal, Isolated: true}
	for _, s := range n.Subnets {
		to, gateway := &out.Subnet, &out.Gateway
		if strings.Contains(s.Subnet, ":") {
			to, gateway = &out.Subnet6, &out.Gateway6
		}
		if *to != "" {
			return api.NetworkAdd{}, fmt.Errorf("the network has the subnets %s and %s; it can have one of each family", *to, s.Subnet)
		}
		*to, *gateway = s.Subnet, s.Gateway
	}
	if out.Subnet == "" {
		return api.NetworkAdd{}, errors.New("the network has no IPv4 subnet; it needs one (--subnet 10.89.0.0/24)")
	}
	if n.IPv6Enabled && out.Subnet6 == "" {
		out.Subnet6 = "auto"
	}
	for k, v := range n.Options {
		var err error
		switch k {
		case "socket", "tenant", "policy", "publish":
		case "mtu":
			out.MTU, err = strconv.Atoi(v)
		case "isolated":
			out.Isolated, err = strconv.ParseBool(v)
		case "nat6":
			out.NAT6 = v
		case "in6":
			out.In6 = v
		case "ra":
			out.RA = v
		case "nd-proxy":
			out.NDProxy, err = strconv.ParseBool(v)
		case "dns-servers":
			out.DNSServers = api.Words(v)
		case "domain":
			out.Domain = v
		case "protocols":
			if out.Protocols = api.Words(v); v == "" {
				err = errors.New("empty")
			}
		default:
			return api.NetworkAdd{}, fmt.Errorf("option %q does not exist; the options are dns-servers, domain, in6, isolated, mtu, nat6, nd-proxy, policy, protocols, publish, ra, socket, tenant", k)
		}
		if err != nil {
			return api.NetworkAdd{}, fmt.Errorf("option %s=%s: the value is not valid for this option", k, v)
		}
	}
	return out, nil
}

// NetavarkCommands are the commands of the protocol. setup and teardown have the path of the namespace as argument.
var NetavarkCommands = []string{"create", "setup", "teardown", "info"}

// Netavark carries out one command. It writes an error to out in the protocol's form, and returns it: the caller exits with 1.
func Netavark(ctx context.Context, command, netns, version string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, attach.Timeout)
	defer cancel()
	err := netavark(ctx, command, netns, version, in, out)
	if err != nil {
		return errors.Join(err, json.NewEncoder(out).Encode(map[string]string{"error": err.Error()}))
	}
	return nil
}

func netavark(ctx context.Context, command, netns, version string, in io.Reader, out io.Writer) error {
	switch command {
	case "info":
		return json.NewEncoder(out).Encode(map[string]string{"version": version, "api_version": "1.0.0"})
	case "create":
		return createNetwork(ctx, in, out)
	}
	var q netavarkCall
	if err := json.NewDecoder(in).Decode(&q); err != nil {
		return fmt.Errorf("cannot read the request from netavark: %w", err)
	}
	a, err := q.attachment(netns)
	if err != nil {
		return err
	}
	if command == "teardown" {
		return a.Detach(ctx)
	}
	got, err := a.Attach(ctx)
	if err != nil {
		return err
	}
	type subnet struct {
		IPNet   string `json:"ipnet"`
		Gateway string `json:"gateway,omitempty"`
	}
	subnets := []subnet{{got.Addr.String(), got.Gateway.String()}}
	if got.Addr6.IsValid() {
		subnets = append(subnets, subnet{got.Addr6.String(), got.Gateway6.String()})
	}
	for i := range subnets {
		if len(got.Routes) == 0 { // the network is internal
			subnets[i].Gateway = ""
		}
	}
	servers, domains := []string{}, []string{}
	if q.Network.DNSEnabled && len(got.NameServers) > 0 { // podman writes them into the container's resolv.conf
		servers, domains = got.NameServers, []string{got.Domain}
	}
	return json.NewEncoder(out).Encode(map[string]any{
		"dns_search_domains": domains, "dns_server_ips": servers,
		"interfaces": map[string]any{a.Ifname: map[string]any{"mac_address": got.MAC, "subnets": subnets}},
	})
}

// createNetwork checks a network and fills in what is missing: a free subnet, and the gateway. Unknown keys stay as they are. The
// switch's network is created with the first container; when createNetwork chose the subnet, it is created at once.
func createNetwork(ctx context.Context, in io.Reader, out io.Writer) error {
	var all map[string]any
	dec := json.NewDecoder(in)
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		return fmt.Errorf("cannot read the request from netavark: %w", err)
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	var n netavarkNetwork
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("cannot read the request from netavark: %w", err)
	}
	chosen := len(n.Subnets) == 0
	if chosen {
		p, err := freeSubnet(ctx, attach.Client(n.Options["socket"]))
		if err != nil {
			return err
		}
		all["subnets"] = []any{map[string]any{"subnet": p.String(), "gateway": p.Addr().Next().String()}}
		n.Subnets = []netavarkSubnet{{Subnet: p.String()}}
	}
	add, err := n.settle()
	if err != nil {
		return err
	}
	p, err := netip.ParsePrefix(add.Subnet)
	if err != nil || !p.Addr().Is4() {
		return fmt.Errorf("%q is not an IPv4 subnet, such as 10.89.0.0/24", add.Subnet)
	}
	if list, ok := all["subnets"].([]any); ok && !chosen {
		for _, x := range list {
			s, _ := x.(map[string]any)
			named, _ := s["subnet"].(string)
			if p, err := netip.ParsePrefix(named); err == nil && s["gateway"] == nil {
				s["gateway"] = p.Masked().Addr().Next().String() // all other keys stay as they are
			}
		}
	}
	if chosen { // created now, so that the next network gets another subnet
		sw := attach.Client(n.Options["socket"])
		if err := sw.AddNetwork(ctx, add); err != nil {
			return err
		}
		list, err := sw.Networks(ctx)
		if err != nil {
			return errors.Join(err, sw.DeleteNetwork(ctx, add.Name))
		}
		for _, made := range list {
			if made.Name == add.Name && made.Subnet6 != "" {
				all["subnets"] = append(all["subnets"].([]any), map[string]any{"subnet": made.Subnet6, "gateway": made.Gateway6})
			}
		}
	}
	return json.NewEncoder(out).Encode(all)
}
