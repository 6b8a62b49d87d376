package e2e

import (
	"html"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestTop runs top on terminals of 80x24 and larger: it must fit, update, obey its keys, and restore the terminal.
func TestTop(t *testing.T) {
	Need(t, "script", "stty", "iperf3")
	b := New(t)
	containers(b)
	b.Iperf("db")
	b.Background("web", "iperf3 -c 172.29.0.3 -t 100 -b 300M")
	b.Sh("web", "ping -6 -c 1 "+addr6(b, "db"))
	b.Sh("web", "for i in $(seq 20); do echo x | socat - udp-sendto:240.0.0.1:9; done") // top has room for the most frequent reasons
	for _, size := range [][2]string{{"80", "24"}, {"132", "43"}} {
		c := exec.Command("script", "-qfec", "stty cols "+size[0]+" rows "+size[1]+"; exec "+uvswitch+" --socket "+b.Socket()+" top -d 200ms", "/dev/null")
		c.Env = append(os.Environ(), "TERM=xterm-256color")
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := &syncBuffer{}
		c.Stdout = out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		b.Eventually("rates are shown", func() bool {
			return strings.Contains(out.String(), "Mbit/s") && strings.Contains(out.String(), "martian_destination")
		})
		_, _ = io.WriteString(in, "f")
		b.Eventually("flows are shown", func() bool { return strings.Contains(out.String(), "ROTO") }) // top writes only the characters that changed
		_, _ = io.WriteString(in, "!")
		b.Eventually("a problem is shown", func() bool { return strings.Contains(out.String(), "martian_destination: packets") })
		_, _ = io.WriteString(in, "tweb icmp > 240.0.0.1\r")
		b.Eventually("a trace is shown", func() bool { return strings.Contains(out.String(), "=>") }) // top writes only the characters that changed
		_, _ = io.WriteString(in, "q")
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%v: %v", size, err)
			}
		case <-time.After(patience):
			_ = c.Process.Kill()
			t.Fatalf("%v: q does not end it", size)
		}
		all := out.String()
		if !strings.Contains(all, "\x1b[?1049h") || !strings.Contains(all[strings.LastIndex(all, "\x1b[?1049"):], "\x1b[?1049l") || !strings.Contains(all, "\x1b[?25h") {
			t.Errorf("%v: the terminal is not left as it was: %q", size, all[max(0, len(all)-200):])
		}
	}
	text := b.CLI("top", "-b", "-d", "500ms", "-n", "2")
	contains(t, text, "PORT", "web", "bit/s", "martian_destination")
	for line := range strings.Lines(text) {
		if len([]rune(line)) > 101 || strings.Contains(line, "\x1b") {
			t.Errorf("no plain line of a screen: %q", line)
		}
	}
	if dir := os.Getenv("UVSWITCH_SCREENSHOTS"); dir != "" {
		picture(t, b.CLI("top", "-b", "-d", "1s", "-n", "1"), filepath.Join(dir, "top.png"))
	}
}

// TestCompletionOfNames checks that completion offers the names of existing objects of the running switch.
func TestCompletionOfNames(t *testing.T) {
	b := New(t)
	containers(b)
	b.CLI("network", "add", "lab", "--subnet", "10.9.0.0/24")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	for line, want := range map[string]string{
		"port show ": "web\ndb\n", "port set w": "web\n", "dump -i ": "db", "flow ls --port d": "db\n", "trace --in ": "uplink", "network del l": "lab\n",
		"publish del ": "8080/tcp\n", "monitor --reason tx_": "tx_refused", "port add x --network ": "lab",
		"port set web ": "rate_from\n", "port set web guard ": "on\noff\n", "port set web guard on rate ": "10mbit\n", "port add x --netns ": b.NS("db") + "\n",
		"fdb add 02:00:00:00:00:01 dev ": "web\n", "policy add p ": "egress\n", "policy add p egress ": "allow\n", "flow ls --state E": "ESTABLISHED\n",
		"network set default --dns ": "local\n", "route del ": "172.29.0.0/16\n", "reasons guard": "guard_vlan\n",
	} {
		c := exec.Command(uvswitch, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		c.Env = append(os.Environ(), "UVSWITCH_SOCKET="+b.Socket())
		out, err := c.Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, %q; want %q", line, err, out, want)
		}
	}
}

// picture renders terminal output with Chromium and saves it as an image.
func picture(t *testing.T, text, file string) {
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(900, 760), chromedp.Flag("disable-gpu", true), chromedp.Flag("hide-scrollbars", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	page := "<body style='margin:0;background:#10141c;color:#dfe5ee'><pre style='font:14px/1.35 DejaVu Sans Mono,monospace;margin:18px'>" + html.EscapeString(text) + "</pre>"
	var png []byte
	if err := chromedp.Run(ctx, chromedp.Navigate("data:text/html;charset=utf-8,"+url.PathEscape(page)), chromedp.CaptureScreenshot(&png)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o644); err != nil {
		t.Fatal(err)
	}
}
