// Package filter is tcpdump's filter language over the bytes of an Ethernet frame: primitives (`tcp port 80`, `src net
// 10.0.0.0/8`, `vlan`, `greater 1000`), byte accesses (`tcp[tcpflags] & tcp-syn != 0`), `and`, `or`, `not` and brackets.
//
// A filter allocates nothing while it matches, so that a worker may run it before it copies. As in a BPF program, a look
// beyond the end of the frame rejects it, whatever stands around (libpcap's optimizer may look at other things first). Names
// are not resolved; some ports have names.
//
// The language is that of pcap-filter(7); the test holds it to tcpdump itself. Left out: protocol chains, MPLS, PPPoE,
// wireless and the packet filter's own primitives.
package filter
