package apiserver

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// metrics reads the counters when it is scraped. Labels name ports, networks, reasons and tables; no address or MAC is a label.
type metrics struct {
	s  *Server
	mu sync.Mutex // Lock 5: one scrape at a time
	// The last value of each counter, by port or rule. The data plane lowers a counter for frames that a port refused; the metric then
	// keeps its last value, because it must not decrease.
	last map[string]uint64
}

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("uvswitch_"+name, help, labels, nil)
}

var (
	mInfo        = metric("build_info", "The version and the I/O backend that run, as labels; the value is always 1.", "version", "backend")
	mStart       = metric("start_time_seconds", "Start time of the switch, in seconds since 1970.")
	mFrames      = metric("frames_total", "Frames by fate. received + originated + replicated = transmitted + dropped + consumed + uvswitch_frames_waiting.", "fate")
	mWaiting     = metric("frames_waiting", "Frames in a queue: for the MAC of a neighbor, for their first fragment, or for the rate of a port.")
	mDrops       = metric("drops_total", "Frames dropped, by reason (docs/drops.md).", "reason")
	mPortUp      = metric("port_up", "1 while the port forwards, 0 otherwise.", "port", "network", "kind")
	mPortPackets = metric("port_packets_total", "Frames by port and direction; rx counts frames that the port sent.", "port", "direction")
	mPortUnread  = metric("port_unread", "Frames that wait in the device of a port, or that the device has dropped.", "port")
	mPortPauses  = metric("port_pauses_total", "Times that a port was not read for a while, because it flooded.", "port")
	mPortBytes   = metric("port_bytes_total", "Bytes by port and direction, without virtio-net headers; rx counts bytes that the port sent.", "port", "direction")
	mPortDrops   = metric("port_drops_total", "Frames dropped, by port and reason.", "port", "reason")
	mTable       = metric("table_entries", "Entries in use, by table.", "table")
	mLimit       = metric("table_entries_limit", "Largest number of entries, by table.", "table")
	mNATPorts    = metric("nat_ports", "Ports of the host's addresses in use, ports in quarantine included.", "protocol", "family")
	mNATLimit    = metric("nat_ports_limit", "Ports of each address of the host that NAT may use.", "protocol", "family")
	mCreated     = metric("flows_created_total", "Tracked connections that began.")
	mEnded       = metric("flows_ended_total", "Tracked connections that ended, by reason: timed_out, evicted, replaced, flushed.", "why")
	mPublished   = metric("published_flows_total", "Flows created to a published port.", "host_port", "protocol", "port")
	mUplink      = metric("uplink_up", "1 while the uplink is up and has an address.", "kind", "device")
	mUplink6     = metric("uplink_ipv6_up", "1 while IPv6 leads out, 0 otherwise.")
	mNDProxy     = metric("nd_proxy_answers_total", "Neighbor solicitations on the host's devices that were answered for containers.")
	mWorkerCPU   = metric("worker_cpu_seconds_total", "CPU time of a worker's thread.", "worker")
	mWorkerSpin  = metric("worker_spin_seconds_total", "Time in which a worker looked for frames instead of sleeping.", "worker")
	mWorkerCalls = metric("worker_calls_total", "System calls of a worker that read, or wait for frames.", "worker")
	mWorkerSleep = metric("worker_sleeps_total", "Waits of a worker with nothing to read.", "worker")
	mWorkerRearm = metric("worker_rearms_total", "Reads of io_uring that had no buffer left, and were begun again.", "worker")
	mBatches     = metric("worker_batches_total", "Batches of a worker, by the number of frames.", "worker", "frames")
	mFlows       = metric("flows", "Tracked connections, by family.", "family")
	mFlooded     = metric("uplink_flooded_total", "Packets dropped before the switch: the uplink's queue was full, and their port received more than others.")
	mPolicy      = metric("policy_rulings_total", "What the rules of a policy have done: flows that they let in (allowed), packets of its ports that they refused, or that no rule of these ports allows (refused).", "policy", "ruling")
	mNames       = metric("dns_questions_total", "Questions for names to the gateways, by what became of them: own, forwarded, failed, denied (by a policy), refused, malformed.", "result")
	mLeases      = metric("dhcp_leases", "Leases that stations have from the range of a network.", "network")
	mMissed      = metric("flow_events_missed_total", "Flow events that were lost because a reader was too slow.")
	allMetrics   = []*prometheus.Desc{mInfo, mStart, mFrames, mDrops, mPortUp, mPortPackets, mPortBytes, mPortPauses, mPortUnread, mPortDrops, mTable, mLimit, mNATPorts, mNATLimit, mCreated, mEnded, mPublished, mUplink, mUplink6, mNDProxy, mWorkerCPU, mWorkerSpin, mWorkerCalls, mWorkerSleep, mWorkerRearm, mBatches, mFlows, mFlooded, mPolicy, mNames, mLeases, mMissed}
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range allMetrics {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, of := map[string]uint64{}, uint32(0) // of: the port's or rule's id, since another one may have its name one day
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		key := fmt.Sprint(of, d, labels)
		v = max(v, m.last[key])
		last[key] = v
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := map[bool]float64{true: 1}
	v := m.s.view()
	backend, _ := v.d.Backend()
	gauge(mInfo, 1, v.version, backend)
	gauge(mStart, float64(v.d.Started().UnixMilli())/1000)
	c := v.dp.Conservation()
	for fate, n := range map[string]uint64{"received": c.Received, "originated": c.Originated, "replicated": c.Replicated, "transmitted": c.Transmitted, "dropped": c.Dropped, "consumed": c.Consumed} {
		counter(mFrames, n, fate)
	}
	gauge(mWaiting, float64(c.Waiting))
	drops := v.dp.Drops()
	for r := frame.None + 1; r < frame.NumReasons; r++ { // all of them, so that an alert may name a reason that has not occurred
		counter(mDrops, drops[r.String()], r.String())
	}
	status := v.d.PortStatuses()
	for i := range v.Ports {
		p := &v.Ports[i]
		gauge(mPortUp, flag[status[p.Name].State == daemon.Forwarding], p.Name, p.Network, string(p.Kind))
		s := v.dp.PortStats(p.ID)
		of = uint32(p.ID)
		counter(mPortPackets, s.RxPackets, p.Name, "rx")
		counter(mPortPackets, s.TxPackets, p.Name, "tx")
		counter(mPortBytes, s.RxBytes, p.Name, "rx")
		counter(mPortBytes, s.TxBytes, p.Name, "tx")
		counter(mPortPauses, s.Pauses, p.Name)
		gauge(mPortUnread, float64(s.Unread), p.Name)
		for reason, n := range s.Drops {
			counter(mPortDrops, n, p.Name, reason)
		}
	}
	of = 0
	for name, t := range v.tables() {
		gauge(mTable, float64(t.Used), name)
		gauge(mLimit, float64(t.Limit), name)
	}
	for _, proto := range []uint8{frame.TCP, frame.UDP, frame.SCTP} {
		four, six := v.dp.NAT.PortUseByFamily(proto)
		for family, u := range map[string]nat.PortUse{"ipv4": four, "ipv6": six} {
			gauge(mNATPorts, float64(u.Used+u.Resting), frame.ProtoName(proto), family)
			gauge(mNATLimit, float64(u.Limit), frame.ProtoName(proto), family)
		}
	}
	created, ended := v.dp.NAT.Stats()
	counter(mCreated, created)
	for why, n := range ended {
		counter(mEnded, n, why)
	}
	for i := range v.Publishes {
		p := &v.Publishes[i]
		of = p.ID
		count := v.d.PublishCount(p.ID)
		counter(mPublished, count.Total().Packets, p.HostPorts(), p.Proto, p.Port)
	}
	of = 0
	if up := v.uplink(); up.Kind != "none" {
		gauge(mUplink, flag[up.State == "up"], up.Kind, up.Device)
		gauge(mUplink6, flag[up.State6 == "up"])
		counter(mNDProxy, v.d.ProxyAnswers())
	}
	seconds := func(d *prometheus.Desc, v float64, label string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, label)
	}
	for i, x := range v.io() {
		worker := strconv.Itoa(i)
		seconds(mWorkerCPU, x.CPUSeconds, worker)
		seconds(mWorkerSpin, x.SpinSeconds, worker)
		counter(mWorkerCalls, x.Calls, worker)
		counter(mWorkerSleep, x.Sleeps, worker)
		counter(mWorkerRearm, x.Rearms, worker)
		for frames, n := range x.Batches {
			counter(mBatches, n, worker, frames)
		}
	}
	four, six := v.dp.NAT.UsedByFamily()
	gauge(mFlows, float64(four), "ipv4")
	gauge(mFlows, float64(six), "ipv6")
	counter(mFlooded, v.d.Flooded())
	for _, p := range v.policies() {
		var allowed, refused uint64
		for _, r := range p.Rules {
			allowed, refused = allowed+r.Flows, refused+r.Refused
		}
		for _, n := range p.Unallowed {
			refused += n
		}
		counter(mPolicy, allowed, p.Name, "allowed")
		counter(mPolicy, refused, p.Name, "refused")
	}
	names := v.d.NameCounts()
	for result, n := range map[string]*atomic.Uint64{"own": &names.Own, "forwarded": &names.Forwarded, "failed": &names.Failed, "denied": &names.Denied, "refused": &names.Refused, "malformed": &names.Malformed} {
		counter(mNames, n.Load(), result)
	}
	leases := map[string]float64{}
	for _, g := range v.d.Leases() {
		if g.Dynamic {
			leases[g.Network]++
		}
	}
	for i := range v.Networks {
		gauge(mLeases, leases[v.Networks[i].Name], v.Networks[i].Name)
	}
	counter(mMissed, v.missed())
	m.last = last
}

// With a time limit, an answer is collected before it is sent. So a client that reads slowly does not count as a request in flight.
var scrapes = promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 10 * time.Second}

// metricsHandler serves the metrics of the switch and of its process.
func (s *Server) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&metrics{s: s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := http.NewServeMux()
	m.Handle("GET /metrics", promhttp.HandlerFor(r, scrapes))
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/metrics", http.StatusFound) })
	return m
}
