package nat

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/uvswitch/uvswitch/internal/frame"
)

func tuple(n int) frame.Tuple {
	return frame.Tuple{Src: frame.Addr(n), Dst: 7, SrcPort: uint16(n), DstPort: 80, Proto: frame.TCP}
}

// The table behaves like two maps: an entry is found by both keys or by neither.
func TestTableAgainstMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable[frame.Addr](64, 0, rapid.Uint64().Draw(t, "seed"), nil)
		type where struct {
			e   uint32
			dir uint8
		}
		model := map[frame.Tuple]where{}
		var entries []uint32
		for range rapid.IntRange(1, 200).Draw(t, "n") {
			if len(entries) > 0 && rapid.Bool().Draw(t, "remove") {
				i := rapid.IntRange(0, len(entries)-1).Draw(t, "which")
				e := entries[i]
				if !tab.unlink(e) || tab.unlink(e) {
					t.Fatal("an entry is killed once")
				}
				delete(model, tab.keys[e][0])
				delete(model, tab.keys[e][1])
				entries = append(entries[:i], entries[i+1:]...)
				if rapid.Bool().Draw(t, "reclaim") {
					tab.reclaim(tab.retire(), func(uint32) {})
				}
				continue
			}
			k0, k1 := tuple(rapid.IntRange(0, 60).Draw(t, "k0")), tuple(1000+rapid.IntRange(0, 60).Draw(t, "k1"))
			e, ok := tab.alloc(k0, k1)
			if !ok {
				continue
			}
			got, dir, out := tab.insert(e)
			_, has0 := model[k0]
			_, has1 := model[k1]
			switch {
			case has0 && (out != exists || model[k0] != where{got, dir}):
				t.Fatalf("inserting a key that exists: %v, %d", out, got)
			case !has0 && has1 && out != clash:
				t.Fatalf("inserting a second key that exists: %v", out)
			case !has0 && !has1 && out == inserted:
				model[k0], model[k1] = where{e, 0}, where{e, 1}
				entries = append(entries, e)
			case !has0 && !has1 && out != full:
				t.Fatalf("inserting new keys: %v", out)
			}
		}
		for i := range 60 {
			for _, k := range []frame.Tuple{tuple(i), tuple(1000 + i)} {
				e, dir, ok := tab.lookup(&k, k.Hash(tab.seed))
				want, has := model[k]
				if ok != has || has && want != (where{e, dir}) {
					t.Fatalf("%v: found %v %d %d, the model says %v %v", k, ok, e, dir, has, want)
				}
			}
		}
		if int(tab.used.Load()) != len(entries) {
			t.Fatalf("%d used, %d in the model", tab.used.Load(), len(entries))
		}
	})
}

// A table takes as many entries as its capacity, whatever the keys.
func TestTableFills(t *testing.T) {
	const n = 1 << 17
	tab := newTable[frame.Addr](n, 0, 12345, nil)
	for i := range n {
		k := frame.Tuple{Src: frame.Addr(i), Dst: 1, SrcPort: 5, Proto: frame.UDP}
		e, ok := tab.alloc(k, k.Reverse())
		if !ok {
			t.Fatalf("full after %d of %d", i, n)
		}
		if _, _, out := tab.insert(e); out != inserted {
			t.Fatalf("entry %d of %d: %v", i, n, out)
		}
	}
	if _, ok := tab.alloc(tuple(1), tuple(2)); ok {
		t.Error("an entry more than there are")
	}
}

// Several workers insert the same keys at once: each key gets one entry, and a worker that loses gets the winner's.
func TestTableConcurrentInsert(t *testing.T) {
	const workers, keys = 4, 3000
	tab := newTable[frame.Addr](workers*keys, 0, 99, nil)
	var got [workers][keys]uint32
	var retries atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range keys {
				k := tuple(i)
				for {
					if e, _, ok := tab.lookup(&k, k.Hash(tab.seed)); ok {
						got[w][i] = e
						break
					}
					if tab.probe(k) != inserted {
						runtime.Gosched()
						continue
					}
					e, ok := tab.alloc(k, tuple(100000+i))
					if !ok {
						t.Errorf("worker %d: no entry left for key %d", w, i)
						return
					}
					other, _, out := tab.insert(e)
					if out == inserted || out == exists {
						got[w][i] = other
						if out == inserted {
							got[w][i] = e
						}
						break
					}
					retries.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range keys {
		for w := 1; w < workers; w++ {
			if got[w][i] != got[0][i] {
				t.Fatalf("key %d has entries %d and %d", i, got[0][i], got[w][i])
			}
		}
	}
	if n := int(tab.used.Load()); n != keys {
		t.Errorf("%d entries for %d keys", n, keys)
	}
	t.Logf("%d insertions had to be repeated", retries.Load())
}

func TestPortSet(t *testing.T) {
	s, pool := NewPortSet(), NewPortSet()
	pool.AddRange(20000, 20099)
	pool.AddRange(1000, 1003)
	seen := map[uint16]bool{}
	kept := 0
	for i := range 100 {
		p, ok := s.search(pool, uint16(i*977), uint16(2000+i), s.Claim)
		if !ok || p < 20000 || p > 20099 || seen[p] {
			t.Fatalf("claim %d: %d %v", i, p, ok)
		}
		seen[p] = true
		if i < 50 && p%2 == uint16(i%2) {
			kept++
		}
	}
	if kept != 50 {
		t.Errorf("parity was kept for %d of the first 50", kept)
	}
	if _, ok := s.search(pool, 5, 5000, s.Claim); ok {
		t.Error("a port more than there are, or one below 1024")
	}
	if p, ok := s.search(pool, 60000, 123, s.Claim); !ok || p > 1003 {
		t.Errorf("for a port below 1024: %d %v", p, ok)
	}
	s.Release(20042)
	if p, ok := s.search(pool, 60000, 5001, s.Claim); !ok || p != 20042 {
		t.Errorf("the one free port: %d %v", p, ok)
	}
}

// hugePages allocates memory as the daemon does.
func hugePages(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		panic(err)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1000, 10000, 100000, 1000000} {
		tab := newTable[frame.Addr](n, 0, 7, hugePages)
		for i := range n {
			k := frame.Tuple{Src: frame.Addr(i), Dst: 1, SrcPort: uint16(i), DstPort: 443, Proto: frame.TCP}
			e, _ := tab.alloc(k, k.Reverse())
			tab.insert(e)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i = (i + 7919) % n
				k := frame.Tuple{Src: frame.Addr(i), Dst: 1, SrcPort: uint16(i), DstPort: 443, Proto: frame.TCP}
				if _, _, ok := tab.lookup(&k, k.Hash(tab.seed)); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
}
