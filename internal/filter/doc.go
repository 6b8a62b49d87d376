// Package filter implements tcpdump's filter language for Ethernet frames: primitives (`tcp port 80`, `src net
// 10.0.0.0/8`, `vlan`, `greater 1000`), byte accesses (`tcp[tcpflags] & tcp-syn != 0`), `and`, `or`, `not` and brackets.
//
// A filter allocates nothing while it matches, so a worker can run it before it copies a frame. As in a BPF program, an
// access beyond the end of the frame rejects the frame, whatever the rest of the expression (libpcap's optimizer may change
// the order of accesses). Host names are not resolved; some port names are known.
//
// The language is that of pcap-filter(7); the test compares the package with tcpdump itself. Not supported: protocol
// chains, MPLS, PPPoE, wireless, and primitives for OpenBSD's packet filter.
package filter
