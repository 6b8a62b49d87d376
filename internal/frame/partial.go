package frame

// Partial returns a parsed frame of which only the virtio-net header and the first bytes are known, and its length. The bytes that are not
// known are zeros.
func Partial(in PortID, vnet, head []byte, length int) (f Frame) {
	raw := make([]byte, VnetLen+max(len(head), min(length, MaxFrame)))
	copy(raw, vnet)
	copy(raw[VnetLen:], head)
	f.Reset(raw, in)
	Parse(&f)
	return f
}
