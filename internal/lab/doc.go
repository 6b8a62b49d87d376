// Package lab is a playground: namespaces that play two containers, a host and the outside, joined by a switch of
// their own, and a guided tour through them. It touches nothing else on the machine, needs no tool that the kernel
// does not bring, and leaves nothing behind.
//
//	 web          db          ns1 (plugged by hand, in the tour)
//	  |eth0        |eth0        |veth
//	+-+------------+------------+--+
//	|  uvswitch, in namespace host |
//	+--------------+---------------+
//	               |eth0 198.51.100.1
//	               |
//	              out   198.51.100.2, and 203.0.113.8 beyond
package lab
