package nat_test

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// The tables for 1,048,576 flows of IPv4 and 262,144 of IPv6 fit into 192 MiB. Memory that no flow needs is not touched.
func TestMemory(t *testing.T) {
	total := 0
	nat.New(nat.Options{Flows: 1 << 20, Alloc: func(n int) []byte {
		total += n
		return make([]byte, n)
	}})
	if total > 192<<20 {
		t.Errorf("the tables take %d bytes, more than 192 MiB", total)
	}
	t.Logf("%.1f MiB", float64(total)/(1<<20))
}

// Grow is called when there are many flows, and again when there are many more.
func TestGrow(t *testing.T) {
	grown := 0
	tracker, _ := newNAT(nat.Options{Flows: 1 << 18, FlowsPerPort: 1 << 18, Grow: func() { grown++ }})
	raws := make([][]byte, frame.BatchSize)
	for i := range raws {
		raws[i] = frametest.Packet{Src: inside, Dst: remote, Payload: make([]byte, 18)}.Raw()
	}
	var batch frame.Batch
	batch.Tick = 1
	for i, want := range []int{0, 1, 1, 2} {
		newFlows(t, tracker, &batch, raws, i*16<<10, []int{4 << 10, 16 << 10, 16 << 10, 16 << 10}[i])
		tracker.Expire(1, 1)
		if tracker.Expire(1, 1); grown != want {
			t.Errorf("with %d flows, grown %d times, want %d", tracker.Used(), grown, want)
		}
	}
}

// newFlows sends n datagrams, each of which begins a flow: from a thousand endpoints, each time to a new destination.
func newFlows(b testing.TB, tracker *nat.NAT, batch *frame.Batch, raws [][]byte, first, n int) {
	for done := 0; done < n; done += frame.BatchSize {
		for i := range raws {
			id := uint32(first + done + i)
			ip := raws[i][frame.VnetLen+frame.EthernetLen:]
			binary.BigEndian.PutUint32(ip[12:], uint32(inside))
			binary.BigEndian.PutUint32(ip[16:], 0x08000000+id)
			binary.BigEndian.PutUint16(ip[20:], uint16(5000+id%1000))
			batch.Frames[i].Reset(raws[i], 1)
		}
		batch.N = len(raws)
		frame.ParseBatch(batch)
		pass(tracker, batch, 1)
		tracker.Retire() // as the slow path does
		tracker.Reclaim()
		for i := range batch.Frames[:batch.N] {
			if f := &batch.Frames[i]; f.Verdict != frame.Routed {
				b.Fatalf("flow %d: %v", first+done+i, f.Reason)
			}
		}
	}
}

func BenchmarkNewUDPFlow(b *testing.B) {
	const flows = 1 << 20
	raws := make([][]byte, frame.BatchSize)
	for i := range raws {
		raws[i] = frametest.Packet{Src: inside, Dst: remote, Payload: make([]byte, 18), NoChecksum: true}.Raw()
	}
	var batch frame.Batch
	batch.Tick = 1
	made := 0
	var tracker *nat.NAT
	for b.Loop() {
		if made%flows == 0 {
			b.StopTimer()
			tracker, _ = newNAT(nat.Options{Flows: flows, FlowsPerPort: flows})
			b.StartTimer()
		}
		newFlows(b, tracker, &batch, raws, made%flows, frame.BatchSize)
		made += frame.BatchSize
	}
	b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "flows/s")
}

// BenchmarkExpire lets a million flows expire while a worker goes on. It reports the longest batch of the worker with
// and without expiry, in microseconds: the slow path must not slow the worker down.
func BenchmarkExpire(b *testing.B) {
	const flows = 1 << 20
	raws := make([][]byte, frame.BatchSize)
	for i := range raws {
		raws[i] = frametest.Packet{Src: inside, Dst: remote, Payload: make([]byte, 18), NoChecksum: true}.Raw()
	}
	var quiet, busy []time.Duration
	for b.Loop() {
		b.StopTimer()
		tracker, _ := newNAT(nat.Options{Flows: flows + 4096, FlowsPerPort: flows, Alloc: func(n int) []byte { return make([]byte, n) }})
		var batch frame.Batch
		batch.Tick = 1
		newFlows(b, tracker, &batch, raws, 0, flows)
		worker := func(stop *atomic.Bool) (longest time.Duration) {
			own := make([][]byte, len(raws))
			for i := range own {
				own[i] = append([]byte(nil), raws[i]...)
			}
			var mine frame.Batch
			mine.Tick = 1
			for n := 0; !stop.Load(); n++ {
				for i := range own {
					ip := own[i][frame.VnetLen+frame.EthernetLen:]
					binary.BigEndian.PutUint32(ip[12:], uint32(inside))
					binary.BigEndian.PutUint32(ip[16:], 0x09000000)
					binary.BigEndian.PutUint16(ip[20:], uint16(6000+i))
					mine.Frames[i].Reset(own[i], 2)
				}
				mine.N = len(own)
				frame.ParseBatch(&mine)
				start := time.Now()
				pass(tracker, &mine, 1)
				longest = max(longest, time.Since(start))
			}
			return longest
		}
		run := func(work func()) time.Duration {
			var stop atomic.Bool
			done := make(chan time.Duration)
			go func() { done <- worker(&stop) }()
			time.Sleep(50 * time.Millisecond)
			work()
			stop.Store(true)
			return <-done
		}
		quiet = append(quiet, run(func() { time.Sleep(300 * time.Millisecond) }))
		b.StartTimer()
		busy = append(busy, run(func() {
			for left := flows; left > 0; {
				left -= tracker.Expire(frame.Seconds(500), 1<<18)
				tracker.Retire()
				tracker.Reclaim()
			}
		}))
	}
	slices.Sort(quiet)
	slices.Sort(busy)
	b.ReportMetric(float64(quiet[len(quiet)/2].Microseconds()), "quiet-µs")
	b.ReportMetric(float64(busy[len(busy)/2].Microseconds()), "expiring-µs")
}
