package vswitch

import (
	"sync/atomic"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Where the host's stack routes, packets of a container may leave by the host's port and come back by it, with the source that they had: the host
// leads them to another container. leftByHost knows which sources have left lately. No other packet with a container's source comes from the host.
//
// It is a hash table of one word for each source: what is left of the hash (32 bits), and the Tick (32). A newer source takes the place of an older one.
type leftByHost [1 << 12]atomic.Uint64

const leftTime = 60 * frame.TicksPerSecond // for how long a source is known after it has left

// leftKey stands for the source of a frame: address and protocol. Ports are left out: fragments have none.
//
//uvswitch:hot
func leftKey(f *frame.Frame) uint64 {
	a := frame.Addr6{Lo: uint64(f.Tuple.Src)}
	if f.Flags&frame.IsIPv6 != 0 {
		a = f.IPv6().Src()
	}
	return frame.Mix(a.Hi^uint64(f.Proto)^0x9e3779b97f4a7c15, a.Lo^0xbf58476d1ce4e5b9)
}

//uvswitch:hot
func (l *leftByHost) note(f *frame.Frame, now frame.Tick) {
	k := leftKey(f)
	if w, at := k&^0xffffffff|uint64(now), &l[k%uint64(len(l))]; at.Load() != w {
		at.Store(w)
	}
}

//uvswitch:hot
func (l *leftByHost) has(f *frame.Frame, now frame.Tick) bool {
	k := leftKey(f)
	w := l[k%uint64(len(l))].Load()
	return w>>32 == k>>32 && now-frame.Tick(w) < leftTime
}
