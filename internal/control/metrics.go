package control

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// metrics reads the counters when it is scraped: there is nothing to keep up to date. Labels name ports, networks, reasons and
// tables; no address or MAC is one.
type metrics struct {
	d *Daemon
	// By series, and the port or rule it is of: what was last said. A counter that was taken back a little, for frames that a port
	// refused, stays where it was. d.mu is held.
	said map[string]uint64
}

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("uvswitch_"+name, help, labels, nil)
}

var (
	mInfo        = metric("build_info", "The version that runs; always 1.", "version", "backend")
	mStart       = metric("start_time_seconds", "When the switch was started, in seconds since 1970.")
	mFrames      = metric("frames_total", "Frames by fate: received, originated, replicated; transmitted, dropped, consumed. The first three are the sum of the last three.", "fate")
	mDrops       = metric("drops_total", "Frames dropped, by reason (docs/drops.md).", "reason")
	mPortUp      = metric("port_up", "1 while the port forwards.", "port", "network", "kind")
	mPortPackets = metric("port_packets_total", "Frames by port; rx is what the port sent.", "port", "direction")
	mPortBytes   = metric("port_bytes_total", "Bytes by port, without virtio-net headers; rx is what the port sent.", "port", "direction")
	mPortDrops   = metric("port_drops_total", "Frames dropped, by port and reason.", "port", "reason")
	mTable       = metric("table_entries", "Entries in use, by table.", "table")
	mLimit       = metric("table_entries_limit", "Entries there may be, by table.", "table")
	mNATPorts    = metric("nat_ports", "Ports of the host's address given out, resting ones included.", "protocol")
	mNATLimit    = metric("nat_ports_limit", "Ports of the host's address that may be given out.", "protocol")
	mCreated     = metric("flows_created_total", "Tracked connections begun.")
	mEnded       = metric("flows_ended_total", "Tracked connections ended, by why: timed_out, evicted, replaced, flushed.", "why")
	mPublished   = metric("published_flows_total", "Connections to a published port.", "host_port", "protocol", "port")
	mUplink      = metric("uplink_up", "1 while the way out is up and has an address.", "kind", "device")
	mMissed      = metric("flow_events_missed_total", "Flow events that a reader was too slow for.")
	allMetrics   = []*prometheus.Desc{mInfo, mStart, mFrames, mDrops, mPortUp, mPortPackets, mPortBytes, mPortDrops, mTable, mLimit, mNATPorts, mNATLimit, mCreated, mEnded, mPublished, mUplink, mMissed}
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range allMetrics {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	said, of := map[string]uint64{}, uint32(0) // of: which port or rule, since another may have its name one day
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		key := fmt.Sprint(of, d, labels)
		v = max(v, m.said[key])
		said[key] = v
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := map[bool]float64{true: 1}
	d := m.d
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { m.said = said }()
	gauge(mInfo, 1, d.opts.Version, d.backend.name)
	gauge(mStart, float64(d.started.UnixMilli())/1000)
	c := d.dp.Conservation()
	for fate, v := range map[string]uint64{"received": c.Received, "originated": c.Originated, "replicated": c.Replicated, "transmitted": c.Transmitted, "dropped": c.Dropped, "consumed": c.Consumed} {
		counter(mFrames, v, fate)
	}
	drops := d.dp.Drops()
	for r := frame.None + 1; r < frame.NumReasons; r++ { // all of them: an alert on one that never was is no error
		counter(mDrops, drops[r.String()], r.String())
	}
	for _, p := range d.portList() {
		network := ""
		if p.net != nil {
			network = p.net.name
		}
		gauge(mPortUp, flag[d.portState(p) == "forwarding"], p.name, network, p.kind)
		s := d.dp.PortStats(p.id)
		of = uint32(p.id)
		counter(mPortPackets, s.RxPackets, p.name, "rx")
		counter(mPortPackets, s.TxPackets, p.name, "tx")
		counter(mPortBytes, s.RxBytes, p.name, "rx")
		counter(mPortBytes, s.TxBytes, p.name, "tx")
		for reason, n := range s.Drops {
			counter(mPortDrops, n, p.name, reason)
		}
	}
	of = 0
	for name, t := range d.tables() {
		gauge(mTable, float64(t.Used), name)
		gauge(mLimit, float64(t.Limit), name)
	}
	for _, proto := range []uint8{frame.TCP, frame.UDP, frame.SCTP} {
		u := d.dp.NAT.PortUseOf(proto)
		gauge(mNATPorts, float64(u.Used+u.Resting), frame.ProtoName(proto))
		gauge(mNATLimit, float64(u.Limit), frame.ProtoName(proto))
	}
	created, ended := d.dp.NAT.Stats()
	counter(mCreated, created)
	for why, n := range ended {
		counter(mEnded, n, why)
	}
	for _, r := range d.rules {
		of = r.id
		counter(mPublished, r.count.Packets.Load(), r.hostPorts(), r.proto, r.port.name)
	}
	of = 0
	if up := d.uplinkStatus(); d.up != nil {
		gauge(mUplink, flag[up.State == "up"], up.Kind, up.Device)
	}
	counter(mMissed, d.events.missed.Load())
}

// metricsHandler serves the switch's metrics, and those of the process.
func (d *Daemon) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&metrics{d: d}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/metrics", http.StatusFound) })
	return m
}
