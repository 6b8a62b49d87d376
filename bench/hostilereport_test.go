package main

import (
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// Rounds of a later run join those of the first one; each ratio is of one round, and a round that lacks one system has none.
func TestHostileRoundsJoin(t *testing.T) {
	sample := func(round int, connections float64) hostileSample {
		return hostileSample{Round: round, Polite: hostile.Result{Connections: 1000, Bulk: 1}, Flooded: hostile.Result{Connections: connections, Bulk: 1}}
	}
	o := options{seconds: 1, out: t.TempDir(), goOn: true}
	kernel, ours := cellKey{"ARP", 1, "kernel"}, cellKey{"ARP", 1, uvswitchName}
	for _, rounds := range [][]hostileSample{{sample(1, 800), sample(1, 600)}, {sample(2, 400), sample(2, 400)}, {{}, sample(3, 100)}} {
		r, err := newHostileResults(o)
		if err != nil {
			t.Fatal(err)
		}
		r.Rounds++
		for i, k := range []cellKey{kernel, ours} {
			if rounds[i].Round != 0 {
				r.add(k, rounds[i])
			}
		}
		if err := r.write(o.out); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newHostileResults(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.cell(ours).to(r.cell(kernel), connections); len(got) != 2 || got[0] != 0.75 || got[1] != 1 {
		t.Errorf("ratios of the rounds: %v, want 0.75 and 1", got)
	}
	if got := median(r.cell(ours).kept(connections)); got != 0.4 {
		t.Errorf("uvswitch keeps %v of its connections, want 0.4", got)
	}
	if text := r.saved(o.out); !strings.HasPrefix(text, "3 whole rounds") {
		t.Errorf("an interrupted run says %q", text)
	}
	o.seconds = 2
	if _, err := newHostileResults(o); err == nil || !strings.Contains(err.Error(), "other settings") {
		t.Errorf("rounds of 2 s join those of 1 s: %v", err)
	}
}
