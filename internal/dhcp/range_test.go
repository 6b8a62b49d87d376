package dhcp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

func at(last byte) netip.Addr { return netip.AddrFrom4([4]byte{172, 29, 0, last}) }

func none(netip.Addr) bool { return false }

// A station gets the address that it had, else the one that it wants, else one that nobody had, else the one that has been free for the longest time.
func TestRFC2131_4_3_1_Addresses(t *testing.T) {
	r := Range{First: at(10), Last: at(13)}
	put := func(holder, client string, a netip.Addr, until time.Duration) {
		r.Put(Binding{Addr: a, Holder: holder, Client: client, Granted: true, Expires: start.Add(until)}, start)
	}
	want := func(what, holder, client string, wanted netip.Addr, now time.Duration, want netip.Addr) {
		t.Helper()
		if a, _ := r.Choose(holder, client, wanted, none, none, start.Add(now)); a != want {
			t.Errorf("%s: %v, want %v", what, a, want)
		}
	}
	want("the first", "a", "A", netip.Addr{}, 0, at(10))
	want("the wanted one", "a", "A", at(12), 0, at(12))
	want("one of another range", "a", "A", at(99), 0, at(10))
	put("a", "A", at(10), time.Hour)
	want("the same again", "a", "B", at(12), 0, at(10))
	want("what another one has", "b", "B", at(10), 0, at(11))
	want("the client's of an earlier port", "c", "A", netip.Addr{}, 2*time.Hour, at(10))
	want("before one that somebody had", "c", "C", netip.Addr{}, 2*time.Hour, at(11))
	put("b", "B", at(11), 3*time.Hour)
	put("c", "C", at(12), 2*time.Hour)
	put("d", "D", at(13), 4*time.Hour)
	want("none is free", "e", "E", netip.Addr{}, 0, netip.Addr{})
	want("the one that ended first", "e", "E", netip.Addr{}, 5*time.Hour, at(10))
	if a, _ := r.Choose("e", "E", netip.Addr{}, none, func(a netip.Addr) bool { return a == at(10) }, start.Add(5*time.Hour)); a != at(12) {
		t.Errorf("beside one that a neighbor uses: %v", a)
	}
	everybody := func(netip.Addr) bool { return true }
	if a, _ := r.Choose("e", "E", netip.Addr{}, none, everybody, start.Add(5*time.Hour)); a != at(10) {
		t.Errorf("where somebody answers for every address: %v", a)
	}
	if _, ok := r.Choose("e", "E", netip.Addr{}, everybody, none, start.Add(5*time.Hour)); ok {
		t.Error("an address that another one has was chosen")
	}
	r.SetAside(r.Of("d", start), start)
	if _, ok := r.Choose("d", "D", at(13), none, none, start); ok || r.Of("d", start) != nil {
		t.Error("an address that is set aside was chosen")
	}
	want("later", "d", "D", at(13), AsideTime, at(13))
}

// In any order of events, no address has two holders, and no holder two addresses.
func TestRangeHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := Range{First: at(10), Last: at(20)}
	now := start
	for range 20000 {
		now = now.Add(time.Duration(rng.IntN(60)) * time.Second)
		holder := fmt.Sprint(rng.IntN(20))
		b := r.Of(holder, now)
		switch {
		case b != nil && rng.IntN(3) == 0:
			r.SetAside(b, now)
		case b != nil:
			b.Expires = now
		default:
			a, ok := r.Choose(holder, "client "+holder, at(byte(rng.IntN(30))), none, none, now)
			if !ok {
				continue
			}
			if old := r.at[a]; old != nil && now.Before(old.Expires) {
				t.Fatalf("%v was chosen, and is held by %q", a, old.Holder)
			}
			r.Put(Binding{Addr: a, Holder: holder, Client: "client " + holder, Granted: true, Expires: now.Add(time.Hour)}, now)
		}
		held := map[string]netip.Addr{}
		for _, b := range r.Held(now) {
			if other, twice := held[b.Holder]; twice && b.Holder != "" {
				t.Fatalf("%s has %v and %v", b.Holder, other, b.Addr)
			}
			if held[b.Holder] = b.Addr; !r.Contains(b.Addr) {
				t.Fatalf("%v is not of the range", b.Addr)
			}
		}
		ofPorts := 0
		for _, list := range r.port {
			ofPorts += len(list)
		}
		for holder, b := range r.holder {
			if r.at[b.Addr] != b || b.Holder != holder || !r.port[b.Port][b] || ofPorts != len(r.at) {
				t.Fatalf("the indexes differ at %s", holder)
			}
		}
	}
}

// A range with too many bindings forgets some that have ended. It forgets none that hold.
func TestRangeForgets(t *testing.T) {
	r := Range{First: at(0), Last: netip.AddrFrom4([4]byte{172, 29, 255, 255})}
	addr, now := at(0), start
	r.Put(Binding{Addr: netip.AddrFrom4([4]byte{172, 29, 255, 1}), Holder: "stays", Port: "stays", Granted: true, Expires: now.Add(1000 * time.Hour)}, now)
	for i := range 20000 {
		addr, now = addr.Next(), now.Add(time.Second)
		r.Put(Binding{Addr: addr, Holder: fmt.Sprint(i), Port: fmt.Sprint("port", i%100), Client: fmt.Sprint(i), Expires: now.Add(OfferTime)}, now)
		if len(r.at) > maxRemembered || len(r.port["port1"]) > maxOfPort {
			t.Fatalf("%d bindings, %d of a port", len(r.at), len(r.port["port1"]))
		}
	}
	if r.Of("stays", now) == nil || len(r.client) > len(r.at) || len(r.holder) > len(r.at) {
		t.Errorf("%d bindings, %d clients, %d holders", len(r.at), len(r.client), len(r.holder))
	}
	if held, aside := r.Count("port1", now); held != 0 && held != 1 || aside != 0 {
		t.Errorf("a port has %d, and %d set aside", held, aside)
	}
}
