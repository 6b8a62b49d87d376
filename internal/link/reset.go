package link

import (
	"encoding/binary"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ResetConnections aborts the TCP connections of this network namespace, if the kernel can do that (CONFIG_INET_DIAG_DESTROY): programs get ECONNABORTED.
func ResetConnections() {
	const listens = 10 // linux include/net/tcp_states.h
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		all, err := netlink.SocketDiagTCP(family)
		if err != nil {
			continue
		}
		for _, s := range all {
			if s.State == listens || s.ID.Destination.IsLoopback() {
				continue
			}
			r := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
			r.AddData(&diagRequest{family, &s.ID})
			_, _ = r.Execute(unix.NETLINK_INET_DIAG, 0)
		}
	}
}

// A diagRequest names a socket of TCP (linux include/uapi/linux/inet_diag.h, struct inet_diag_req_v2).
type diagRequest struct {
	family uint8
	id     *netlink.SocketID
}

// Len implements nl.NetlinkRequestData.
func (r *diagRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData.
func (r *diagRequest) Serialize() []byte {
	const allStates = 0xffffffff
	b := binary.NativeEndian.AppendUint32([]byte{r.family, unix.IPPROTO_TCP, 0, 0}, allStates)
	b = binary.BigEndian.AppendUint16(b, r.id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, r.id.DestinationPort)
	for _, ip := range []net.IP{r.id.Source, r.id.Destination} {
		var room [16]byte
		if r.family == unix.AF_INET {
			copy(room[:], ip.To4())
		} else {
			copy(room[:], ip.To16())
		}
		b = append(b, room[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, r.id.Interface)
	b = binary.NativeEndian.AppendUint32(b, r.id.Cookie[0])
	return binary.NativeEndian.AppendUint32(b, r.id.Cookie[1])
}
