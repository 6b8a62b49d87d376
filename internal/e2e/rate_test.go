package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// carried returns the throughput of iperf3 from web to a server, in bits per second at the receiver.
func (b *Bed) carried(server, options string) float64 {
	b.t.Helper()
	var report struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			Sum struct {
				Rate float64 `json:"bits_per_second"`
				Lost float64 `json:"lost_percent"`
			}
		}
	}
	out := b.Measure("web", "-J -t 2 -c "+server+" "+options)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		b.t.Fatal(err)
	}
	if strings.Contains(options, "-u") {
		return report.End.Sum.Rate * (100 - report.End.Sum.Lost) / 100
	}
	return report.End.Received.Rate
}

// TestRates checks that TCP reaches the rate of its ingress port, of its egress port, and of both, and that UDP does not exceed
// the rate. The rate is only 20 Mbit/s, which a slow machine can reach, too.
func TestRates(t *testing.T) {
	Need(t, "iperf3")
	b := AloneHost(t)
	b.AddNS("web", "db")
	path := filepath.Join(t.TempDir(), "uvswitch.yaml")
	write := func(set string) {
		text := "ports:\n  - {name: web, netns: " + b.NS("web") + ", ip: 172.29.0.2" + set + "}\n  - {name: db, netns: " + b.NS("db") + ", ip: 172.29.0.3}\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const db, most, least = "172.29.0.3", 21e6, 10e6
	write(", set: {rx_rate: 20mbit}")
	b.Start("-c", path)
	b.Iperf("db")
	if got := b.carried(db, ""); got > most || got < least {
		t.Errorf("rx_rate, TCP: %.1f Mbit/s", got/1e6)
	}
	if got := b.carried(db, "-u -b 100M"); got > most || got < least {
		t.Errorf("rx_rate, UDP: %.1f Mbit/s", got/1e6)
	}
	var p api.Port
	b.JSON(&p, "port", "show", "web")
	if p.RxRate != 20e6 || p.RxBurst != 32<<10 || p.TxRate != 0 || p.Drops["rx_rate_exceeded"] == 0 || p.RxDropped < p.Drops["rx_rate_exceeded"] {
		t.Errorf("%+v", p)
	}
	contains(t, b.CLI("port", "show", "web"), "rate from it", "20.0 Mbit/s, burst 32768 bytes", "rate to it", "off")
	contains(t, b.CLI("monitor", "--last", "5", "--reason", "rx_rate_exceeded"), "172.29.0.2", "rx_rate_exceeded")
	ping(b, "web", "172.29.0.3")

	// A reload removes the rate and keeps the port.
	device := b.Sh("web", "ip -o link show eth0")
	write("")
	contains(t, b.CLI("reload"), "change settings of port web")
	if got := b.carried(db, ""); got < 2*most {
		t.Errorf("without a rate: %.1f Mbit/s", got/1e6)
	}
	if now := b.Sh("web", "ip -o link show eth0"); now != device {
		t.Error("the port was made anew for its rate")
	}

	b.CLI("port", "set", "db", "tx_rate", "20mbit/32kb", "guard", "on")
	if got := b.carried(db, "-P 4"); got > most || got < least {
		t.Errorf("tx_rate, TCP: %.1f Mbit/s", got/1e6)
	}
	if got := b.carried(db, "-R"); got < 2*most {
		t.Errorf("tx_rate, the other way: %.1f Mbit/s", got/1e6)
	}
	contains(t, b.CLI("config", "show"), "rate_to: 20mbit/32768b")
	b.JSON(&p, "port", "show", "db")
	if p.TxBurst != 32<<10 || p.Drops["tx_rate_exceeded"] == 0 || p.TxDropped != p.Drops["tx_rate_exceeded"] {
		t.Errorf("%+v", p)
	}
	b.CLI("port", "set", "web", "rate", "20mbit")
	if got := b.carried(db, ""); got > most || got < least {
		t.Errorf("both: %.1f Mbit/s", got/1e6)
	}
	b.CLI("port", "set", "web", "rate", "off")
	b.CLI("port", "set", "db", "rate", "off")
	if got := b.carried(db, "-R"); got < 2*most {
		t.Errorf("off again: %.1f Mbit/s", got/1e6)
	}

	for words, want := range map[string]string{
		"rate maybe": `"maybe" is not a rate`, "rate 10": "out of range; use 1kbit", "rate 2tbit": "out of range", "rate_from 1mbit/9": "burst 9 is out of range", "tx_rate 1mbit/x": "is not a burst",
		"rate on": "is not a rate", "birate 1mbit": `no setting "birate"`,
	} {
		if out, err := b.TryCLI(append([]string{"port", "set", "web"}, strings.Fields(words)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q %v, want %q", words, out, err, want)
		}
	}
	b.Balanced()
}

// TestUplinkRate checks that all traffic to the outside, and from it, keeps to the uplink's rate.
func TestUplinkRate(t *testing.T) {
	Need(t, "iperf3")
	b := Alone(t)
	b.AddNS("web")
	b.CLI("port", "add", "web", "--netns", b.NS("web"), "--ip", "172.29.0.2")
	b.Iperf("out")
	b.CLI("port", "set", "uplink", "rate", "20mbit")
	for _, way := range []string{"", "-R"} {
		if got := b.carried("10.1.0.2", way); got > 21e6 || got < 10e6 {
			t.Errorf("%s: %.1f Mbit/s", way, got/1e6)
		}
	}
}
