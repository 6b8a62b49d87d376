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
	Runt:                  {"runt", "the frame is shorter than an Ethernet header", "the sender is broken; capture its port with `uvswitch dump -i NAME`"},
	BadVnetHeader:         {"bad_vnet_header", "the virtio-net header contradicts the frame", "the sender's offload information is wrong; switch the offloads off in the guest"},
	BadSourceMAC:          {"bad_source_mac", "the source MAC is a group address or zero", "the sender is broken, or it forges frames"},
	RxRateExceeded:        {"rx_rate_exceeded", "the port sends faster than its rate (rx_rate), and the queue for waiting packets is full", "normal for TCP, which adapts; see the rate with `uvswitch port show NAME`, change it with `uvswitch port set NAME rx_rate RATE`"},
	PortNotForwarding:     {"port_not_forwarding", "the port is not in state forwarding", "see the state with `uvswitch port show NAME`"},
	GatewayMACStolen:      {"gateway_mac_stolen", "the source MAC is the gateway's own MAC", "a container pretends to be the gateway; check what runs behind the port"},
	GuardSourceMAC:        {"guard_source_mac", "the guard: the source MAC is not the MAC of this port", "if a bridge or a router is behind the port, switch the guard off: `uvswitch port set NAME guard off`"},
	GuardSourceAddress:    {"guard_source_address", "the guard: the source IP address is not an address of this port", "add the port with this address (--ip), or switch the guard off: `uvswitch port set NAME guard off`"},
	GuardARPSender:        {"guard_arp_sender", "the guard: the sender IP or MAC address in an ARP packet is not an address of this port", "look for ARP spoofing; if the sender is right, switch the guard off: `uvswitch port set NAME guard off`"},
	GuardRouter:           {"guard_router", "the guard: an IPv6 router advertisement or redirect came from a port that is not a router", "look for an attack; on the port of a router, switch the guard off: `uvswitch port set NAME guard off`"},
	PortLocked:            {"port_locked", "the port is locked, and the forwarding database has no entry for the source MAC on this port", "add an entry: `uvswitch fdb add MAC dev PORT static`"},
	StationBound:          {"station_bound", "the source MAC belongs to another port, by the guard or by a static or sticky entry", "see the entries with `uvswitch fdb show`; look for a MAC that is used twice"},
	LinkLocalGroup:        {"link_local_group", "the destination is a link-local group address (01:80:c2:00:00:0x), which no bridge forwards", "normal for STP, LLDP and pause frames"},
	SamePort:              {"same_port", "the destination is behind the port from which the frame came", "normal with a bridge behind the port; otherwise switch hairpin mode on: `uvswitch port set NAME hairpin on`"},
	PortIsolated:          {"port_isolated", "the ingress port and the egress port are both isolated", "to allow the traffic: `uvswitch port set NAME isolated off`"},
	NoEgress:              {"no_egress", "the frame was flooded, and no other port accepts it", "normal when the port is alone in its network"},
	ExceedsMTU:            {"exceeds_mtu", "the frame is longer than the egress port's MTU, and it is not a super-frame", "give all ports of the network the same MTU"},
	NotIPv4:               {"not_ipv4", "the frame was sent to the gateway, and it is neither IPv4 nor ARP", "normal for IPv6 multicast; the router supports only IPv4"},
	VLANNotRouted:         {"vlan_not_routed", "a frame with a VLAN tag was sent to the gateway", "send the frame untagged: the gateway is in the untagged network"},
	MalformedPacket:       {"malformed_packet", "a length or the version in the IP, ARP or transport header is wrong", "the sender is broken; capture its port with `uvswitch dump -i NAME`"},
	BadIPChecksum:         {"bad_ip_checksum", "the IPv4 header checksum is wrong", "the sender, or its checksum offload, is broken"},
	MartianSource:         {"martian_source", "the source address is not possible here: it is loopback, multicast or reserved, or its route leads to another network", "check the address and the routes of the sender; the address may be forged"},
	MartianDestination:    {"martian_destination", "the destination is never routed: it is loopback, multicast, broadcast or reserved", "check the destination; normal for multicast"},
	SourceRoute:           {"source_route", "the packet carries the IP option source route", "check the sender: no usual program needs this option"},
	TTLExceeded:           {"ttl_exceeded", "the TTL of the packet expired (answered with ICMP 11/0)", "normal for traceroute; otherwise look for a routing loop"},
	NoRoute:               {"no_route", "no route leads to the destination (answered with ICMP 3/0)", "see `uvswitch route show`; add a route or an uplink"},
	BlackholeRoute:        {"blackhole_route", "the route to the destination is of type blackhole", "see the route with `uvswitch route show`"},
	ProhibitRoute:         {"prohibit_route", "the route to the destination is of type prohibit (answered with ICMP 3/13)", "see the route with `uvswitch route show`"},
	NetworkIsolated:       {"network_isolated", "one of the two networks is isolated", "publish the port, or create the network without --isolated"},
	NetworkInternal:       {"network_internal", "the network is internal: no packet leaves it or enters it", "use a network that is not internal"},
	UplinkDown:            {"uplink_down", "the uplink is down: its device is missing or down, or has no address", "see the cause with `uvswitch status`; the uplink recovers by itself"},
	NotForUs:              {"not_for_us", "the packet came in from the uplink, and it belongs to no flow and to no published port", "publish the port; ignore packets of port scans"},
	NATFiltered:           {"nat_filtered", "the outside port belongs to a container, and the filtering of its network does not accept this sender", "see `uvswitch network ls -o wide`; use a wider --filtering, or publish the port"},
	FragmentNotTranslated: {"fragment_not_translated", "the fragment cannot be translated: it belongs to an ICMP error, or to an SCTP packet whose port would change", "lower the sender's MTU, or use path MTU discovery"},
	FragmentWaits:         {"fragment_waits", "the fragment waited for the first fragment of its packet, which has the ports; meanwhile its port was removed", "nothing to do"},
	FragmentTimeout:       {"fragment_timeout", "the first fragment of the packet, which has the ports, did not arrive in time", "fragments are lost on the way; use path MTU discovery"},
	FragmentInvalid:       {"fragment_invalid", "the fragment overlaps or repeats another fragment of its packet, or it is too short or too long (RFC 1858, RFC 5722)", "look for an attack, for a network that duplicates packets, or for a broken sender"},
	FragmentQueueFull:     {"fragment_queue_full", "too many fragmented packets, from one port or in total", "use path MTU discovery, or smaller datagrams"},
	FragmentationNeeded:   {"fragmentation_needed", "the packet is longer than the egress MTU, and DF forbids fragmentation (answered with ICMP 3/4)", "normal for path MTU discovery; otherwise make the MTUs equal"},
	FlowNotFound:          {"flow_not_found", "the flow of the packet was removed while the packet was processed", "nothing to do: the next packet creates a new flow"},
	FlowInvalid:           {"flow_invalid", "the packet does not start a connection, and it belongs to no known flow", "its flow has expired, or it began before the switch started; connect again"},
	FlowNotResumed:        {"flow_not_resumed", "a TCP segment without a flow, and the flow cannot be recreated: its source port is outside the NAT pool or in use (answered with RST)", "normal after a restart, after `uvswitch flow del` and after a timeout: the program connects again"},
	TCPOutOfWindow:        {"tcp_out_of_window", "the TCP segment is outside the window that its receiver expects (nat.windows: strict)", "the segment is late or forged; with asymmetric paths, set nat.windows: liberal"},
	FlowTableFull:         {"flow_table_full", "the flow table is full, and it has no flow that may be evicted (answered with ICMP 3/13)", "raise nat.flows; see which ports hold the flows with `uvswitch flow stats`"},
	FlowQuota:             {"flow_quota", "the port already has as many flows as one port may have", "raise nat.flows_per_port; see the flows with `uvswitch flow ls --port NAME`"},
	FlowBusy:              {"flow_busy", "two workers created the same flow at the same time; the packet is tried again", "nothing to do"},
	FlowToItself:          {"flow_to_itself", "the packet goes to the outside port of its own source port", "the program sends to itself; let it use 127.0.0.1"},
	FlowClash:             {"flow_clash", "another flow, which is in use, already has the tuple that this flow would get", "use another port, or remove the other flow with `uvswitch flow del`"},
	NATPortsExhausted:     {"nat_ports_exhausted", "NAT has no free outside port for another mapping, or this port of the switch has used up its share (answered with ICMP 3/13)", "widen uplink.ports; see which ports hold them with `uvswitch nat ports`"},
	AddressPairTaken:      {"address_pair_taken", "the protocol has no ports, and another container already uses it with the same remote address", "use it in one container at a time: NAT could not assign the answers otherwise"},
	ICMPErrorUnmatched:    {"icmp_error_unmatched", "the ICMP error is about a packet that belongs to no flow", "normal for late or forged errors"},
	BadICMPChecksum:       {"bad_icmp_checksum", "the checksum of the ICMP error, or of the packet that it quotes, is wrong", "the packet is damaged or forged; check its sender"},
	ICMPRedirectRefused:   {"icmp_redirect_refused", "an ICMP redirect about a translated flow: the receiver cannot reach the gateway that it names", "check which router sends redirects"},
	PublishRefused:        {"publish_refused", "the published port does not accept this source address (--from)", "see the accepted sources with `uvswitch publish ls`"},
	HostUnreachable:       {"host_unreachable", "the route to the destination is of type unreachable (answered with ICMP 3/1)", "see `uvswitch route show`; if the destination is the host's own address, run the switch with --host on"},
	NeighborQueueFull:     {"neighbor_queue_full", "too many packets already wait for the MAC of this neighbor", "the neighbor does not answer ARP; check that it is up"},
	NeighborFailed:        {"neighbor_failed", "the neighbor did not answer ARP (answered with ICMP 3/1)", "check that the container is up and that its address is right"},
	GatewayService:        {"gateway_service", "the packet is for the gateway, which answers only ARP and ping", "normal; the gateway is not the host"},
	PuntQueueFull:         {"punt_queue_full", "the queue to the slow path is full", "look for a flood of ARP, pings or new neighbors on the port"},
	PuntRateLimited:       {"punt_rate_limited", "the port sends more to the slow path than one port may", "look for a flood of ARP, pings or new neighbors on the port"},
	InjectQueueFull:       {"inject_queue_full", "the queue from the slow path to a worker is full", "look for a flood of ARP or pings"},
	PortGone:              {"port_gone", "the egress port has been removed", "normal for a moment after a port is removed"},
	PortDown:              {"port_down", "the egress device is down", "bring the interface up inside its namespace"},
	TxRateExceeded:        {"tx_rate_exceeded", "packets for the egress port come faster than its rate (tx_rate), and the queue for waiting packets is full", "normal for TCP, which adapts; see the rate with `uvswitch port show NAME`, change it with `uvswitch port set NAME tx_rate RATE`"},
	TxRefused:             {"tx_refused", "the kernel rejected the frame (EINVAL)", "the sender's offload information is wrong"},
	AckSuperseded:         {"ack_superseded", "a TCP acknowledgement without data, replaced by a newer acknowledgement of the same connection in the same batch", "normal under load: this saves work in the sender's kernel"},
	TxQueueFull:           {"tx_queue_full", "the queue of the egress device is full", "the receiver is slower than its senders"},
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
