package e2e

import (
	"hash/fnv"
	"os"
	"testing"
)

// A Pair is what the switch of a test runs on: the kind of its uplink, and its I/O backend.
type Pair struct{ Uplink, IO string }

// pairs lists every pair.
var pairs = []Pair{{"tcx", "io_uring"}, {"tcx", "read-write"}, {"clsact", "io_uring"}, {"clsact", "read-write"}}

// fixed has the pairs of tests that need a particular one, or whose pairs must differ.
var fixed = map[string]Pair{
	"TestContract": {"tcx", "io_uring"}, // names the uplink's kind
	"TestOut":      {"tcx", "read-write"},
	"TestPublish":  {"clsact", "io_uring"},
	"TestKilled":   {"clsact", "read-write"},
}

// pairOf returns the pair of the test with this name. A name has the same pair in every run, and the names spread over the pairs.
func pairOf(name string) Pair {
	if p, ok := fixed[name]; ok {
		return p
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return pairs[h.Sum32()%uint32(len(pairs))]
}

// pair returns the pair of a test. UVSWITCH_UPLINK and UVSWITCH_IO override it.
func pair(t *testing.T) Pair {
	p := pairOf(t.Name())
	if kind := os.Getenv("UVSWITCH_UPLINK"); kind != "" {
		p.Uplink = kind
	}
	if io := os.Getenv("UVSWITCH_IO"); io != "" {
		p.IO = io
	}
	return p
}

// eachPair runs a test of the uplink as a subtest on the test's own pair. With UVSWITCH_ALL_PAIRS it runs on every pair that
// UVSWITCH_UPLINK and UVSWITCH_IO allow.
func eachPair(t *testing.T, test func(t *testing.T, p Pair)) {
	t.Parallel()
	own := pair(t)
	for _, p := range pairs {
		run := p == own
		if os.Getenv("UVSWITCH_ALL_PAIRS") != "" {
			kind, io := os.Getenv("UVSWITCH_UPLINK"), os.Getenv("UVSWITCH_IO")
			run = (kind == "" || kind == p.Uplink) && (io == "" || io == p.IO)
		}
		if run {
			t.Run(p.Uplink+" "+p.IO, func(t *testing.T) { test(t, p) })
		}
	}
}
