// Package frame has the words that every stage of the dataplane shares: the [Frame] and its [Batch], what
// [Parse] found in it, views of the protocol headers, checksums, the [Tuple] of a flow, and the [Verdict] and
// [Reason] of what happens to it.
//
// It decides nothing: which port a frame goes to, whether it is translated or dropped, is said by packages
// vswitch, nat and router. It does no I/O and reads no clock.
//
// Sources: IEEE 802.3 and 802.1Q, RFC 791 (IPv4), RFC 768 (UDP), RFC 9293 (TCP), RFC 792 (ICMP), RFC 1071 and
// RFC 1624 (checksums), and linux/virtio_net.h (the header before each frame of a TAP).
package frame
