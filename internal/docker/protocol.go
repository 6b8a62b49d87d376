package docker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
)

// The bodies of libnetwork's remote driver protocol, with the keys that the driver uses; unknown keys of later versions are
// ignored.
// Source: moby libnetwork/drivers/remote/api/api.go.

type networkID struct{ NetworkID string }

type endpointID struct{ NetworkID, EndpointID string }

type createNetwork struct {
	NetworkID string
	Options   struct {
		Generic  map[string]any `json:"com.docker.network.generic"` // -o KEY=VALUE
		Internal bool           `json:"com.docker.network.internal"`
		IPv6     bool           `json:"com.docker.network.enable_ipv6"`
	}
	IPv4Data, IPv6Data []struct{ Pool, Gateway string }
}

type endpointInterface struct {
	Address     string `json:",omitempty"`
	AddressIPv6 string `json:",omitempty"`
	MacAddress  string `json:",omitempty"`
}

type createEndpoint struct {
	endpointID
	Interface endpointInterface
	Options   struct {
		Tenant string `json:"uvswitch.tenant"` // --driver-opt, driver_opts
		Policy string `json:"uvswitch.policy"` // likewise
	}
}

// createEndpointAnswer has only those fields that were empty in the request.
type createEndpointAnswer struct{ Interface endpointInterface }

type join struct {
	endpointID
	SandboxKey string
}

type joinAnswer struct {
	InterfaceName         struct{ SrcName, DstPrefix string }
	Gateway               string `json:",omitempty"`
	GatewayIPv6           string `json:",omitempty"`
	DisableGatewayService bool   `json:",omitempty"`
}

type endpointInfo struct{ Value map[string]string }

type programExternal struct {
	endpointID
	Options struct {
		PortMap []portBinding `json:"com.docker.network.portmap"`
	}
}

// portBinding is one -p: a container port and a host port, where host port 0 means any.
type portBinding struct {
	Proto                       uint8 // IP protocol
	Port, HostPort, HostPortEnd uint16
	HostIP                      string
	more                        int // number of further consecutive ports, on both sides (joinRanges)
}

const idChars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// validID reports whether id can be one of Docker's IDs. Names are derived from it.
func validID(id string) bool { return len(id) > 0 && len(id) <= 128 && strings.Trim(id, idChars) == "" }

// ids returns the IDs of a request, which must be valid.
func (q createNetwork) ids() []string { return []string{q.NetworkID} }
func (q networkID) ids() []string     { return []string{q.NetworkID} }
func (q endpointID) ids() []string    { return []string{q.NetworkID, q.EndpointID} }

// network converts the request into a network of the switch.
func (q createNetwork) network() (*network, error) {
	if len(q.IPv6Data) > 1 {
		return nil, fmt.Errorf("the network has %d IPv6 subnets; it can have one (--ipv6 --subnet fd00:1::/64)", len(q.IPv6Data))
	}
	if len(q.IPv4Data) != 1 {
		return nil, fmt.Errorf("the network has %d IPv4 subnets; it needs exactly one (--subnet 172.30.0.0/16)", len(q.IPv4Data))
	}
	pool := q.IPv4Data[0]
	gateway, _, _ := strings.Cut(pool.Gateway, "/")
	n := &network{ICC: true, Add: api.NetworkAdd{Name: madeName(q.NetworkID), Subnet: pool.Pool, Gateway: gateway, MTU: 1500, Internal: q.Options.Internal, Isolated: true}}
	if p, err := netip.ParsePrefix(pool.Pool); err == nil && gateway == "" {
		n.Add.Gateway = p.Addr().Next().String()
	}
	if len(q.IPv6Data) == 1 {
		n.Add.Subnet6 = q.IPv6Data[0].Pool
		n.Add.Gateway6, _, _ = strings.Cut(q.IPv6Data[0].Gateway, "/")
	}
	for k, v := range q.Options.Generic {
		i := slices.IndexFunc(networkOptions, func(o option) bool { return slices.Contains(o.names, k) })
		if i < 0 {
			var known []string
			for _, o := range networkOptions {
				known = append(known, o.names[0])
			}
			return nil, fmt.Errorf("-o %s: this option does not exist; the options are %s", k, strings.Join(known, ", "))
		}
		why := refusal("")
		if err := networkOptions[i].set(n, fmt.Sprint(v)); errors.As(err, &why) {
			return nil, fmt.Errorf("-o %s=%v %w", k, v, why)
		} else if err != nil {
			return nil, fmt.Errorf("-o %s=%v: the value is not valid for this option", k, v)
		}
	}
	return n, nil
}

var protocols = map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"}

// withoutDuplicates removes the IPv6 copies that Docker 28 and later send beside each IPv4 binding.
func withoutDuplicates(list []portBinding) (out []portBinding) {
	all := make([]attach.PortMapping, len(list))
	for i, b := range list {
		all[i] = b.mapping(b.HostPort)
	}
	for i, b := range list {
		if !all[i].IsDuplicate(all) {
			out = append(out, b)
		}
	}
	return out
}

// mapping returns the binding to the given host port.
func (b portBinding) mapping(host uint16) attach.PortMapping {
	return attach.PortMapping{HostIP: b.HostIP, HostPort: int(host), ContainerPort: int(b.Port), Protocol: protocols[b.Proto], Count: b.more + 1}
}

// joinRanges joins consecutive bindings into one: Docker sends -p 3000-3999:3000-3999 as a thousand bindings.
func joinRanges(list []portBinding) (out []portBinding) {
	for _, b := range list {
		if b.HostPortEnd == 0 {
			b.HostPortEnd = b.HostPort
		}
		b.more = 0
		if len(out) > 0 && b.HostPort != 0 && b.HostPort == b.HostPortEnd {
			if l := &out[len(out)-1]; l.HostPort == l.HostPortEnd && l.Proto == b.Proto && l.HostIP == b.HostIP && l.HostPort != 0 &&
				int(b.HostPort) == int(l.HostPort)+l.more+1 && int(b.Port) == int(l.Port)+l.more+1 {
				l.more++
				continue
			}
		}
		out = append(out, b)
	}
	return out
}

// hosts returns the host ports to try, in order: those that were requested, or random ones from the dynamic range.
func (b portBinding) hosts() ([]uint16, error) {
	addr, err := netip.ParseAddr(b.HostIP)
	switch {
	case b.HostIP != "" && err != nil:
		return nil, fmt.Errorf("-p: %q is not an IP address of the host", b.HostIP)
	case err == nil && addr.Zone() != "":
		return nil, fmt.Errorf("-p [%s]: a port cannot be published on a link-local address", b.HostIP)
	}
	if b.HostPort == 0 {
		out := make([]uint16, anyTries)
		for i := range out {
			out[i] = anyLow + uint16(rand.IntN(anyHigh-anyLow+1))
		}
		return out, nil
	}
	end := max(b.HostPort, b.HostPortEnd)
	out := make([]uint16, 0, int(end-b.HostPort)+1)
	for p := int(b.HostPort); p <= int(end); p++ {
		out = append(out, uint16(p))
	}
	return out, nil
}

// The host ports for "any": the range of dynamic ports (RFC 6335, section 6), and the number of attempts.
const anyLow, anyHigh, anyTries = 49152, 65535, 64

// spec returns the binding to the given host port in the form of api.PublishAdd.
func (b portBinding) spec(host uint16) (string, error) {
	if protocols[b.Proto] == "" {
		return "", fmt.Errorf("-p: IP protocol %d cannot be published; use tcp, udp or sctp", b.Proto)
	}
	if b.Port == 0 {
		return "", errors.New("-p: the container's port is missing")
	}
	return b.mapping(host).Spec()
}
