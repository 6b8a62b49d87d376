package frame

// Reason is why a frame was dropped. The words are the same wherever a drop is shown.
type Reason uint8

// The reasons, in the order of the stages that use them. Each has a row in reasons below.
const (
	None Reason = iota
	Runt
	BadVnetHeader
	BadSourceMAC
	RxRateExceeded
	PortNotForwarding
	GatewayMACStolen
	GuardSourceMAC
	GuardSourceAddress
	GuardARPSender
	GuardRouter
	PortLocked
	StationBound
	LinkLocalGroup
	SamePort
	PortIsolated
	NoEgress
	ExceedsMTU
	NotIPv4
	VLANNotRouted
	MalformedPacket
	BadIPChecksum
	MartianSource
	MartianDestination
	SourceRoute
	TTLExceeded
	NoRoute
	BlackholeRoute
	ProhibitRoute
	NetworkInternal
	NetworkIsolated
	UplinkDown
	NotForUs
	NATFiltered
	FragmentNotTranslated
	FragmentWaits
	FragmentTimeout
	FragmentInvalid
	FragmentQueueFull
	FragmentationNeeded
	FlowNotFound
	FlowInvalid
	FlowNotResumed
	TCPOutOfWindow
	FlowTableFull
	FlowQuota
	FlowBusy
	FlowToItself
	FlowClash
	NATPortsExhausted
	AddressPairTaken
	ICMPErrorUnmatched
	BadICMPChecksum
	ICMPRedirectRefused
	PublishRefused
	HostUnreachable
	NeighborQueueFull
	NeighborFailed
	GatewayService
	PuntQueueFull
	PuntRateLimited
	InjectQueueFull
	PortGone
	PortDown
	TxRateExceeded
	TxRefused
	TxQueueFull
	AckSuperseded
	NumReasons
)

// ReasonInfo is what a reason is called, what it means, and what to do about it.
type ReasonInfo struct{ Name, Meaning, Remedy string }

var reasons = [NumReasons]ReasonInfo{
	None:                  {"none", "not dropped", ""},
	Runt:                  {"runt", "shorter than an Ethernet header", "the sender is broken; dump its port"},
	BadVnetHeader:         {"bad_vnet_header", "the virtio-net header contradicts the frame", "the sender's offload claims are wrong; switch offloads off in the guest"},
	BadSourceMAC:          {"bad_source_mac", "the source MAC is a group address or zero", "the sender is broken or forges frames"},
	RxRateExceeded:        {"rx_rate_exceeded", "the port sends faster than its rate, and as much as may wait for it waits", "normal for TCP, which adapts; `uvswitch port show`, `uvswitch port set NAME rx_rate`"},
	PortNotForwarding:     {"port_not_forwarding", "the port is not in state forwarding", "see `uvswitch port show`"},
	GatewayMACStolen:      {"gateway_mac_stolen", "the source MAC is the gateway's own", "a container claims to be the gateway: look at the port"},
	GuardSourceMAC:        {"guard_source_mac", "the source MAC is not the one this port was given", "`uvswitch port set NAME guard off` if the port holds a bridge or a router"},
	GuardSourceAddress:    {"guard_source_address", "the source address is not one this port was given", "`uvswitch port set NAME guard off`, or give the port the address"},
	GuardARPSender:        {"guard_arp_sender", "ARP speaks for an address or MAC that this port was not given", "look for ARP spoofing, or switch the guard off"},
	GuardRouter:           {"guard_router", "an IPv6 router advertisement or redirect from a port that is no router", "look for an attack, or switch the guard off on a router's port"},
	PortLocked:            {"port_locked", "the port is locked and the source MAC has no entry on it", "`uvswitch fdb add MAC dev PORT static`"},
	StationBound:          {"station_bound", "the source MAC belongs to another port: by the guard, or by a static or sticky entry", "`uvswitch fdb show`; look for an address that is used twice"},
	LinkLocalGroup:        {"link_local_group", "sent to 01:80:c2:00:00:0x, which no bridge forwards", "normal: STP, LLDP and pause frames"},
	SamePort:              {"same_port", "the destination is behind the port it came from", "normal with a bridge behind the port; else set hairpin mode"},
	PortIsolated:          {"port_isolated", "both ports are isolated", "`uvswitch port set NAME isolated off`"},
	NoEgress:              {"no_egress", "a flooded frame found no port that takes it", "normal when the port is alone"},
	ExceedsMTU:            {"exceeds_mtu", "longer than the egress port's MTU and not a super-frame", "make the MTUs of the network's ports equal"},
	NotIPv4:               {"not_ipv4", "sent to the gateway, and not IPv4 or ARP", "normal for IPv6 multicast; the router speaks IPv4"},
	VLANNotRouted:         {"vlan_not_routed", "a frame with a VLAN tag was sent to the gateway", "the gateway stands in the untagged network"},
	MalformedPacket:       {"malformed_packet", "lengths or version of the IP, ARP or transport header are wrong", "the sender is broken; dump its port"},
	BadIPChecksum:         {"bad_ip_checksum", "the IPv4 header checksum is wrong", "the sender or its offload is broken"},
	MartianSource:         {"martian_source", "the source address cannot be there: loopback, group, reserved, or of another place", "check the address and routes of the sender; somebody may forge it"},
	MartianDestination:    {"martian_destination", "a destination that is never routed: loopback, multicast, broadcast, reserved", "check the destination; normal for multicast"},
	SourceRoute:           {"source_route", "the packet carries a source route option", "nobody needs it; look at the sender"},
	TTLExceeded:           {"ttl_exceeded", "the time to live ran out (answered with ICMP 11/0)", "normal for traceroute; else look for a loop"},
	NoRoute:               {"no_route", "no route to the destination (ICMP 3/0)", "`uvswitch route show`; add a route or an uplink"},
	BlackholeRoute:        {"blackhole_route", "the route says to discard", "`uvswitch route show`"},
	ProhibitRoute:         {"prohibit_route", "the route says prohibited (ICMP 3/13)", "`uvswitch route show`"},
	NetworkIsolated:       {"network_isolated", "one of the two networks is isolated from the others", "publish the port, or make the network without --isolated"},
	NetworkInternal:       {"network_internal", "the network is internal: nothing leaves it or comes in", "use a network that is not internal"},
	UplinkDown:            {"uplink_down", "the way out has no device or address just now", "`uvswitch status`; it returns by itself"},
	NotForUs:              {"not_for_us", "came by the uplink, and neither a flow nor a published port wants it", "publish the port, or ignore scans"},
	NATFiltered:           {"nat_filtered", "the port is a container's, and its network's filter lets in only whom it has sent to", "`uvswitch network ls -o wide`; a wider --filtering, or a published port"},
	FragmentNotTranslated: {"fragment_not_translated", "a fragment that cannot be translated: of an ICMP error, or of SCTP whose port would change", "lower the sender's MTU or use path MTU discovery"},
	FragmentWaits:         {"fragment_waits", "a fragment that came before the first one of its packet, which has the ports; its port was removed while it waited", "none"},
	FragmentTimeout:       {"fragment_timeout", "the first fragment of its packet, which has the ports, did not come", "packets are lost on the way; use path MTU discovery"},
	FragmentInvalid:       {"fragment_invalid", "it overlaps or repeats another fragment of its packet, or is too short or too long (RFC 1858, RFC 5722)", "an attack, a network that duplicates, or a broken sender"},
	FragmentQueueFull:     {"fragment_queue_full", "too many packets in fragments from one port, or in all", "use path MTU discovery, or smaller datagrams"},
	FragmentationNeeded:   {"fragmentation_needed", "too long for the egress MTU, and DF forbids fragments (answered with ICMP 3/4)", "normal for path MTU discovery; else make the MTUs equal"},
	FlowNotFound:          {"flow_not_found", "translation was asked for and its flow has just gone", "the next packet makes a new one"},
	FlowInvalid:           {"flow_invalid", "does not begin a connection and belongs to none", "the flow timed out or was made before the switch started"},
	FlowNotResumed:        {"flow_not_resumed", "a segment of a TCP connection that is not in the table, whose port is not in the pool or is taken (answered with RST)", "normal after a restart, `flow del` or a time-out: the program connects again"},
	TCPOutOfWindow:        {"tcp_out_of_window", "a TCP segment outside of what its receiver expects (nat.windows: strict)", "late or forged; with asymmetric paths say nat.windows: liberal"},
	FlowTableFull:         {"flow_table_full", "the flow table is full, and nobody holds a flow that may go (answered with ICMP 3/13)", "raise nat.flows; `uvswitch flow ls` shows who holds them"},
	FlowQuota:             {"flow_quota", "the port holds as many flows as one port may", "raise nat.flows_per_port; `uvswitch flow ls --port NAME`"},
	FlowBusy:              {"flow_busy", "two workers made the same flow at once; the packet is tried again", "none"},
	FlowToItself:          {"flow_to_itself", "sent from a container's port to the very outside port that this port has", "the program speaks to itself: use 127.0.0.1"},
	FlowClash:             {"flow_clash", "another flow has the tuple that this one would get, and is in use", "use another port, or `uvswitch flow ls` and `flow del`"},
	NATPortsExhausted:     {"nat_ports_exhausted", "no free port on the host's address for another mapping, or this port holds its share (answered with ICMP 3/13)", "widen uplink.ports; `uvswitch nat show`"},
	AddressPairTaken:      {"address_pair_taken", "a protocol without ports, and another container speaks it with the same remote address", "only one at a time can: answers could not be told apart"},
	ICMPErrorUnmatched:    {"icmp_error_unmatched", "an ICMP error about no flow of ours", "normal for late or forged errors"},
	BadICMPChecksum:       {"bad_icmp_checksum", "an ICMP error with a wrong checksum, or whose quote has one", "damaged or forged"},
	ICMPRedirectRefused:   {"icmp_redirect_refused", "an ICMP redirect about a translated flow: its receiver would look for a gateway that is not there", "look at who sends redirects"},
	PublishRefused:        {"publish_refused", "the published port takes no one from that address (--from)", "`uvswitch publish ls`"},
	HostUnreachable:       {"host_unreachable", "the route says unreachable (ICMP 3/1)", "`uvswitch route show`; when it is the host's own address, run with --host on"},
	NeighborQueueFull:     {"neighbor_queue_full", "too many packets wait for one neighbor's MAC", "the neighbor does not answer ARP"},
	NeighborFailed:        {"neighbor_failed", "the neighbor did not answer ARP (ICMP 3/1)", "is the container up, and its address right?"},
	GatewayService:        {"gateway_service", "the gateway answers ARP and ping, and not this", "normal; the gateway is not the host"},
	PuntQueueFull:         {"punt_queue_full", "the housekeeper's queue was full", "a flood of ARP, pings or new neighbors; look at the port"},
	PuntRateLimited:       {"punt_rate_limited", "one port asked the gateway for too much", "look at the port"},
	InjectQueueFull:       {"inject_queue_full", "the queue from the housekeeper to a worker was full", "a flood of ARP or pings"},
	PortGone:              {"port_gone", "the egress port has been removed", "normal for a moment after a removal"},
	PortDown:              {"port_down", "the egress device is down", "bring the interface up inside its namespace"},
	TxRateExceeded:        {"tx_rate_exceeded", "the egress port gets more than its rate, and as much as may wait for it waits", "normal for TCP, which adapts; `uvswitch port show`, `uvswitch port set NAME tx_rate`"},
	TxRefused:             {"tx_refused", "the kernel refused the frame (EINVAL)", "the sender's offload claims are wrong"},
	AckSuperseded:         {"ack_superseded", "a pure TCP acknowledgement, and the same batch held a newer one of its connection that says more", "normal under load: it saves the sender's kernel work"},
	TxQueueFull:           {"tx_queue_full", "the egress device had no room", "the receiver is slower than its senders"},
}

func (r Reason) String() string {
	if r >= NumReasons {
		return "none"
	}
	return reasons[r].Name
}

// ParseReason finds a reason by its name.
func ParseReason(name string) (Reason, bool) {
	for r := None + 1; r < NumReasons; r++ {
		if reasons[r].Name == name {
			return r, true
		}
	}
	return None, false
}

// Info returns the reason's words for people.
func (r Reason) Info() ReasonInfo { return reasons[r] }
