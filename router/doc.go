// Package router is the IPv4 router between the networks and the uplink: its forwarding table (FIB), its neighbors,
// its gateway addresses, ARP, and the ICMP messages that it sends.
//
// It has two halves. Route and Resolve run per batch on the workers and read snapshots without a lock. Everything
// else runs outside the workers, may allocate, and sends through an Output. The package starts no goroutine, reads no
// clock and translates no address (package nat does).
//
// Sources: RFC 1812 (requirements for routers), RFC 826 and RFC 5227 (ARP), RFC 792 (ICMP), RFC 1191 (path MTU).
package router
