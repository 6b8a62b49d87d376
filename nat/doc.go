// Package nat is a connection tracker with address translation: masquerade (SNAT) for packets that leave by the
// uplink, DNAT for published ports, and NAT hairpinning. It translates TCP, UDP, SCTP, ICMP queries, ICMP errors
// together with the headers that they quote, and protocols without ports by their addresses alone.
//
// PreRouting and PostRouting run per batch on the workers and take no lock, except for fragments and for TCP with
// strict windows. An established flow is found by one hash lookup. A new flow is inserted under both of its tuples by
// compare-and-swap. The slow path calls Expire, Retire and Reclaim. The package does no I/O and knows no routes,
// starts no goroutine and reads no clock.
//
// Sources: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP), RFC 7857, RFC 1624 (checksums). The TCP states and
// transitions have the names of linux net/netfilter/nf_conntrack_proto_tcp.c.
package nat
