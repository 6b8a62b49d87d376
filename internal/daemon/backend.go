package daemon

import (
	"fmt"
	"runtime"
	"time"

	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/tap"
)

// The I/O backends, as --io names them.
const (
	ioAuto  = "auto"
	ioURing = "io_uring"
	ioRW    = "read-write"
)

// IOKinds are what Options.IO may be.
var IOKinds = []string{ioAuto, ioURing, ioRW}

// backend is the name of the I/O backend, and, after a fallback, why io_uring cannot be used.
type backend struct{ name, why string }

// BusyPollAuto is the value of Options.BusyPoll for a time that depends on what happens.
const BusyPollAuto = tap.BusyPollAuto

// newPollers makes one Poller for each worker. It uses io_uring, unless kind is read-write. With kind auto, it falls back to read-write
// if io_uring cannot be used.
func newPollers(kind string, workers int, busyPoll time.Duration) ([]dataplane.Poller, backend, error) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), workers+spareThreads))
	made := backend{name: ioURing}
	if kind == ioRW {
		made.name = ioRW
	}
	var pollers []dataplane.Poller
	for len(pollers) < workers {
		p, err := newPoller(made.name, busyPoll)
		if err == nil {
			pollers = append(pollers, p)
			continue
		}
		for _, p := range pollers {
			_ = p.Close() // nothing was read or written yet
		}
		if made.name == ioRW || kind == ioURing {
			return nil, made, fmt.Errorf("the %s backend cannot be used: %w; `uvswitch run --io auto` selects a backend that works here", made.name, err)
		}
		pollers, made = nil, backend{name: ioRW, why: err.Error()}
	}
	return pollers, made, nil
}

// defaultWorkers leaves half of the CPUs to who sends and receives. With one worker, what the receiver answers is read
// in the worker's next round, without a wake-up, and acknowledgements come in batches; bench/README.md has figures.
func defaultWorkers() int { return min(max(runtime.NumCPU()/2, 1), 4) }

// spareThreads is how many threads of Go may run beside the workers, which keep their threads while they wait: the slow
// path and the control API. What shares the ports among the workers needs a thread for some microseconds only.
const spareThreads = 2

func newPoller(name string, busyPoll time.Duration) (dataplane.Poller, error) {
	if name == ioURing {
		return tap.NewIOUring(busyPoll)
	}
	return tap.NewRW()
}
