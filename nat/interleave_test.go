//go:build interleave

package nat

import (
	"errors"
	"fmt"
	"testing"

	"github.com/uvswitch/uvswitch/internal/atomic"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// The tests of this file run two or three threads in every order of their atomic operations:
//
//	go test -tags interleave -run Interleave ./nat ./internal/share

func explore(t *testing.T, check func() error, threads ...func()) {
	t.Helper()
	exploreSome(t, 0, check, threads...)
}

// exploreSome leaves a thread that could go on a few times only.
func exploreSome(t *testing.T, preemptions int, check func() error, threads ...func()) {
	t.Helper()
	runs, err := atomic.Explore(threads, preemptions, check)
	if t.Logf("%d runs", runs); err != nil {
		t.Fatal(err)
	}
}

type four struct{ *table[frame.Addr] }

func tableOfFour() four { return four{newTable[frame.Addr](4, 0, 99, nil)} }

// add inserts an entry with the keys k and 1000+k2.
func (t four) add(k, k2 int) (e uint32, out outcome) {
	e, ok := t.alloc(tuple(k), tuple(1000+k2))
	if !ok {
		return 0, full
	}
	other, _, out := t.insert(e)
	if out == exists {
		return other, out
	}
	return e, out
}

func (t four) find(k int) (e uint32, ok bool) {
	key := tuple(k)
	e, _, ok = t.lookup(&key, key.Hash(t.seed))
	return e, ok
}

// sound checks that each entry is in one place, that live ones are found by both keys and no others are found.
func (t four) sound() error {
	where := map[uint32]string{}
	for name, head := range map[string]uint64{"free": t.free.Load(), "retired": t.retired.Load()} {
		for e := uint32(head); e != 0; e = t.link[e-1].Load() {
			if where[e-1] != "" {
				return fmt.Errorf("entry %d is in the lists %s and %s", e-1, where[e-1], name)
			}
			where[e-1] = name
		}
	}
	words := map[uint32]int{}
	for i := range t.buckets {
		for j := range t.buckets[i] {
			if w := t.buckets[i][j].Load(); w != 0 {
				e, _ := t.unword(w)
				if words[e]++; w&pending != 0 || where[e] != "" {
					return fmt.Errorf("word %x is left of entry %d: %s", w, e, where[e])
				}
			}
		}
	}
	live, retired := 0, 0
	keys := map[frame.Tuple]bool{}
	for e := uint32(1); e < t.highWater(); e++ {
		switch {
		case t.isLive(e):
			live++
			for dir, k := range t.keys[e] {
				if got, d, ok := t.lookup(&k, k.Hash(t.seed)); !ok || got != e || int(d) != dir || keys[k] || words[e] != 2 {
					return fmt.Errorf("entry %d has %d words, key %d finds %d (%v)", e, words[e], dir, got, ok)
				}
				keys[k] = true
			}
		case where[e] == "":
			return fmt.Errorf("entry %d is lost", e)
		case where[e] == "retired":
			retired++
		}
	}
	if int(t.used.Load()) != live || int(t.ended.Load()) != retired {
		return fmt.Errorf("%d live, counted %d; %d ended, counted %d", live, t.used.Load(), retired, t.ended.Load())
	}
	return nil
}

// Two threads insert the same key: at most one of them does, and the other one never gets a third entry.
func TestInterleaveInsert(t *testing.T) {
	tab := tableOfFour()
	var e [2]uint32
	var out [2]outcome
	explore(t, func() error {
		if out[0] == inserted && out[1] == inserted {
			return errors.New("both inserted one key")
		}
		for i := range e {
			if out[i] == exists && (out[1-i] != inserted || e[i] != e[1-i]) {
				return fmt.Errorf("thread %d was told of entry %d", i, e[i])
			}
		}
		return tab.sound()
	}, func() { e[0], out[0] = tab.add(1, 1) }, func() { e[1], out[1] = tab.add(1, 2) })
}

// The same while the word of another entry becomes empty, so that the two threads may claim different words.
func TestInterleaveInsertBesideKill(t *testing.T) {
	tab := tableOfFour()
	old, _ := tab.add(7, 7)
	var out [2]outcome
	exploreSome(t, 2, func() error {
		if out[0] == inserted && out[1] == inserted {
			return errors.New("both inserted one key")
		}
		return tab.sound()
	}, func() { _, out[0] = tab.add(1, 1) }, func() { _, out[1] = tab.add(1, 2) }, func() { tab.unlink(old) })
}

// The same for the second key, of which two inside endpoints would have one outside endpoint.
func TestInterleaveClash(t *testing.T) {
	tab := tableOfFour()
	var out [2]outcome
	exploreSome(t, 3, func() error {
		if out[0] == inserted && out[1] == inserted {
			return errors.New("both inserted one second key")
		}
		return tab.sound()
	}, func() { _, out[0] = tab.add(1, 9) }, func() { _, out[1] = tab.add(2, 9) })
}

// An entry that is found by its first key is found by its second one, too.
func TestInterleaveAppears(t *testing.T) {
	tab := tableOfFour()
	var first, second bool
	explore(t, func() error {
		if first && !second {
			return errors.New("an entry was found by its first key only")
		}
		return tab.sound()
	}, func() { tab.add(1, 1) }, func() { _, first = tab.find(1); _, second = tab.find(1001) })
}

// An entry ends once, and is never found by keys that it does not have.
func TestInterleaveKill(t *testing.T) {
	tab := tableOfFour()
	e, _ := tab.add(1, 1)
	var killed [2]bool
	explore(t, func() error {
		if killed[0] == killed[1] {
			return fmt.Errorf("killed: %v", killed)
		}
		return tab.sound()
	}, func() { killed[0] = tab.unlink(e) }, func() { killed[1] = tab.unlink(e) }, func() {
		if got, ok := tab.find(1001); ok && got != e {
			panic("found another entry")
		}
	})
}

// One thread ends an entry, the other one inserts its key.
func TestInterleaveReplace(t *testing.T) {
	tab := tableOfFour()
	old, _ := tab.add(1, 1)
	var e uint32
	var out outcome
	explore(t, func() error {
		if out == inserted && e == old || out == exists && e != old || out == clash && e != 0 && e != old {
			return fmt.Errorf("got entry %d, %v", e, out)
		}
		return tab.sound()
	}, func() { tab.unlink(old) }, func() { e, out = tab.add(1, 2) })
}

// An entry that has just begun is ended, perhaps before its insertion has returned.
func TestInterleaveKillNew(t *testing.T) {
	tab := tableOfFour()
	explore(t, tab.sound, func() { tab.add(1, 1) }, func() {
		if e, ok := tab.find(1); ok {
			tab.unlink(e)
		}
	})
}

// Two threads take entries while a third one gives back those that were retired: none is taken twice, none is lost.
func TestInterleaveReclaim(t *testing.T) {
	tab := tableOfFour()
	for i := range 4 {
		tab.add(10+i, 10+i)
	}
	tab.unlink(2)
	tab.unlink(3)
	list := tab.retire()
	var e [2]uint32
	var out [2]outcome
	exploreSome(t, 3, func() error {
		if out[0] == inserted && out[1] == inserted && e[0] == e[1] {
			return errors.New("one entry was taken twice")
		}
		return tab.sound()
	}, func() { e[0], out[0] = tab.add(1, 1) }, func() { e[1], out[1] = tab.add(2, 2) }, func() { tab.reclaim(list, func(uint32) {}) })
}

// A thread takes an entry from the free list while another one takes two, and gives the first one back.
func TestInterleaveFreeList(t *testing.T) {
	tab := tableOfFour()
	for i := range 4 {
		tab.add(10+i, 10+i)
	}
	for e := uint32(1); e <= 4; e++ {
		tab.unlink(e)
	}
	tab.reclaim(tab.retire(), func(uint32) {})
	var got [3]uint32
	explore(t, func() error {
		for e := uint32(tab.free.Load()); e != 0; e = tab.link[e-1].Load() {
			if e-1 == got[0] || e-1 == got[2] {
				return fmt.Errorf("entry %d was taken, and is in the list", e-1)
			}
		}
		if got[0] == got[2] {
			return fmt.Errorf("entry %d was taken twice", got[0])
		}
		return nil
	}, func() { got[0], _ = tab.pop(&tab.free) }, func() {
		got[1], _ = tab.pop(&tab.free)
		got[2], _ = tab.pop(&tab.free)
		tab.push(&tab.free, got[1])
	})
}

// Two threads end entries while a third one takes the list of those in their grace period.
func TestInterleaveRetire(t *testing.T) {
	tab := tableOfFour()
	a, _ := tab.add(1, 1)
	b, _ := tab.add(2, 2)
	exploreSome(t, 5, tab.sound, func() { tab.unlink(a) }, func() { tab.unlink(b) }, func() { tab.reclaim(tab.retire(), func(uint32) {}) })
}

// A smallNAT has one address of the host, with the outside ports 20000 to 20001.
type smallNAT struct {
	*NAT
	c *config[frame.Addr]
	a *hostAddr[frame.Addr]
}

const aPort = 20000

func newSmallNAT() smallNAT {
	n := New(Options{Flows: 4, Seed: 42})
	r := Rules{Own: []frame.Addr{1}, Masquerade: []*Masquerade{{Net: 1, RuleCount: &RuleCount{}}}}
	for i := range r.Pool {
		r.Pool[i] = NewPortSet()
		r.Pool[i].AddRange(aPort, aPort+1)
	}
	n.Update(r)
	n.now.Store(10)
	return smallNAT{n, n.config.Load(), n.addrs.find(1)}
}

// begin gives inside endpoint addr:aPort of a port of the switch a mapping; 0 if it gets none.
func (n smallNAT) begin(owner frame.PortID, addr frame.Addr) uint32 {
	m, _, _ := n.acquire(n.c, n.a, &pendingFlow[frame.Addr]{
		orig: frame.Tuple{Src: addr, SrcPort: aPort, Dst: 7, DstPort: 80, Proto: frame.UDP}, port: owner, net: 1,
	}, false, false)
	return m
}

// sound checks that each outside port in use is charged once, to who uses it.
func (n smallNAT) sound() error {
	o := &n.a.ports[udp]
	var charged, resting [3]int32
	maps := four{n.maps}
	if err := maps.sound(); err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	mapped := map[uint16]frame.PortID{}
	for m := uint32(1); m < n.maps.highWater(); m++ {
		if n.maps.isLive(m) {
			port := n.maps.keys[m][1].SrcPort
			if mapped[port] != 0 || n.mappings[m].refs.Load() < 1 {
				return fmt.Errorf("port %d has two mappings, or one without a user", port)
			}
			mapped[port] = n.mappings[m].owner
		}
	}
	for p := uint16(aPort); p <= aPort+1; p++ {
		flows := o.overloaded[p].Load()
		switch rests := o.quarantine.Has(p); {
		case rests && (mapped[p] != 0 || flows != 0) || mapped[p] != 0 && flows != 0:
			return fmt.Errorf("port %d is two of: mapped to %d, shared by %d flows, in quarantine (%v)", p, mapped[p], flows, rests)
		case rests:
			resting[o.quarantined[p].owner.Load()]++
			charged[o.quarantined[p].owner.Load()]++
		case flows != 0:
			charged[o.quarantined[p].owner.Load()]++
		case mapped[p] != 0:
			charged[mapped[p]]++
		default:
			if o.used.Has(p) {
				return fmt.Errorf("nobody uses port %d, but it is not free", p)
			}
			continue
		}
		if !o.used.Has(p) {
			return fmt.Errorf("port %d is free and used", p)
		}
	}
	for owner := frame.PortID(1); owner < 3; owner++ {
		if held := n.portShares[udp].Held(owner); held != int(charged[owner]) {
			return fmt.Errorf("port %d of the switch is charged for %d outside ports, and uses %d", owner, held, charged[owner])
		}
		if got := n.resting[udp][owner].Load(); got != resting[owner] {
			return fmt.Errorf("port %d of the switch has %d in quarantine, counted %d", owner, resting[owner], got)
		}
	}
	return nil
}

// Two flows of one endpoint begin at once: they share one mapping.
func TestInterleaveMapping(t *testing.T) {
	n := newSmallNAT()
	var m [2]uint32
	exploreSome(t, 2, func() error {
		if m[0] == 0 || m[0] != m[1] || n.mappings[m[0]].refs.Load() != 2 {
			return fmt.Errorf("mappings %v", m)
		}
		return n.sound()
	}, func() { m[0] = n.begin(1, 5) }, func() { m[1] = n.begin(1, 5) })
}

// The last user of a mapping leaves while a new one comes.
func TestInterleaveLastUser(t *testing.T) {
	n := newSmallNAT()
	old, m := n.begin(1, 5), uint32(0)
	exploreSome(t, 3, func() error {
		if m == 0 || n.mappings[m].refs.Load() != 1 || !n.maps.isLive(m) {
			return fmt.Errorf("mapping %d has %d users", m, n.mappings[m].refs.Load())
		}
		return n.sound()
	}, func() { n.release(old) }, func() { m = n.begin(1, 5) })
}

// The quarantine of a port ends while the endpoint that had it comes back, and leaves again.
func TestInterleaveRest(t *testing.T) {
	n := newSmallNAT()
	n.release(n.begin(1, 5))
	explore(t, n.sound, func() { n.endQuarantineOf(&n.a.ports[udp], udp, aPort) }, func() {
		if n.reuse(&n.a.ports[udp], udp, aPort, 5, 1, false) {
			n.releasePort(1, udp, aPort, 1, 5)
		}
	})
}

// The quarantine of a port ends while another endpoint, of another owner, waits for the port, and leaves again.
func TestInterleaveRestOfAnother(t *testing.T) {
	n := newSmallNAT()
	n.release(n.begin(1, 5))
	other := func() {
		if n.claim(&n.a.ports[udp], udp, aPort, 2, false) {
			n.releasePort(1, udp, aPort, 2, 6)
		}
	}
	explore(t, n.sound, func() { n.endQuarantineOf(&n.a.ports[udp], udp, aPort) }, other, func() {
		if n.reuse(&n.a.ports[udp], udp, aPort, 5, 1, false) {
			n.releasePort(1, udp, aPort, 1, 5)
		}
	})
}

// Flows begin to share a port, and cease to, while a mapping wants it.
func TestInterleaveOverload(t *testing.T) {
	n := newSmallNAT()
	o := &n.a.ports[udp]
	var m uint32
	flow := func(owner frame.PortID) func() {
		return func() {
			if n.overload(o, udp, aPort, owner) {
				n.endOverload(udp, 1, aPort)
			}
		}
	}
	explore(t, n.sound, flow(1), flow(2))
	explore(t, func() error {
		if m == 0 {
			return errors.New("there are two ports, and the mapping got none")
		}
		return n.sound()
	}, flow(1), func() { m = n.begin(2, 6) })
	n.release(m)
}

// Both ends of a connection send their FIN at once: none is lost.
func TestInterleaveFIN(t *testing.T) {
	n := newSmallNAT()
	s := &n.state[1]
	s.state.Store(uint32(tcpEstablished) | seenReply | assured)
	key := frame.Tuple{Src: 5, Dst: 7, Proto: frame.TCP}
	fin := func(dir uint8) func() {
		return func() {
			n.account(packet[frame.Addr]{Frame: &frame.Frame{Proto: frame.TCP, Dir: dir}}, s, &key, frame.FlagFIN|frame.FlagACK, true, 10)
		}
	}
	explore(t, func() error {
		if got := tcpState(s.state.Load() & stateMask); got != tcpLastAck {
			return fmt.Errorf("the connection is in state %s", tcpNames[got])
		}
		return nil
	}, fin(0), fin(1))
}
