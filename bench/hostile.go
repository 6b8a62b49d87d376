package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// The hostile matrix: c1 opens one connection after another to the outside, while c2 floods. Each row says what c1 keeps of the connections
// that it opens beside a polite c2, which sends the same packets at politeRate.

const politeRate = 1000 // packets per second

// A floodKind is what c2 sends. packet changes the i-th packet, which goes from c2 to the gateway's MAC.
type floodKind struct {
	name   string
	packet func(p *frametest.Packet, i int)
}

var floods = []floodKind{
	{"SYN to new ports", func(p *frametest.Packet, i int) {
		p.Proto, p.Flags, p.SrcPort, p.DstPort = frame.TCP, frame.FlagSYN, uint16(1024+i%60000), uint16(1+i/60000)
	}},
	{"UDP to new ports", func(p *frametest.Packet, i int) { p.SrcPort, p.DstPort = uint16(1024+i%60000), uint16(10000+i/60000) }},
	{"UDP, one flow", func(p *frametest.Packet, _ int) { p.SrcPort, p.DstPort, p.Payload = 5000, 9, make([]byte, 1000) }},
	{"first fragments", func(p *frametest.Packet, i int) {
		p.SrcPort, p.DstPort, p.Frag, p.IPID, p.Payload = 5000, 9, 0x2000, uint16(1+i), make([]byte, 1000)
	}},
	{"later fragments", func(p *frametest.Packet, i int) { p.Frag, p.IPID, p.Payload = 100, uint16(1+i), make([]byte, 1000) }},
	{"ICMP to the gateway", func(p *frametest.Packet, i int) {
		p.Dst, p.Proto, p.Type, p.Seq, p.Payload = frametest.Addr("172.29.0.1"), frame.ICMP, frame.ICMPEcho, uint16(i), make([]byte, 56)
	}},
	{"expired TTL", func(p *frametest.Packet, i int) { p.TTL, p.SrcPort, p.DstPort = 1, uint16(1024+i%60000), 9 }},
	{"broadcast", func(p *frametest.Packet, _ int) {
		p.DstMAC, p.Dst, p.SrcPort, p.DstPort = frame.BroadcastMAC, frametest.Addr("172.29.255.255"), 5000, 9
	}},
	{"unknown unicast", func(p *frametest.Packet, _ int) {
		p.DstMAC, p.Dst, p.SrcPort, p.DstPort = 0x020000999999, frametest.Addr("172.29.9.9"), 5000, 9
	}},
	{"multicast", func(p *frametest.Packet, _ int) {
		p.DstMAC, p.Dst, p.SrcPort, p.DstPort = 0x01005e000101, frametest.Addr("239.0.1.1"), 5000, 9
	}},
	{"absent neighbors", func(p *frametest.Packet, i int) {
		p.Dst, p.SrcPort, p.DstPort = frametest.Addr("172.29.100.0")+frame.Addr(i%20000), 5000, 9
	}},
	{"source MACs", func(p *frametest.Packet, i int) {
		p.SrcMAC, p.SrcPort, p.DstPort = 0x020000000000|frame.MAC(i&0xffffff), 5000, 9
	}},
}

// flood sends packets of one kind from eth0 of this namespace, at rate a second (0: as fast as it can), until it is killed.
func flood(kind, gateway, rate string) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(gateway)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(floods, func(f floodKind) bool { return f.name == kind })
	dev, err := net.InterfaceByName("eth0")
	if err != nil || at < 0 {
		return errors.Join(err, fmt.Errorf("no flood %q", kind))
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: dev.Index}
	began := time.Now()
	for i := 0; ; i++ {
		p := frametest.Packet{SrcMAC: frame.LoadMAC(dev.HardwareAddr), DstMAC: frame.LoadMAC(mac), Src: frametest.Addr("172.29.0.3"), Dst: frametest.Addr("10.1.0.2")}
		floods[at].packet(&p, i)
		err := unix.Sendto(fd, p.Raw()[frame.VnetLen:], 0, to)
		if err != nil && err != unix.ENOBUFS && err != unix.EAGAIN {
			return err
		}
		if perSecond > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		}
	}
}

// greet accepts connections and sends each one byte.
func greet(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = c.Write([]byte{1})
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

// connect opens connections one after another for some seconds. It prints how many it opened in a second, how many failed, and the 99th
// percentile of the time that one took, in milliseconds.
func connect(addr, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	var times []time.Duration
	failed := 0
	began := time.Now()
	for time.Since(began) < time.Duration(n)*time.Second {
		at := time.Now()
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err != nil {
			failed++
			continue
		}
		times = append(times, time.Since(at))
	}
	took := time.Since(began).Seconds()
	p99 := time.Duration(0)
	if slices.Sort(times); len(times) > 0 {
		p99 = times[len(times)*99/100]
	}
	_, err = fmt.Printf("%.0f %d %.2f\n", float64(len(times))/took, failed, float64(p99.Microseconds())/1000)
	return err
}

// A victimResult is what connect prints.
type victimResult struct {
	perSecond float64
	failed    int
	p99       float64 // ms
}

// hostile runs the matrix and prints its table.
func hostile(ctx context.Context, o options) error {
	readWrite := o
	readWrite.args = append(slices.Clone(o.args), "--io", "read-write")
	systems := []struct {
		name string
		up   func(context.Context, *system) error
	}{{"kernel", kernelUp}, {uvswitchName, uvswitchUp(o)}, {uvswitchName + " --io read-write", uvswitchUp(readWrite)}}
	type cell struct {
		polite, flooded, p99 []float64
		failed               int
	}
	cells := map[string]*cell{}
	total := o.rounds * len(floods) * len(systems)
	done, began := 0, time.Now()
	for range o.rounds {
		for _, f := range floods {
			for _, sys := range systems {
				key := f.name + "/" + sys.name
				if cells[key] == nil {
					cells[key] = &cell{}
				}
				c := cells[key]
				polite, flooded, err := hostileRow(ctx, &system{name: sys.name, directions: []string{"out"}, up: sys.up, ways: 1}, f.name, o)
				if ctx.Err() != nil {
					return errors.New("interrupted; nothing was written")
				}
				if err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
				c.polite, c.flooded, c.p99 = append(c.polite, polite.perSecond), append(c.flooded, flooded.perSecond), append(c.p99, flooded.p99)
				c.failed += flooded.failed
				done++
				fmt.Fprintf(os.Stderr, "[%d/%d] %-46s %5.0f/s beside a polite neighbor, %5.0f/s beside the flood (%s left)\n", done, total, key, polite.perSecond, flooded.perSecond,
					(time.Since(began) / time.Duration(done) * time.Duration(total-done)).Round(time.Second))
			}
		}
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "| flood\t| kernel\t| uvswitch\t| uvswitch, read-write\t| uvswitch / kernel\t| p99 kernel, uvswitch\t| failed\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, f := range floods {
		get := func(i int) (kept, flooded, p99 float64, failed int) {
			c := cells[f.name+"/"+systems[i].name]
			return median(c.flooded) / median(c.polite), median(c.flooded), median(c.p99), c.failed
		}
		k, kAbs, kp, kf := get(0)
		u, uAbs, up, uf := get(1)
		r, _, _, rf := get(2)
		fmt.Fprintf(w, "| %s\t| %.2f\t| %.2f\t| %.2f\t| %.2f\t| %.1f, %.1f ms\t| %d, %d, %d\t|\n", f.name, k, u, r, uAbs/kAbs, kp, up, kf, uf, rf)
	}
	w.Flush()
	fmt.Print(out.String())
	if o.out == "" {
		return nil
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	head := fmt.Sprintf("Connections that c1 opens beside a flood of c2, as a part of those beside a polite neighbor (the same packets at %d a second).\nMedians of %d rounds of %d s, on a fresh system each. Made by `make bench-hostile`.\n\n", politeRate, o.rounds, o.seconds)
	return os.WriteFile(filepath.Join(o.out, "hostile.md"), []byte(head+out.String()), 0o644)
}

// hostileRow starts a system, and measures c1 beside a polite c2 and beside one that floods.
func hostileRow(ctx context.Context, s *system, kind string, o options) (polite, flooded victimResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(2*o.seconds)*time.Second+2*patience)
	defer cancel()
	defer s.down()
	if err := s.start(ctx); err != nil {
		return polite, flooded, err
	}
	self, err := os.Executable()
	if err != nil {
		return polite, flooded, err
	}
	if err := s.daemon("out", "listening", nil, self, helperFlag, "greet", "10.1.0.2:7000"); err != nil {
		return polite, flooded, err
	}
	_ = s.command(ctx, "c2", "ping", "-c", "1", "-W", "1", "172.29.0.1").Run()
	neigh, err := s.command(ctx, "c2", "ip", "neigh", "show", "172.29.0.1").Output()
	_, rest, ok := strings.Cut(string(neigh), "lladdr ")
	if err != nil || !ok {
		return polite, flooded, fmt.Errorf("c2 does not know the gateway's MAC: %w: %s", err, neigh)
	}
	gateway, _, _ := strings.Cut(rest, " ")
	for _, run := range []struct {
		rate int
		to   *victimResult
	}{{politeRate, &polite}, {0, &flooded}} {
		fctx, stop := context.WithCancel(ctx)
		c := s.command(fctx, "c2", self, helperFlag, "flood", kind, gateway, strconv.Itoa(run.rate))
		if err := c.Start(); err != nil {
			stop()
			return polite, flooded, err
		}
		out, err := s.command(ctx, "c1", self, helperFlag, "connect", "10.1.0.2:7000", strconv.Itoa(o.seconds)).Output()
		stop()
		_ = c.Wait()
		if err == nil {
			_, err = fmt.Sscan(string(out), &run.to.perSecond, &run.to.failed, &run.to.p99)
		}
		if err != nil {
			return polite, flooded, fmt.Errorf("the victim: %w: %s", err, out)
		}
	}
	return polite, flooded, nil
}
