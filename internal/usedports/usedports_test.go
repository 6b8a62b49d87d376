package usedports

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func line(n int, local, state string) string {
	return fmt.Sprintf("%4d: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100 0 0 10 0\n", n, local, state, 1000+n)
}

// counted counts what was read.
type counted struct {
	r *strings.Reader
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

func TestListeners(t *testing.T) {
	got, err := parse(strings.NewReader(header+line(0, "0100007F:1F90", "0A")+line(1, "00000000:0016", "0A")), "tcp")
	want := []Listener{{"tcp", netip.MustParseAddr("127.0.0.1"), 8080, "1000"}, {"tcp", netip.MustParseAddr("0.0.0.0"), 22, "1001"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// Half a million connections of the host are not read, only those sockets that listen.
func TestConnectionsAreNotRead(t *testing.T) {
	var b strings.Builder
	b.WriteString(header + line(0, "00000000:0016", "0A"))
	for i := range 500_000 {
		b.WriteString(line(i+1, "0100007F:9C40", "01"))
	}
	table := &counted{r: strings.NewReader(b.String())}
	got, err := parse(table, "tcp")
	if err != nil || len(got) != 1 || got[0].Port != 22 {
		t.Errorf("%v, %v", got, err)
	}
	if table.n > 1<<16 {
		t.Errorf("%d bytes were read of the connections", table.n)
	}
}

// Both ways of reading find the same sockets.
func TestDiag(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6"} {
		host := map[byte]string{'4': "127.0.0.1", '6': "[::1]"}[network[3]]
		var at net.Addr
		if network[:3] == "tcp" {
			l, err := net.Listen(network, host+":0")
			if err != nil {
				t.Skip(err)
			}
			defer l.Close()
			at = l.Addr()
		} else {
			l, err := net.ListenPacket(network, host+":0")
			if err != nil {
				t.Skip(err)
			}
			defer l.Close()
			at = l.LocalAddr()
		}
		want := netip.MustParseAddrPort(at.String())
		table := strings.TrimSuffix(network, "4")
		asked, ok := diag(table)
		if !ok {
			t.Fatalf("%s: the kernel does not answer", table)
		}
		read, err := read("thread-self", table)
		if err != nil {
			t.Fatal(err)
		}
		a, found := Find(asked, network[:3], want.Addr(), want.Port())
		b, _ := Find(read, network[:3], want.Addr(), want.Port())
		if !found || a != b || a.Addr != want.Addr() {
			t.Errorf("%s %s: %+v and %+v", table, at, a, b)
		}
	}
}
