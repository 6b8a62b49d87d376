// Package lab is a playground with a guided tour. Its namespaces represent two containers, a host and the outside network, and
// its own switch connects them. The lab changes nothing else on the machine, needs no other tools, and leaves nothing behind.
//
//	 web          db          ns1 (plugged by hand, in the tour)
//	  |eth0        |eth0        |veth
//	+-+------------+------------+--+
//	|  uvswitch, in namespace host |
//	+--------------+---------------+
//	               |eth0 198.51.100.1, 2001:db8:51::1
//	               |
//	              out   198.51.100.2, 2001:db8:51::2; beyond it 203.0.113.8 and 2001:db8:113::8
package lab
