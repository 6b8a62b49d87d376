package history

import (
	"slices"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func TestHistory(t *testing.T) {
	h := New()
	now := time.Unix(1000, 0)
	sample := func(rx uint64, dropped uint64, ports ...string) {
		s := api.Stats{Ports: map[string]api.PortStats{}, Drops: map[string]uint64{"ttl_exceeded": dropped, "port_down": 0}}
		for _, p := range ports {
			s.Ports[p] = api.PortStats{RxBytes: rx, RxDropped: dropped, Drops: map[string]uint64{}}
		}
		h.Add(now, s)
		now = now.Add(Interval)
	}
	if v := h.View([]string{"web"}); len(v.Total.RxBytes) != 0 || v.Until != "" {
		t.Errorf("before the first sample: %v", v)
	}
	sample(0, 0, "web", "db")
	sample(5000, 10, "web", "db")
	sample(15000, 10, "web", "db", "new")
	v := h.View([]string{"web", "new", "nobody"})
	if !slices.Equal(v.Ports["web"].RxBytes, []float32{1000, 2000}) || !slices.Equal(v.Ports["web"].Dropped, []float32{2, 0}) {
		t.Errorf("web: %v", v.Ports["web"])
	}
	if !slices.Equal(v.Ports["new"].RxBytes, []float32{0, 3000}) {
		t.Errorf("a new port: %v", v.Ports["new"])
	}
	if !slices.Equal(v.Total.RxBytes, []float32{2000, 7000}) {
		t.Errorf("together: %v", v.Total.RxBytes)
	}
	if len(v.Drops) != 1 || !slices.Equal(v.Drops["ttl_exceeded"], []float32{2, 0}) || len(v.Ports) != 2 {
		t.Errorf("drops %v, ports %v", v.Drops, v.Ports)
	}
	sample(100, 10, "web") // another web, with counters of its own
	if v := h.View([]string{"web", "db"}); !slices.Equal(v.Ports["web"].RxBytes, []float32{1000, 2000, 20}) || len(v.Ports) != 1 {
		t.Errorf("a port of the same name: %v", v.Ports)
	}
	for i := range uint64(2 * Length) {
		sample(100+5*i*i, 10, "web")
	}
	v = h.View([]string{"web"})
	if list := v.Ports["web"].RxBytes; len(list) != Length || !slices.IsSorted(list) || list[Length-1] != float32(2*(2*Length-1)-1) || len(v.Drops) != 0 {
		t.Errorf("after a long time: %d rates, the last %v; drops %v", len(list), list[len(list)-1], v.Drops)
	}
}
