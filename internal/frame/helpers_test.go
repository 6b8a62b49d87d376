package frame_test

import (
	"net"
	"net/netip"
)

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}
