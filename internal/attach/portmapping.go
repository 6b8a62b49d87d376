package attach

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
)

// A PortMapping is a published port as container runtimes describe it. Its JSON is that of CNI's capability portMappings.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp when empty
	HostIP        string `json:"hostIP"`
	Count         int    `json:"-"` // number of consecutive ports, on both sides; 0 means 1
}

// Mappings are the runtime's port mappings that the switch publishes, without those of IsDuplicate. The runtime of an ordinary user, such as
// rootless podman, listens on the host's ports itself; that user's switch, which has only that user's sockets, cannot listen there as well.
func (a *Attachment) Mappings(ctx context.Context) ([]PortMapping, error) {
	if len(a.Publish) > 0 && api.InUserNamespace() {
		if st, err := a.Switch.Status(ctx); err != nil || st.Uplink.Kind == model.KindSockets {
			return nil, err
		}
	}
	var list []PortMapping
	for _, p := range a.Publish {
		if p.HostPort != 0 && !p.IsDuplicate(a.Publish) {
			list = append(list, p)
		}
	}
	return list, nil
}

// IsDuplicate reports whether p is the IPv6 copy of an IPv4 mapping in list: runtimes may send both.
func (p PortMapping) IsDuplicate(list []PortMapping) bool {
	return p.HostIP == "::" && slices.ContainsFunc(list, func(o PortMapping) bool {
		return (o.HostIP == "" || o.HostIP == "0.0.0.0") && o.HostPort == p.HostPort && o.ContainerPort == p.ContainerPort && o.Protocol == p.Protocol
	})
}

// Spec returns p in the form of api.PublishAdd.
func (p PortMapping) Spec() (string, error) {
	if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort <= 0 || p.ContainerPort > 65535 {
		return "", fmt.Errorf("port mapping %d:%d is not valid; a port is 1 to 65535", p.HostPort, p.ContainerPort)
	}
	host := strconv.Itoa(p.HostPort)
	if p.Count > 1 {
		host += "-" + strconv.Itoa(p.HostPort+p.Count-1)
	}
	if p.HostIP != "" && p.HostIP != "0.0.0.0" && p.HostIP != "::" {
		ip, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			return "", fmt.Errorf("port mapping %d:%d: %q is not an address of the host", p.HostPort, p.ContainerPort, p.HostIP)
		}
		if ip.Is6() {
			host = "[" + p.HostIP + "]:" + host
		} else {
			host = p.HostIP + ":" + host
		}
	}
	return fmt.Sprintf("%s:%d/%s", host, p.ContainerPort, p.Proto()), nil
}

// Proto returns the name of the protocol in lower case, tcp by default.
func (p PortMapping) Proto() string { return cmp.Or(strings.ToLower(p.Protocol), "tcp") }
