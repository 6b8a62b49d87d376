package nat_test

import (
	"encoding/binary"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// 1,048,576 flows fit into 128 MiB, with everything that the tracker keeps for them.
func TestMemory(t *testing.T) {
	total := 0
	nat.New(nat.Options{Flows: 1 << 20, Alloc: func(n int) []byte {
		total += n
		return make([]byte, n)
	}})
	if total > 128<<20 {
		t.Errorf("the tables take %d bytes, more than 128 MiB", total)
	}
	t.Logf("%.1f MiB", float64(total)/(1<<20))
}

// newFlows sends n datagrams that each begin a flow: from a thousand endpoints to ever new destinations.
func newFlows(b *testing.B, tracker *nat.NAT, batch *frame.Batch, raws [][]byte, first, n int) {
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
