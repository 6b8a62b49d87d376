// Package nat is a connection tracker with address translation: masquerade (SNAT) for what leaves by the uplink,
// DNAT for published ports, NAT hairpinning between them. TCP, UDP, ICMP queries, and ICMP errors with the headers
// that they quote.
//
// PreRouting and PostRouting run per batch on the workers and take no lock (but fragments do, and TCP with strict windows): an established flow is found by one
// hash look-up, a new one is inserted with both its tuples by compare-and-swap. Expire and Reclaim are the
// housekeeper's. The package knows no ports' wires and no routes, starts no goroutine and reads no clock.
//
// Sources: RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP), RFC 7857, RFC 1624 (checksums); the states' names and
// transitions are those of linux net/netfilter/nf_conntrack_proto_tcp.c.
package nat
