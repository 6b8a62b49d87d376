package sockets

import "testing"

// A program that sends from thousands of ports keeps no other client out: a client that goes on stays, and a new one is shown.
func TestLocalsMakeRoom(t *testing.T) {
	l := newLocals()
	client := func(port int) (shown, real key) {
		shown, real = key{outPort: uint16(port)}, key{outPort: uint16(port)}
		real.inPort = 1
		return shown, real
	}
	shown, real := client(7)
	if !l.show(&shown, &real, 0) {
		t.Fatal("the first client")
	}
	for i := range 3 * maxLocals {
		s, r := client(1000 + i)
		if !l.show(&s, &r, int64(i)) {
			t.Fatalf("client %d is not shown", i)
		}
		if got, ok := l.real(&shown, int64(i)); !ok || got != real {
			t.Fatalf("after %d others, the client that goes on is not known", i)
		}
	}
	if len(l.byReal) != maxLocals || len(l.byShown) != maxLocals || l.order.Len() != maxLocals {
		t.Errorf("%d, %d, %d clients", len(l.byReal), len(l.byShown), l.order.Len())
	}
	if l.sweep(1 << 62); len(l.byReal)+len(l.byShown)+l.order.Len() != 0 {
		t.Error("clients are left after the last one's time")
	}
}
