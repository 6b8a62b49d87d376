package simnet

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// A crowdPoller is the backend of one of several workers: others put frames into it.
type crowdPoller struct {
	*Poller
	in      chan queued
	wake    chan struct{}
	running atomic.Bool // else Poll does not wait
	sum     byte        // of all bytes that were sent: the race detector sees them read
}

func newCrowdPoller() *crowdPoller {
	return &crowdPoller{Poller: NewPoller(), in: make(chan queued, 64), wake: make(chan struct{}, 1)}
}

func (p *crowdPoller) Poll(b *frame.Batch) error {
	b.N = 0
	b.Failed, p.failed = p.failed, nil
	if p.running.Load() && len(b.Failed) == 0 {
		select {
		case q := <-p.in:
			p.take(b, q)
		case <-p.wake:
		}
	}
	for b.N < frame.BatchSize {
		select {
		case q := <-p.in:
			p.take(b, q)
		default:
			return nil
		}
	}
	return nil
}

func (p *crowdPoller) take(b *frame.Batch, q queued) {
	b.Frames[b.N].Reset(bytes.Clone(q.raw), q.port)
	b.N++
}

func (p *crowdPoller) Send(id frame.PortID, f *frame.Frame) {
	if !p.ports[id] {
		p.failed = append(p.failed, frame.Refused(id, frame.PortGone, f))
		return
	}
	for ; f != nil; f = f.Next() {
		for _, b := range f.Raw() {
			p.sum += b
		}
	}
}

func (p *crowdPoller) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// FuzzWorkers: four workers carry what all hosts send at the same time, by the same string of a fuzzer, while ports and published ports come and go.
// The race detector watches. At the end the account of frames is balanced, what NAT has counted is what its tables have, and nothing is held.
func FuzzWorkers(f *testing.F) {
	for seed := range uint64(6) {
		script, r := make([]byte, 1200), rand.New(rand.NewPCG(seed, 9))
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var crowd []*crowdPoller
		var pollers []dataplane.Poller
		for range 4 {
			p := newCrowdPoller()
			crowd, pollers = append(crowd, p), append(pollers, p)
		}
		n := NewWith(nat.Options{Flows: 256}, pollers...)
		if err := n.play(strings.Split(guarded, "\n")); err != nil {
			t.Fatal(err)
		}
		for _, p := range crowd {
			p.running.Store(true)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.DP.Run(ctx, func(frame.PortID) {}) }()

		var senders, control sync.WaitGroup
		for _, from := range n.hosts {
			senders.Go(func() {
				h := &history{net: n, bytes: script, hosts: n.hosts}
				for len(h.bytes) > 0 {
					raw := h.packet(from).Raw()
					crowd[int(from.Port)%len(crowd)].in <- queued{from.Port, raw}
				}
			})
		}
		var sent atomic.Bool
		control.Go(func() {
			a, b := n.host("a"), n.host("b")
			for i := 0; !sent.Load(); i++ {
				p, _ := n.DP.Switch.Port(a.Port)
				n.DP.RemovePort(a.Port)
				n.DP.NAT.FlushPorts([]frame.PortID{a.Port})
				if err := n.DP.AddPort(p, conn{}); err != nil {
					t.Error(err)
					return
				}
				n.Unpublish(8080)
				n.Publish([]uint8{frame.TCP, frame.UDP}[i%2], 8080, b, 80)
				n.DP.NAT.SettleShares()
				n.DP.NAT.Flush(func(f nat.Flow) bool { return f.Original.DstPort == 9090 })
			}
		})
		senders.Wait()
		sent.Store(true)
		control.Wait()
		for _, p := range crowd {
			p.running.Store(false)
			p.Wake()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		n.nothingIsHeld(t)
	})
}
