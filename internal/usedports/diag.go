package usedports

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A diagRequest asks for the sockets of a protocol and a family: struct inet_diag_req_v2 (linux include/uapi/linux/inet_diag.h), 56 bytes.
type diagRequest struct {
	family, proto uint8
	states        uint32 // a bit for each state
}

func (r diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, r.proto
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return b
}

// diag reads the sockets of a table of /proc/net by NETLINK_SOCK_DIAG (sock_diag(7)), as ss does: a table of very many sockets takes
// the kernel a hundred times as long. ok is false if this kernel cannot.
func diag(name string) (all []Listener, ok bool) {
	r := diagRequest{family: unix.AF_INET, states: ^uint32(0)}
	proto := name
	if name == "tcp6" || name == "udp6" {
		r.family, proto = unix.AF_INET6, name[:3]
	}
	switch proto {
	case "tcp":
		r.proto, r.states = unix.IPPROTO_TCP, 1<<unix.BPF_TCP_LISTEN
	case "udp":
		r.proto = unix.IPPROTO_UDP
	default:
		return nil, false
	}
	q := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	q.AddData(r)
	answers, err := q.Execute(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, false
	}
	for _, a := range answers { // struct inet_diag_msg
		if len(a) < 72 {
			return nil, false
		}
		addr, _ := netip.AddrFromSlice(a[8:24])
		if a[0] == unix.AF_INET {
			addr = netip.AddrFrom4([4]byte(a[8:12]))
		}
		if port := binary.BigEndian.Uint16(a[4:]); port != 0 {
			all = append(all, Listener{proto, addr.Unmap(), port, strconv.Itoa(int(binary.NativeEndian.Uint32(a[68:])))})
		}
	}
	return all, true
}
