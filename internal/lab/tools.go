package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	nsname "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// tools are the programs that Tool replaces when the system lacks them.
var tools = []string{"ping", "curl", "ip", "dig"}

// Tool runs a small replacement for a tool that the system may lack: ping, curl, httpd, and the parts of ip that the tour uses.
// It works in the namespace of the process.
func Tool(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("lab tool: the name of the tool is missing; use ping, curl, ip, dig or httpd")
	}
	switch args[0] {
	case "ping":
		return ping(ctx, args[1:], out)
	case "curl":
		return curl(ctx, args[len(args)-1], out)
	case "httpd":
		return httpd(ctx, args[1:])
	case "dig":
		return dig(ctx, args[1:], out)
	case "ip":
		return ip(args[1:], out)
	}
	return fmt.Errorf("lab tool: %q does not exist; use ping, curl, ip, dig or httpd", args[0])
}

// dig asks a name server for the addresses of a name and prints them: dig +short @SERVER NAME.
func dig(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 || args[0] != "+short" || !strings.HasPrefix(args[1], "@") {
		return errors.New("dig: the form is dig +short @SERVER NAME")
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(args[1][1:], "53"))
	}}
	addrs, err := r.LookupHost(ctx, strings.TrimSuffix(args[2], ".")+".")
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil
	}
	for _, a := range addrs {
		fmt.Fprintln(out, a)
	}
	return err
}

// ping sends N echo requests (-c N), one a second, and prints the answers in the format of ping(8).
func ping(ctx context.Context, args []string, out io.Writer) error {
	count := 3
	if len(args) >= 2 && args[0] == "-c" {
		count, _ = strconv.Atoi(args[1])
		args = args[2:]
	}
	if len(args) != 1 || net.ParseIP(args[0]) == nil {
		return errors.New("ping: the form is ping [-c N] ADDRESS")
	}
	network, request, reply := "ip4:icmp", uint8(frame.ICMPEcho), uint8(frame.ICMPEchoReply)
	if strings.Contains(args[0], ":") {
		network, request, reply = "ip6:ipv6-icmp", frame.ICMPv6Echo, frame.ICMPv6EchoReply
	}
	c, err := net.Dial(network, args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	id := uint16(os.Getpid())
	fmt.Fprintf(out, "PING %s: 56 data bytes\n", args[0])
	got := 0
	for seq := range count {
		if seq > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
		start := time.Now()
		if _, err := c.Write(echo(request, id, uint16(seq))); err != nil {
			fmt.Fprintf(out, "ping: %v\n", err)
			continue
		}
		_ = c.SetReadDeadline(start.Add(2 * time.Second))
		if ttl, err := awaitEcho(c, reply, id, uint16(seq)); err == nil {
			got++
			fmt.Fprintf(out, "64 bytes from %s: seq=%d%s time=%.3f ms\n", args[0], seq, ttl, float64(time.Since(start).Microseconds())/1000)
		}
	}
	fmt.Fprintf(out, "%d packets transmitted, %d packets received\n", count, got)
	if got == 0 {
		return errors.New("ping: no answer")
	}
	return nil
}

// echo is a request; the kernel writes the checksum of ICMPv6, which covers the addresses.
func echo(typ uint8, id, seq uint16) []byte {
	b := make([]byte, 64)
	b[0] = typ
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	binary.BigEndian.PutUint16(b[2:], ^frame.Sum(b, 0))
	return b
}

// awaitEcho waits for a reply; ttl is empty for IPv6, whose sockets give no header.
func awaitEcho(c net.Conn, typ uint8, id, seq uint16) (ttl string, err error) {
	b := make([]byte, 1500)
	raw := c.(*net.IPConn)
	for {
		n, _, _, _, err := raw.ReadMsgIP(b, nil)
		if err != nil {
			return "", err
		}
		l4 := b[:n]
		if typ == frame.ICMPEchoReply && n >= frame.IPv4Len {
			ttl = fmt.Sprintf(" ttl=%d", frame.IPv4(b).TTL())
			l4 = l4[min(n, frame.IPv4(b).HeaderLen()):]
		}
		if len(l4) >= frame.ICMPLen && l4[0] == typ && binary.BigEndian.Uint16(l4[4:]) == id && binary.BigEndian.Uint16(l4[6:]) == seq {
			return ttl, nil
		}
	}
}

func curl(ctx context.Context, url string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(out, resp.Body)
	return err
}

// httpd serves one sentence, which names the server and the client.
func httpd(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("httpd: the form is httpd PORT NAME")
	}
	s := &http.Server{Addr: ":" + args[0], ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "this is %s; you are %s\n", args[1], host)
	})}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ip implements the few commands of ip(8) that the tour shows.
func ip(args []string, out io.Writer) error {
	if len(args) > 2 && args[0] == "-n" {
		h, err := nsname.GetFromName(args[1])
		if err != nil {
			return err
		}
		defer h.Close()
		if err := nsname.Set(h); err != nil { // the namespace need not be restored: the process then exits
			return err
		}
		args = args[2:]
	}
	family := netlink.FAMILY_V4
	if len(args) > 0 && args[0] == "-6" {
		family, args = netlink.FAMILY_V6, args[1:]
	}
	line := strings.Join(args, " ")
	word := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch {
	case strings.HasPrefix(line, "link add") && strings.Contains(line, "type veth peer name"):
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: word(2)}, PeerName: args[len(args)-1]})
	case strings.HasPrefix(line, "link set"):
		return ipLinkSet(word(2), args[3:])
	case strings.HasPrefix(line, "addr add"):
		a, err := netlink.ParseAddr(word(2))
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(word(4))
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, a)
	case strings.HasPrefix(line, "route add default via"):
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP(word(4))})
	case line == "addr":
		return ipAddr(family, out)
	case word(0) == "neigh":
		return ipNeigh(family, out)
	case line == "route":
		return ipRoute(family, out)
	}
	return fmt.Errorf("ip: the lab's small replacement for ip does not support %q", line)
}

func ipLinkSet(dev string, args []string) error {
	link, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "up":
		return netlink.LinkSetUp(link)
	case len(args) == 2 && args[0] == "netns":
		h, err := nsname.GetFromPath(filepath.Join("/run/netns", args[1]))
		if err != nil {
			return err
		}
		defer h.Close()
		return netlink.LinkSetNsFd(link, int(h))
	}
	return fmt.Errorf("ip link set: the lab's small replacement for ip does not support %q", args)
}

func ipAddr(family int, out io.Writer) error {
	list, err := netlink.AddrList(nil, family)
	if err != nil {
		return err
	}
	name := map[int]string{netlink.FAMILY_V4: "inet", netlink.FAMILY_V6: "inet6"}[family]
	for _, a := range list {
		if l, err := netlink.LinkByIndex(a.LinkIndex); err == nil {
			fmt.Fprintf(out, "%d: %s    %s %s\n", a.LinkIndex, l.Attrs().Name, name, a.IPNet)
		}
	}
	return nil
}

func ipNeigh(family int, out io.Writer) error {
	list, err := netlink.NeighList(0, family)
	if err != nil {
		return err
	}
	states := map[int]string{unix.NUD_REACHABLE: "REACHABLE", unix.NUD_STALE: "STALE", unix.NUD_DELAY: "DELAY", unix.NUD_PROBE: "PROBE", unix.NUD_FAILED: "FAILED", unix.NUD_INCOMPLETE: "INCOMPLETE"}
	for _, n := range list {
		if l, err := netlink.LinkByIndex(n.LinkIndex); err == nil && states[n.State] != "" {
			fmt.Fprintf(out, "%s dev %s lladdr %s %s\n", n.IP, l.Attrs().Name, n.HardwareAddr, states[n.State])
		}
	}
	return nil
}

func ipRoute(family int, out io.Writer) error {
	list, err := netlink.RouteList(nil, family)
	if err != nil {
		return err
	}
	for _, r := range list {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue
		}
		if r.Gw != nil {
			fmt.Fprintf(out, "default via %s dev %s\n", r.Gw, l.Attrs().Name)
			continue
		}
		fmt.Fprintf(out, "%s dev %s proto kernel scope link src %s\n", r.Dst, l.Attrs().Name, r.Src)
	}
	return nil
}
