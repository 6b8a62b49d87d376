package frame

import "strings"

// Reason is why a frame was dropped, or punted. The word is the same wherever a drop is shown.
type Reason uint8

// The reasons, in the order of the stages that use them. Each has a row in reasons below.
const (
	None Reason = iota
	Runt
	BadVnetHeader
	BadSourceMAC
	RxRateExceeded
	InternalError
	PortNotForwarding
	GatewayMACStolen
	GuardSourceMAC
	GuardSourceAddress
	GuardARPSender
	GuardRouter
	GuardNeighbor
	GuardICMPError
	ExtHeaders
	GuardDHCP
	AddressStolen
	GuardVLAN
	GuardDestination
	PortLocked
	StationBound
	LinkLocalGroup
	SamePort
	PortIsolated
	StormLimited
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
	ScopeExceeded
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
	WayChanged
	WayAsked
	NeedsHostStack
	WayNotAllowed
	IPsecPolicy
	FlowToItself
	FlowClash
	NATPortsExhausted
	AddressPairTaken
	PairHostTunnel
	TooManySources
	ProtocolRefused
	PairsFull
	ICMPErrorUnmatched
	BadICMPChecksum
	ICMPRedirectRefused
	PublishRefused
	HostInbound
	PolicyDenied
	PolicyDropped
	HostUnreachable
	NeighborQueueFull
	NeighborFailed
	GatewayService
	DHCPRefused
	DHCPQuota
	DHCPRangeFull
	PuntQueueFull
	PuntRateLimited
	InjectQueueFull
	Connecting
	ConnectRefused
	ConnectUnreachable
	SocketsExhausted
	PingNotAllowed
	NeedsRoot
	PortGone
	PortDown
	TxRateExceeded
	TxRefused
	TxQueueFull
	SlowReceiver
	AckSuperseded
	NumReasons
)

// ReasonInfo is a reason's name, its meaning and its remedy for people, and what happens to a frame with it.
type ReasonInfo struct {
	Stage                 Stage
	Normal                bool // such drops are part of normal operation, as long as they are few
	Name, Meaning, Remedy string
	Punt                  PuntAction
	Error                 ICMPErrorKind
}

// Stage is the part of a frame's way that a reason belongs to.
type Stage uint8

const (
	Ingress Stage = iota
	Guarding
	Switching
	Routing
	Translation
	Neighbors
	Egress
)

func (s Stage) String() string {
	return [...]string{"Ingress", "Guard and learning", "Switching", "Routing", "Translation", "Neighbors and the gateway", "Egress"}[s]
}

// PuntAction is what the slow path does with a frame that is punted for a reason.
type PuntAction uint8

const (
	NoPunt PuntAction = iota // it is dropped at once
	Reject                   // its sender is told, where ICMP has a word for it; it is dropped
	Serve                    // answered, queued or cut, where that is possible; else rejected
	Park                     // it waits with the slow path until it can continue
	Redo                     // it continues at once
)

// ICMPErrorKind is the ICMP type and code that a packet's sender gets; the zero value is silence.
type ICMPErrorKind struct {
	Type, Code uint8
	Sent       bool
}

// IPv6 is the type and code of the ICMPv6 error that says the same (RFC 4443, 3).
func (e ICMPErrorKind) IPv6() ICMPErrorKind {
	switch {
	case e.Type == ICMPTimeExceeded:
		return ICMPErrorKind{ICMPv6TimeExceeded, e.Code, e.Sent}
	case e.Code == CodeFragNeeded:
		return ICMPErrorKind{ICMPv6TooBig, 0, e.Sent}
	}
	codes := map[uint8]uint8{CodeNet: 0, CodeAdminFiltered: 1, codeScope: 2, CodeHost: 3, CodePort: 4}
	return ICMPErrorKind{ICMPv6Unreachable, codes[e.Code], e.Sent}
}

// codeScope is a code of ICMP 3 that IPv4 has not.
const codeScope = 0xff

var timeExceeded = ICMPErrorKind{Type: ICMPTimeExceeded, Sent: true}

func unreachable(code uint8) ICMPErrorKind { return ICMPErrorKind{ICMPUnreachable, code, true} }

var reasons = [NumReasons]ReasonInfo{
	None:                  {Name: "none", Meaning: "not dropped", Remedy: ""},
	Runt:                  {Stage: Ingress, Name: "runt", Meaning: "the frame is shorter than an Ethernet header", Remedy: "the sender is broken; capture its port with `uvswitch dump -i NAME`"},
	BadVnetHeader:         {Stage: Ingress, Name: "bad_vnet_header", Meaning: "the virtio-net header contradicts the frame", Remedy: "the sender's offload information is wrong; switch the offloads off in the guest: `ethtool -K DEV tx off tso off`"},
	BadSourceMAC:          {Stage: Ingress, Name: "bad_source_mac", Meaning: "the source MAC is a group address or zero", Remedy: "the sender is broken, or it forges frames"},
	RxRateExceeded:        {Stage: Ingress, Normal: true, Name: "rx_rate_exceeded", Meaning: "the port sends faster than its rate (rate_from), and the queue for waiting packets is full", Remedy: "normal for TCP, which adapts; see the rate with `uvswitch port show NAME`, change it with `uvswitch port set NAME rate_from RATE`"},
	InternalError:         {Stage: Ingress, Name: "internal_error", Meaning: "uvswitch failed while it handled this frame, or another frame that came with it: this is a fault of uvswitch", Remedy: "report what the switch's log says (\"a fault in the switch\"), as SECURITY.md asks; if a container sends such frames on purpose, `uvswitch port del NAME` ends that"},
	PortNotForwarding:     {Stage: Ingress, Name: "port_not_forwarding", Meaning: "the port is not in state forwarding", Remedy: "see the state with `uvswitch port show NAME`"},
	GatewayMACStolen:      {Stage: Guarding, Name: "gateway_mac_stolen", Meaning: "the source MAC is the gateway's own MAC", Remedy: "a container pretends to be the gateway; check what runs behind the port"},
	GuardSourceMAC:        {Stage: Guarding, Name: "guard_source_mac", Meaning: "the guard: the source MAC is not the MAC of this port", Remedy: "if a bridge or a router is behind the port, switch the guard off: `uvswitch port set NAME guard off`"},
	GuardSourceAddress:    {Stage: Guarding, Name: "guard_source_address", Meaning: "the guard: the source IP address is not an address of this port", Remedy: "if the station may have this address, plug the port in again with it: `uvswitch port del NAME`, and `uvswitch port add` with --ip or --ip6; if a router is behind the port, switch the guard off: `uvswitch port set NAME guard off`"},
	GuardARPSender:        {Stage: Guarding, Name: "guard_arp_sender", Meaning: "the guard: the sender IP or MAC address in an ARP packet is not an address of this port", Remedy: "if the station may have this address, plug the port in again with it: `uvswitch port del NAME`, and `uvswitch port add` with --ip; else look for ARP spoofing; if a router is behind the port, switch the guard off: `uvswitch port set NAME guard off`"},
	GuardRouter:           {Stage: Guarding, Name: "guard_router", Meaning: "an IPv6 router advertisement or redirect came from a port that is not a router; ports without a guard may not send these, either", Remedy: "look for an attack; on the port of a router, or of a device that leads to one: `uvswitch port set NAME servers any`"},
	GuardNeighbor:         {Stage: Guarding, Name: "guard_nd", Meaning: "the guard: an IPv6 packet speaks for a neighbor other than its sender, or is a neighbor discovery message in fragments", Remedy: "look for an attack; a station with a link-local address that is not made from its MAC needs the guard off: `uvswitch port set NAME guard off`"},
	GuardICMPError:        {Stage: Guarding, Name: "guard_icmp_error", Meaning: "the guard: an ICMP error is about a packet that was not sent to this port; it would lower the path MTU of another station, or end its connections", Remedy: "if a router is behind the port, switch the guard off: `uvswitch port set NAME guard off`; else look for an attack"},
	ExtHeaders:            {Stage: Guarding, Name: "ext_headers", Meaning: "the extension headers of an IPv6 packet are more than 8, leave the packet, or do not end in its first fragment", Remedy: "the sender is broken, or it hides what it says; capture its port with `uvswitch dump -i NAME`"},
	GuardDHCP:             {Stage: Guarding, Name: "guard_dhcp", Meaning: "an answer of a DHCP server came from a port that may not be a DHCP server; ports without a guard may not send these, either", Remedy: "look for an attack; on the port of a DHCP server, or of a device that leads to one: `uvswitch port set NAME servers any`"},
	AddressStolen:         {Stage: Guarding, Name: "address_stolen", Meaning: "the sender uses the IP address of the gateway, of the host or of another port: by ARP, by neighbor discovery, as the source of a packet, or by asking whether anybody has it", Remedy: "see whose address it is with `uvswitch port ls`; look for an address that is used twice, or for an attack", Punt: Serve},
	GuardVLAN:             {Stage: Guarding, Name: "guard_vlan", Meaning: "the guard: the frame has a VLAN tag, and the port may send none, or the egress port is the host's or a device's; or other tags follow one with VLAN identifier 0, which no port may send", Remedy: "to allow frames of VLANs between containers: `uvswitch port set NAME vlan any`"},
	GuardDestination:      {Stage: Guarding, Name: "guard_destination", Meaning: "the port must not get this packet: it was sent to the host's port, for an address that the host does not have, and the host would forward it past NAT; or it is a router advertisement, and the port's addresses are being set", Remedy: "send packets for others to the gateway of the network, as the default route does; a new port hears advertisements after some seconds"},
	PortLocked:            {Stage: Guarding, Name: "port_locked", Meaning: "the port is locked, and the forwarding database has no entry for the source MAC on this port", Remedy: "add an entry: `uvswitch fdb add MAC dev PORT static`"},
	StationBound:          {Stage: Guarding, Name: "station_bound", Meaning: "the guard, or a static or sticky entry, binds the source MAC to another port", Remedy: "see the entries with `uvswitch fdb show`; look for a MAC that is used twice"},
	LinkLocalGroup:        {Stage: Switching, Normal: true, Name: "link_local_group", Meaning: "the destination is a link-local group address (01:80:c2:00:00:0x), which no bridge forwards", Remedy: "normal for STP, LLDP and pause frames"},
	SamePort:              {Stage: Switching, Normal: true, Name: "same_port", Meaning: "the destination is behind the port from which the frame came", Remedy: "normal with a bridge behind the port; otherwise switch hairpin mode on: `uvswitch port set NAME hairpin on`"},
	PortIsolated:          {Stage: Switching, Name: "port_isolated", Meaning: "the ingress port and the egress port are both isolated", Remedy: "to allow the traffic: `uvswitch port set NAME isolated off`"},
	StormLimited:          {Stage: Switching, Name: "storm_limited", Meaning: "the port sent more broadcasts, multicasts or frames to unknown MACs in a second than its limit; or the switch made 50,000 copies of them in that second; or several ports did so, and the port used up its part of 100,000 copies, or of those that the worker has time for", Remedy: "look for a loop or a flood behind the port; change its limit with `uvswitch port set NAME storm_bcast N`, storm_mcast or storm_ucast"},
	NoEgress:              {Stage: Switching, Normal: true, Name: "no_egress", Meaning: "the frame was flooded, and no other port accepts it", Remedy: "normal when the port is alone in its network"},
	ExceedsMTU:            {Stage: Switching, Name: "exceeds_mtu", Meaning: "the frame is longer than the egress port's MTU, and it is not a super-frame", Remedy: "give all ports of the network the same MTU: `uvswitch port ls -o wide` shows those of the ports, and `uvswitch doctor` those of their devices"},
	NotIPv4:               {Stage: Routing, Name: "not_ipv4", Meaning: "the frame was sent to the gateway, and it is neither IPv4 nor ARP, nor IPv6 in a network that has IPv6", Remedy: "give the network IPv6 addresses (--subnet6); normal for other protocols"},
	VLANNotRouted:         {Stage: Routing, Name: "vlan_not_routed", Meaning: "a frame with a VLAN tag was sent to the gateway", Remedy: "send the frame untagged: the gateway is in the untagged network"},
	MalformedPacket:       {Stage: Routing, Name: "malformed_packet", Meaning: "a length, a value or the version in the IP, ARP, ICMP or transport header is wrong", Remedy: "the sender is broken; capture its port with `uvswitch dump -i NAME`"},
	BadIPChecksum:         {Stage: Routing, Name: "bad_ip_checksum", Meaning: "the IPv4 header checksum is wrong", Remedy: "the sender, or its checksum offload, is broken; capture its port with `uvswitch dump -v -i NAME`"},
	MartianSource:         {Stage: Routing, Name: "martian_source", Meaning: "the source address is not possible here: it is loopback, multicast or reserved, or its route leads to another network", Remedy: "check the address and the routes of the sender; the address may be forged"},
	MartianDestination:    {Stage: Routing, Name: "martian_destination", Meaning: "the destination is never routed: it is loopback, multicast, broadcast or reserved", Remedy: "check the destination; normal for multicast"},
	SourceRoute:           {Stage: Routing, Name: "source_route", Meaning: "the packet carries the IP option source route, or an IPv6 routing header with segments left", Remedy: "check the sender: no usual program needs this option"},
	TTLExceeded:           {Stage: Routing, Normal: true, Name: "ttl_exceeded", Meaning: "the TTL or the hop limit of the packet expired (answered with ICMP 11/0 or ICMPv6 3/0)", Remedy: "normal for traceroute; otherwise look for a routing loop", Punt: Reject, Error: timeExceeded},
	ScopeExceeded:         {Stage: Routing, Name: "scope_exceeded", Meaning: "the source is a link-local IPv6 address, and the destination is on another link (answered with ICMPv6 1/2)", Remedy: "give the sender another address; see `uvswitch port ls`", Punt: Reject, Error: ICMPErrorKind{ICMPUnreachable, codeScope, true}},
	NoRoute:               {Stage: Routing, Name: "no_route", Meaning: "no route leads to the destination (answered with ICMP 3/0 or ICMPv6 1/0)", Remedy: "see `uvswitch route show`; add a route or an uplink", Punt: Reject, Error: unreachable(CodeNet)},
	BlackholeRoute:        {Stage: Routing, Name: "blackhole_route", Meaning: "the route to the destination is of type blackhole", Remedy: "see the route with `uvswitch route show`; to end this: `uvswitch route del blackhole DST`"},
	ProhibitRoute:         {Stage: Routing, Name: "prohibit_route", Meaning: "the route to the destination is of type prohibit (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see the route with `uvswitch route show`; to end this: `uvswitch route del prohibit DST`", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	NetworkIsolated:       {Stage: Routing, Name: "network_isolated", Meaning: "the packet goes from one network to another, and one of them is isolated", Remedy: "publish the port, or create the network without --isolated"},
	NetworkInternal:       {Stage: Routing, Name: "network_internal", Meaning: "the network is internal: no packet leaves it or enters it", Remedy: "use a network that is not internal"},
	UplinkDown:            {Stage: Routing, Name: "uplink_down", Meaning: "the uplink does not lead out: its device is missing or down, or the host has no address or no route of this family", Remedy: "see the cause with `uvswitch status`; the uplink recovers by itself", Punt: Reject, Error: unreachable(CodeNet)},
	NotForUs:              {Stage: Routing, Name: "not_for_us", Meaning: "the packet came in from the uplink, and it belongs to no flow and to no published port", Remedy: "publish the port; ignore packets of port scans"},
	NATFiltered:           {Stage: Translation, Name: "nat_filtered", Meaning: "the outside port belongs to a container, or the outside address to the prefix of a network (--nat6 routed or npt), and the network does not accept what this sender begins", Remedy: "see `uvswitch network ls -o wide`; publish the port, or create the network with a wider --filtering, or with --in6 any"},
	FragmentNotTranslated: {Stage: Translation, Name: "fragment_not_translated", Meaning: "the fragment cannot be translated: it belongs to an ICMP error, or to an SCTP packet whose port would change", Remedy: "lower the sender's MTU, or use path MTU discovery"},
	FragmentWaits:         {Stage: Translation, Normal: true, Name: "fragment_waits", Meaning: "the fragment waited for the first fragment of its packet, which has the ports; meanwhile its port was removed", Remedy: "nothing to do", Punt: Park},
	FragmentTimeout:       {Stage: Translation, Name: "fragment_timeout", Meaning: "the first fragment of the packet, which has the ports, did not arrive in time", Remedy: "fragments are lost on the way; use path MTU discovery"},
	FragmentInvalid:       {Stage: Translation, Name: "fragment_invalid", Meaning: "the fragment overlaps or repeats another fragment of its packet, or it is too short or too long (RFC 1858, RFC 5722), or its packet has more than 32 gaps", Remedy: "look for an attack, for a network that duplicates packets, or for a broken sender"},
	FragmentQueueFull:     {Stage: Translation, Name: "fragment_queue_full", Meaning: "too many fragmented packets, from one port or in total", Remedy: "use path MTU discovery, or smaller datagrams"},
	FragmentationNeeded:   {Stage: Translation, Normal: true, Name: "fragmentation_needed", Meaning: "the packet is longer than the egress MTU, and it may not be fragmented (answered with ICMP 3/4 or ICMPv6 2/0)", Remedy: "normal for path MTU discovery; otherwise make the MTUs equal", Punt: Serve, Error: unreachable(CodeFragNeeded)},
	FlowNotFound:          {Stage: Translation, Normal: true, Name: "flow_not_found", Meaning: "the flow of the packet was removed while the packet was processed", Remedy: "nothing to do: the next packet creates a new flow"},
	FlowInvalid:           {Stage: Translation, Name: "flow_invalid", Meaning: "the packet belongs to no known flow, and it cannot create one (for example, a TCP segment with FIN or RST); or it is a SYN from the server of a flow that still exists", Remedy: "the flow has expired, or the flow began before the switch started; connect again; if one port has many of them, look for a flood of connections: `uvswitch flow stats`"},
	FlowNotResumed:        {Stage: Translation, Normal: true, Name: "flow_not_resumed", Meaning: "a TCP segment without a flow, and the flow cannot be recreated: its source port is outside the NAT pool or in use (answered with RST)", Remedy: "normal after a restart, after `uvswitch flow del` and after a timeout: the program connects again", Punt: Reject},
	TCPOutOfWindow:        {Stage: Translation, Name: "tcp_out_of_window", Meaning: "the TCP segment is outside the window that its receiver expects (nat.windows: strict)", Remedy: "the segment is late or forged; with asymmetric paths, set nat.windows: liberal in the configuration file"},
	FlowTableFull:         {Stage: Translation, Name: "flow_table_full", Meaning: "the flow table is full, and it has no flow that may be evicted (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "raise nat.flows (IPv4) or nat.flows6 (IPv6) in the configuration file; see which ports hold the flows with `uvswitch flow stats`", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	FlowQuota:             {Stage: Translation, Name: "flow_quota", Meaning: "the port has used up its share of the flows or mappings, of the pairs of addresses of protocols without ports (GRE, ESP), or of the entries that have just ended; or it has nat.flows_per_port flows", Remedy: "see the flows with `uvswitch flow ls --port NAME`, and the shares with `uvswitch flow stats`; raise nat.flows or nat.flows6, or nat.flows_per_port, in the configuration file"},
	FlowBusy:              {Stage: Translation, Normal: true, Name: "flow_busy", Meaning: "two workers created the same flow at the same time; the packet is tried again", Remedy: "nothing to do", Punt: Redo},
	WayAsked:              {Stage: Translation, Normal: true, Name: "way_asked", Meaning: "the host has routing rules of IPv6 that BPF programs do not see, and the way to the destination is asked for first", Remedy: "nothing to do", Punt: Redo},
	WayChanged:            {Stage: Translation, Normal: true, Name: "way_changed", Meaning: "the way out needs another source address, or a program of the host uses the port; NAT translates the packet again", Remedy: "nothing to do", Punt: Redo},
	NeedsHostStack:        {Stage: Translation, Name: "needs_host_stack", Meaning: "the host's route to the destination has an encapsulation (MPLS, SRv6), which the switch cannot add (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see `ip route get ADDR` on the host; use a route without encap", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	WayNotAllowed:         {Stage: Translation, Name: "way_not_allowed", Meaning: "the host's route leads through a device that uplink.devices does not list (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see `ip route get ADDR` on the host; bring the listed device up, or add this one to uplink.devices", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	IPsecPolicy:           {Stage: Translation, Name: "ipsec_policy", Meaning: "an IPsec policy of the host protects the destination, and the packet would leave in the clear (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see `ip xfrm policy`; send it through the host's stack: `uvswitch route add DESTINATION via host`", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	FlowToItself:          {Stage: Translation, Name: "flow_to_itself", Meaning: "the destination is the outside port that NAT gave to the packet's own source", Remedy: "the program sends to itself; let it use 127.0.0.1"},
	FlowClash:             {Stage: Translation, Name: "flow_clash", Meaning: "another flow, which is in use, already has the addresses and ports that this flow would get", Remedy: "use another port, or remove the other flow with `uvswitch flow del`"},
	NATPortsExhausted:     {Stage: Translation, Name: "nat_ports_exhausted", Meaning: "NAT has no free outside port for another mapping, or this port of the switch has used up its share (answered with ICMP 3/13 or ICMPv6 1/1; TCP only when the shortage lasts for a second)", Remedy: "widen the ports for NAT: `uvswitch nat set ports 1024-65535`, and for the next start --nat-ports of run or uplink.ports in the configuration file; see how many each port may hold, and who holds them, with `uvswitch nat ports`", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	PairsFull:             {Stage: Translation, Name: "pairs_full", Meaning: "the table of flows of protocols without ports is full (4,096 pairs of addresses)", Remedy: "see who has them with `uvswitch flow ls -p gre`, and likewise for other protocols; flows end when they are idle for 10 minutes"},
	ProtocolRefused:       {Stage: Translation, Name: "protocol_refused", Meaning: "this IP protocol is not in the network's list of protocols that may leave (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see `uvswitch network show NAME`; create the network with --protocols all, or with a list that has the protocol", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	TooManySources:        {Stage: Translation, Name: "too_many_sources", Meaning: "the host's routing gives the packet a 64th source address; flows can use 63 at a time", Remedy: "use fewer source addresses (`src` of routes); see those in use with `uvswitch flow ls`"},
	PairHostTunnel:        {Stage: Translation, Name: "pair_host_tunnel", Meaning: "the host itself uses this IP protocol, which has no ports (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "see `ip tunnel`, `ip xfrm state` and `ss --raw`; send the packets through the host's stack with `uvswitch route add DESTINATION via host`", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	AddressPairTaken:      {Stage: Translation, Name: "address_pair_taken", Meaning: "another container already uses this protocol, which has no ports, with the same remote address", Remedy: "use the protocol in one container at a time: NAT cannot tell which container an answer is for"},
	ICMPErrorUnmatched:    {Stage: Translation, Normal: true, Name: "icmp_error_unmatched", Meaning: "the ICMP error is about a packet that belongs to no flow", Remedy: "normal for late or forged errors"},
	BadICMPChecksum:       {Stage: Translation, Name: "bad_icmp_checksum", Meaning: "the checksum of the ICMP error, or of the packet that it quotes, is wrong", Remedy: "the packet is damaged or forged; check its sender"},
	ICMPRedirectRefused:   {Stage: Translation, Name: "icmp_redirect_refused", Meaning: "an ICMP redirect for a translated flow: the receiver of the redirect cannot reach the gateway that the redirect names", Remedy: "check which router sends redirects"},
	HostInbound:           {Stage: Translation, Name: "host_inbound", Meaning: "containers may not begin this with the host (answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "open the port of the host: `host.inbound` in the configuration file, or --host-inbound, such as 53/udp,53/tcp,icmp", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	PolicyDenied:          {Stage: Translation, Name: "policy_denied", Meaning: "a policy of a port does not let the flow begin: a rule rejects it, or no rule allows it (answered with ICMP 3/13 or ICMPv6 1/1, in a TCP connection with a reset)", Remedy: "`uvswitch monitor` and `uvswitch policy test PORT TO:NUMBER` say which policy and rule, and the command that allows it", Punt: Reject, Error: unreachable(CodeAdminFiltered)},
	PolicyDropped:         {Stage: Translation, Name: "policy_dropped", Meaning: "a rule of a policy of a port drops the flow, in silence", Remedy: "`uvswitch monitor` says which policy and rule; to end this: `uvswitch policy del NAME RULE`"},
	PublishRefused:        {Stage: Translation, Name: "publish_refused", Meaning: "the published port does not accept this source address (--from)", Remedy: "see the accepted sources with `uvswitch publish ls`"},
	HostUnreachable:       {Stage: Neighbors, Name: "host_unreachable", Meaning: "the route to the destination is of type unreachable (answered with ICMP 3/1 or ICMPv6 1/3)", Remedy: "see `uvswitch route show`; if the destination is the host's own address, run the switch with --host on; with an uplink of kind host, see the cause with `uvswitch status`", Punt: Reject, Error: unreachable(CodeHost)},
	NeighborQueueFull:     {Stage: Neighbors, Name: "neighbor_queue_full", Meaning: "too many packets already wait for the MAC of this neighbor", Remedy: "the neighbor does not answer ARP; check that it is up"},
	NeighborFailed:        {Stage: Neighbors, Name: "neighbor_failed", Meaning: "the neighbor did not answer ARP or neighbor solicitations (answered with ICMP 3/1 or ICMPv6 1/3)", Remedy: "check that the container is up and that its address is right", Punt: Serve, Error: unreachable(CodeHost)},
	GatewayService:        {Stage: Neighbors, Normal: true, Name: "gateway_service", Meaning: "the packet is for the gateway, which serves nothing but ARP, neighbor discovery, ping, names (DNS) and DHCP (UDP and TCP to other ports are answered with ICMP 3/3 or ICMPv6 1/4)", Remedy: "normal; the gateway is not the host", Punt: Serve},
	DHCPRefused:           {Stage: Neighbors, Name: "dhcp_refused", Meaning: "the gateway does not answer such a DHCP message: it is damaged, relayed, of BOOTP, or no question", Remedy: "see the message with `uvswitch dump -v --reason dhcp_refused`; let the station use DHCP itself, without a relay"},
	DHCPQuota:             {Stage: Neighbors, Name: "dhcp_quota", Meaning: "16 stations of this plugged device have a lease or an offer, which is the limit of a port", Remedy: "see them with `uvswitch lease ls`; leases end an hour after the station's last question, or after `network add --dhcp-lease`"},
	DHCPRangeFull:         {Stage: Neighbors, Name: "dhcp_range_full", Meaning: "the network's DHCP range has no free address", Remedy: "see who has them with `uvswitch lease ls`; create the network with a larger --dhcp-range or a shorter --dhcp-lease"},
	PuntQueueFull:         {Stage: Neighbors, Name: "punt_queue_full", Meaning: "the port's share of the queue to the slow path, which handles ARP, pings, ICMP errors and new neighbors, is full", Remedy: "look for a flood of ARP, pings or new neighbors on the port"},
	PuntRateLimited:       {Stage: Neighbors, Name: "punt_rate_limited", Meaning: "the port sends more frames to the slow path than the limit of a port", Remedy: "look for a flood of ARP, pings or new neighbors on the port"},
	InjectQueueFull:       {Stage: Neighbors, Name: "inject_queue_full", Meaning: "the port's share of the queue from the slow path to a worker is full", Remedy: "look for a flood of ARP or pings"},
	Connecting:            {Stage: Egress, Name: "connecting", Meaning: "the container's SYN came again while the host's socket still connects (uplink of kind sockets)", Remedy: "the destination does not answer yet; see the socket with `ss -tn state syn-sent`"},
	ConnectRefused:        {Stage: Egress, Name: "connect_refused", Meaning: "nobody listens on this port of the destination (uplink of kind sockets; answered with a reset)", Remedy: "start the server, or try another port"},
	ConnectUnreachable:    {Stage: Egress, Name: "connect_unreachable", Meaning: "the host has no way to the destination, forbids it, or gets no answer from it (uplink of kind sockets; answered with ICMP 3/0, 3/1 or 3/13, or ICMPv6 type 1)", Remedy: "see `ip route get ADDR` on the host, and the host's firewall"},
	SocketsExhausted:      {Stage: Egress, Name: "sockets_exhausted", Meaning: "the switch has no descriptor left for another connection, or this port has its part of them (uplink of kind sockets; answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "raise the limit of open files before `uvswitch run` (`ulimit -n`), or let the container use fewer connections"},
	PingNotAllowed:        {Stage: Egress, Name: "ping_not_allowed", Meaning: "this user may not open ping sockets (uplink of kind sockets; answered with ICMP 3/13 or ICMPv6 1/1)", Remedy: "the host's administrator allows it: `sysctl net.ipv4.ping_group_range=\"0 2147483647\"`"},
	NeedsRoot:             {Stage: Egress, Name: "needs_root", Meaning: "only root can send such packets: multicast, broadcast, fragments, and protocols other than TCP, UDP and ping (uplink of kind sockets)", Remedy: "run the switch as root, with another kind of uplink"},
	PortGone:              {Stage: Egress, Normal: true, Name: "port_gone", Meaning: "the egress port has been removed", Remedy: "normal for a moment after a port is removed"},
	PortDown:              {Stage: Egress, Name: "port_down", Meaning: "the egress device is down", Remedy: "bring it up, and give it what it has lost meanwhile: `uvswitch doctor` prints the commands"},
	TxRateExceeded:        {Stage: Egress, Normal: true, Name: "tx_rate_exceeded", Meaning: "packets for the egress port come faster than its rate (rate_to), and the queue for waiting packets is full", Remedy: "normal for TCP, which adapts; see the rate with `uvswitch port show NAME`, change it with `uvswitch port set NAME rate_to RATE`"},
	TxRefused:             {Stage: Egress, Name: "tx_refused", Meaning: "the kernel rejected the frame (EINVAL)", Remedy: "the sender's offload information is wrong; switch the offloads off in the guest: `ethtool -K DEV tx off tso off`"},
	AckSuperseded:         {Stage: Egress, Normal: true, Name: "ack_superseded", Meaning: "a TCP acknowledgement without data, replaced by a newer acknowledgement of the same connection in the same batch", Remedy: "normal under load: this saves work in the sender's kernel"},
	SlowReceiver:          {Stage: Egress, Name: "slow_receiver", Meaning: "the receiver's network stack takes so long for each frame that a queue of its own, of 1 MiB, is full", Remedy: "look for what slows the receiver down: many packet sockets (`ss -0`), long lists of filter rules, tc or XDP programs; or limit what is sent to it: `uvswitch port set NAME rate_to RATE`"},
	TxQueueFull:           {Stage: Egress, Name: "tx_queue_full", Meaning: "the queue of the egress device is full", Remedy: "the receiver is slower than its senders; limit what they send with `uvswitch port set NAME rate_from RATE`, or give the receiver a longer queue: `ip link set DEV txqueuelen 1000`"},
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

// AtEgress reports whether the reason is about the port where the frame would have left, rather than about the one where it came in.
func (r Reason) AtEgress() bool {
	return r == ExceedsMTU || reasons[r].Stage == Egress && r != TxQueueFull // whose senders are too fast
}

// RemedyFor is the remedy with the name of the port that it is about, in the place of NAME: in is the port where the frame came in, and out the one
// where it would have left. They are empty if they are not known.
func (r Reason) RemedyFor(in, out string) string {
	port := in
	if r.AtEgress() || in == "" {
		port = out
	}
	if port == "" {
		return reasons[r].Remedy
	}
	return strings.NewReplacer("port set NAME", "port set "+port, "port del NAME", "port del "+port, "port show NAME", "port show "+port, "-i NAME", "-i "+port, "--port NAME", "--port "+port).Replace(reasons[r].Remedy)
}

// Punt is what the slow path does with a frame that is punted for the reason.
//
//uvswitch:hot
func (r Reason) Punt() PuntAction { return reasons[r].Punt }

// Info returns the reason's row of the table.
func (r Reason) Info() ReasonInfo { return reasons[r] }
