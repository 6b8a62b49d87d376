package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/spf13/cobra"
)

func (a *app) dumpCommand() *cobra.Command {
	var ports []string
	var file string
	var count, snap int
	c := &cobra.Command{
		Use: "dump [-i PORT,...] [-w FILE|-] [-c N] [-s SNAP]", Short: "Capture frames, as tcpdump does",
		Long: "Capture frames as they come in and go out of ports: as text, or with -w as pcapng, in which every port is an\n" +
			"interface. A packet that is translated shows twice: before, on the port it came by, and after, on the port it\n" +
			"left by.",
		Args: cobra.NoArgs,
	}
	c.Flags().StringSliceVarP(&ports, "interface", "i", nil, "ports, by name; any for all (default any)")
	c.Flags().StringVarP(&file, "write", "w", "", "write pcapng to FILE, or to standard output with -")
	c.Flags().IntVarP(&count, "count", "c", 0, "stop after N packets")
	c.Flags().IntVarP(&snap, "snapshot-length", "s", 0, "bytes of each packet (default: all)")
	c.RunE = func(c *cobra.Command, _ []string) error {
		q := url.Values{"count": {strconv.Itoa(count)}, "snap": {strconv.Itoa(snap)}}
		for _, p := range ports {
			if p != "any" {
				q.Add("port", p)
			}
		}
		stream, err := a.client().Stream(c.Context(), "GET", "/capture?"+q.Encode(), nil)
		if err != nil {
			return err
		}
		defer stream.Close()
		where := "any"
		if len(ports) > 0 {
			where = strings.Join(ports, ", ")
		}
		announce := func() { fmt.Fprintf(a.err, "uvswitch: listening on %s\n", where) }
		if file != "" {
			err = a.save(stream, file, announce)
		} else {
			err = a.print(stream, announce)
		}
		if c.Context().Err() != nil {
			return nil // interrupted: what came is written
		}
		return err
	}
	return c
}

// save copies the stream; the capture is in force once its first bytes are here.
func (a *app) save(stream io.Reader, file string, announce func()) error {
	out := a.out
	if file != "-" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	buf := make([]byte, 64<<10)
	for first := true; ; first = false {
		n, err := stream.Read(buf)
		if n > 0 && first {
			announce()
		}
		if _, werr := out.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *app) print(stream io.Reader, announce func()) error {
	first := true
	r, err := pcapgo.NewNgReader(readNotify{stream, func() {
		if first {
			first = false
			announce()
		}
	}}, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return err
	}
	for {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		port := "?"
		if i, err := r.Interface(info.InterfaceIndex); err == nil {
			port = i.Name
		}
		fmt.Fprintf(a.out, "%s %-8s %s\n", info.Timestamp.Local().Format("15:04:05.000000"), port, describe(data, info.Length))
	}
}

type readNotify struct {
	io.Reader
	notify func()
}

func (r readNotify) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.notify()
	return n, err
}

// describe is one line about a frame, in tcpdump's words.
func describe(data []byte, length int) (line string) {
	defer func() {
		if recover() != nil { // gopacket's decoders have panicked on hostile input
			line = fmt.Sprintf("undecodable, length %d", length)
		}
	}()
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	if l, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return describeARP(l, length)
	}
	if ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
		return describeIP("IP", ip.SrcIP.String(), ip.DstIP.String(), p, int(ip.Length)-int(ip.IHL)*4)
	}
	if ip, ok := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6); ok {
		return describeIP("IP6", ip.SrcIP.String(), ip.DstIP.String(), p, int(ip.Length))
	}
	if e, ok := p.LinkLayer().(*layers.Ethernet); ok {
		return fmt.Sprintf("%s > %s, ethertype %s, length %d", e.SrcMAC, e.DstMAC, e.EthernetType, length)
	}
	return fmt.Sprintf("undecodable, length %d", length)
}

func describeARP(l *layers.ARP, length int) string {
	ip := func(b []byte) string { return net.IP(b).String() }
	if len(l.SourceProtAddress) != 4 || len(l.DstProtAddress) != 4 {
		return fmt.Sprintf("ARP, length %d", length)
	}
	if l.Operation == layers.ARPRequest {
		return fmt.Sprintf("ARP, Request who-has %s tell %s, length %d", ip(l.DstProtAddress), ip(l.SourceProtAddress), length-14)
	}
	return fmt.Sprintf("ARP, Reply %s is-at %s, length %d", ip(l.SourceProtAddress), net.HardwareAddr(l.SourceHwAddress), length-14)
}

func describeIP(family, src, dst string, p gopacket.Packet, length int) string {
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		n := length - int(l.DataOffset)*4
		return fmt.Sprintf("%s %s.%d > %s.%d: Flags [%s], seq %d, ack %d, win %d, length %d", family, src, l.SrcPort, dst, l.DstPort, tcpFlags(l), l.Seq, l.Ack, l.Window, n)
	case *layers.UDP:
		return fmt.Sprintf("%s %s.%d > %s.%d: UDP, length %d", family, src, l.SrcPort, dst, l.DstPort, length-8)
	}
	if i, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		what := i.TypeCode.String()
		switch i.TypeCode.Type() {
		case layers.ICMPv4TypeEchoRequest:
			what = fmt.Sprintf("echo request, id %d, seq %d", i.Id, i.Seq)
		case layers.ICMPv4TypeEchoReply:
			what = fmt.Sprintf("echo reply, id %d, seq %d", i.Id, i.Seq)
		}
		return fmt.Sprintf("%s %s > %s: ICMP %s, length %d", family, src, dst, what, length)
	}
	return fmt.Sprintf("%s %s > %s: length %d", family, src, dst, length)
}

// tcpFlags are tcpdump's letters.
func tcpFlags(t *layers.TCP) string {
	s := ""
	for _, f := range []struct {
		on     bool
		letter string
	}{{t.FIN, "F"}, {t.SYN, "S"}, {t.RST, "R"}, {t.PSH, "P"}, {t.ACK, "."}, {t.URG, "U"}} {
		if f.on {
			s += f.letter
		}
	}
	if s == "" {
		s = "none"
	}
	return s
}
