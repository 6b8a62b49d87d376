package tap

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// message returns what an io_uring puts into a buffer for a frame whose VLAN tag is in its auxiliary data (linux io_uring_recvmsg_out,
// tpacket_auxdata); status says which parts of the tag are valid.
func message(raw []byte, status uint32, tci, tpid uint16) []byte {
	const length = unix.SizeofCmsghdr + 20
	b := make([]byte, messageRoom, messageRoom+len(raw))
	e := binary.NativeEndian
	e.PutUint32(b[4:], length)
	e.PutUint32(b[8:], uint32(len(raw)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[16]))
	h.Level, h.Type = unix.SOL_PACKET, unix.PACKET_AUXDATA
	h.SetLen(length)
	aux := b[16+unix.SizeofCmsghdr:]
	e.PutUint32(aux, status)
	e.PutUint16(aux[16:], tci)
	e.PutUint16(aux[18:], tpid)
	return append(b, raw...)
}

func TestUnpack(t *testing.T) {
	raw := bytes.Clone(sample)
	frame.VnetHdr(raw).Set(frame.VnetNeedsCsum, frame.GSONone, 0, 0, 34, 16)
	tagged := func(tpid ...byte) []byte {
		b := bytes.Join([][]byte{raw[:frame.VnetLen+12], tpid, {0x20, 9}, raw[frame.VnetLen+12:]}, nil)
		frame.VnetHdr(b).Set(frame.VnetNeedsCsum, frame.GSONone, frame.VLANLen, 0, 34+frame.VLANLen, 16)
		return b
	}
	const valid, tpid = unix.TP_STATUS_VLAN_VALID, unix.TP_STATUS_VLAN_TPID_VALID
	for name, c := range map[string]struct {
		status uint32
		want   []byte
	}{"no tag": {0, raw}, "tag": {valid, tagged(0x81, 0)}, "tag of a provider": {valid | tpid, tagged(0x88, 0xa8)}} {
		b := message(raw, c.status, 0x2009, 0x88a8)
		begin, end, ok := unpack(b)
		if !ok || !bytes.Equal(b[begin:end], c.want) {
			t.Errorf("%s: %v\n%x\n%x", name, ok, b[begin:end], c.want)
		}
	}
	longest := append(bytes.Clone(sample), make([]byte, frame.VnetLen+frame.MaxFrame-len(sample))...)
	if begin, end, ok := unpack(message(longest, 0, 0, 0)); !ok || end-begin != len(longest) {
		t.Error("the longest frame is refused")
	}
	if _, _, ok := unpack(message(longest, valid, 7, 0)); ok {
		t.Error("a frame is too long with its tag, and accepted")
	}
	for n := range messageRoom + frame.VnetLen + frame.EthernetLen {
		if _, _, ok := unpack(message(sample, valid, 7, 0)[:n]); ok {
			t.Errorf("%d bytes are a frame", n)
		}
	}
}
