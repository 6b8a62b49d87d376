package relay

import (
	"cmp"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// bind binds a port of the host, and makes the socket one of a server if the port is served. A socket for every address is one of IPv6, which
// takes IPv4, too (RFC 3493, 3.7), unless the host's kernel has no IPv6. It also binds addresses that the host does not have yet (IP_FREEBIND).
func bind(proto string, host netip.Addr, port uint16, serve bool) (fd int, err error) {
	typ := unix.SOCK_STREAM
	if proto == "udp" {
		typ = unix.SOCK_DGRAM
	}
	if host.IsUnspecified() {
		host = netip.IPv6Unspecified()
	}
	family := unix.AF_INET6
	if host.Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) && host.IsUnspecified() {
		host, family = netip.IPv4Unspecified(), unix.AF_INET
		fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	}
	if err != nil {
		return -1, err
	}
	type option struct{ level, name, value int }
	options := []option{{unix.IPPROTO_IP, unix.IP_FREEBIND, 1}}
	switch {
	case family == unix.AF_INET6:
		options = append(options, option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0}, option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
	default:
		options = append(options, option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
	}
	if proto == "tcp" && serve { // connections of the last one who served the port may still be there
		options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	for _, o := range options {
		err = cmp.Or(err, unix.SetsockoptInt(fd, o.level, o.name, o.value))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(host, port), 0))
	}
	switch {
	case err != nil || !serve && proto == "tcp":
	case !serve: // what comes is not kept for nobody
		none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	case proto == "tcp":
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// sockaddr is an address as the kernel's calls take it; zone is the index of a device.
func sockaddr(a netip.AddrPort, zone uint32) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port()), ZoneId: zone}
}

// addrPort is the inverse of sockaddr. An IPv4 address may be mapped into IPv6.
func addrPort(sa unix.Sockaddr) (a netip.AddrPort, zone uint32) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), 0
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), sa.ZoneId
	}
	return a, 0
}

// askedAddr is the address that a datagram came for, from what recvmsg(2) says besides; invalid if it does not say it.
func askedAddr(control []byte) (a netip.Addr) {
	for len(control) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return a
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12])) // struct in_pktinfo: ipi_addr
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16]))
		}
		control = rest
	}
	return a
}

// answerFrom makes sendmsg(2) send from an address.
func answerFrom(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}
