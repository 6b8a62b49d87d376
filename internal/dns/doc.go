// Package dns answers questions for names: those of the switch's networks by itself, and others by asking servers of the host.
//
//	Server.Ask ──► Zones.answer ──┬─ a name of ours ──► reply
//	                              └─ another one ──► forwarder.ask ──► the host's servers ──► reply
//
// Zones are a snapshot. The daemon makes a new one after each change. The package sees messages; package router takes them out of datagrams.
//
// Sources: RFC 1035; RFC 2308 (negative answers); RFC 6761 (localhost); RFC 6891 (EDNS); RFC 7766 (TCP); RFC 8482 (ANY).
package dns
