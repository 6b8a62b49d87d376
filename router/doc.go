// Package router is the IPv4 router behind every network: its forwarding table (FIB), its neighbors, the gateway
// addresses it answers for, ARP, and the ICMP messages it sends.
//
// Two halves: Route and Resolve run per batch on the workers and only read snapshots; everything else runs on the
// housekeeper, which may allocate, and sends through an Output. The package starts no goroutine, reads no clock
// and translates no address (that is nat's).
//
// Sources: RFC 1812 (requirements for routers), RFC 826 and RFC 5227 (ARP), RFC 792 (ICMP), RFC 1191 (path MTU).
package router
