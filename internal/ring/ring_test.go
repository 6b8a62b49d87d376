package ring

import (
	"bytes"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/share"
)

// Records of all sizes come out unchanged and in order, wherever the buffer wraps around.
func TestRing(t *testing.T) {
	r := New(1024)
	next, expect := 0, 0
	record := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, i*37%400) }
	for range 10000 {
		if r.Empty() != (next == expect) {
			t.Fatalf("Empty is %t, with %d records", r.Empty(), next-expect)
		}
		for {
			b := r.Reserve(len(record(next)))
			if b == nil {
				break
			}
			copy(b, record(next))
			r.Commit()
			next++
		}
		for range 1 + next%3 {
			b := r.Peek()
			if b == nil {
				break
			}
			if !bytes.Equal(b, record(expect)) {
				t.Fatalf("record %d: %d bytes of %v, want %d", expect, len(b), b[:min(len(b), 1)], len(record(expect)))
			}
			r.Release()
			expect++
		}
	}
	if expect < 1000 {
		t.Errorf("only %d records passed", expect)
	}
}

func TestTooLong(t *testing.T) {
	r := New(256)
	if r.Reserve(256) != nil {
		t.Error("a record longer than the ring")
	}
	if r.Peek() != nil {
		t.Error("something in an empty ring")
	}
}

// One producer and one consumer run concurrently, for the race detector.
func TestConcurrent(t *testing.T) {
	r := New(4096)
	const n = 50000
	go func() {
		for i := 0; i < n; {
			if b := r.Reserve(1 + i%100); b != nil {
				b[0] = byte(i)
				r.Commit()
				i++
			}
		}
	}()
	for i := 0; i < n; {
		if b := r.Peek(); b != nil {
			if len(b) != 1+i%100 || b[0] != byte(i) {
				t.Fatalf("record %d: %d bytes, first %d", i, len(b), b[0])
			}
			r.Release()
			i++
		}
	}
}

func TestNoAllocations(t *testing.T) {
	r := New(4096)
	if allocs := testing.AllocsPerRun(100, func() {
		copy(r.Reserve(100), "hello")
		r.Commit()
		_ = r.Peek()
		r.Release()
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// Ports that fill their shares leave those of others, however small the records are, and get their own back with each record that is taken,
// wherever the buffer wraps around.
func TestShared(t *testing.T) {
	const ports = 31
	r := NewShared(1 << 17)
	r.Divide(share.Among{Ports: ports})
	for round := range 300 {
		greedy := 0
		for id := frame.PortID(1); id < ports; id++ {
			for r.Reserve(id, 33+round) != nil {
				r.Commit()
				greedy++
			}
		}
		r.Reserve(ports, 1000) // and given up
		if rec := r.Reserve(ports, 1500); rec == nil {
			t.Fatalf("round %d: the others have %d records, and port %d may have none", round, greedy, ports)
		}
		r.Commit()
		for range 1 + greedy {
			if r.Peek() == nil {
				t.Fatal("a record is lost")
			}
			r.Release()
		}
		for id := frame.PortID(1); id <= ports; id++ {
			if r.Shares.Held(id) != 0 || r.Peek() != nil {
				t.Fatalf("round %d: port %d still holds %d bytes", round, id, r.Shares.Held(id))
			}
		}
	}
}
