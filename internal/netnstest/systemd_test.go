package netnstest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/tap"
)

// The switch as systemd starts it: with the unit's capabilities, a socket that was made for it, and somebody who listens to what it
// says.
func TestSystemd(t *testing.T) {
	Need(t, "setpriv", "systemd-socket-activate", "ping")
	unit, err := os.ReadFile("../packaging/uvswitch.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(string(unit))
	if m == nil {
		t.Fatal("the unit has no CapabilityBoundingSet")
	}
	caps := "-all"
	for _, c := range strings.Fields(m[1]) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	b := NewHost(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(b.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 256)
		_ = notify.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("systemd does not hear %q: %v\n%s", want, err, b.log)
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	b.log = &syncBuffer{}
	c := exec.Command("setpriv", "--bounding-set", caps, "--inh-caps=-all", "--no-new-privs", "systemd-socket-activate", "-l", b.Socket(), "-E", "NOTIFY_SOCKET", "-E", "WATCHDOG_USEC",
		uvswitch, "--socket", b.Socket(), "run", "--state", b.dir)
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(b.dir, "notify"), "WATCHDOG_USEC=200000")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	c.Stderr = b.log
	if err := tap.In(b.path("host"), c.Start); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	b.proc, b.exited = c, exited
	t.Cleanup(func() { b.Stop() })

	b.Eventually("the first who asks starts the switch, and is answered", func() bool { _, err := b.TryCLI("status"); return err == nil })
	hears("READY=1")
	for range 3 {
		hears("WATCHDOG=1")
	}
	containers(b)
	ping(b, "web", "172.29.0.3")
	ping(b, "web", "10.1.0.2")
	ping(b, "host", "172.29.0.2")
	b.Web("web")
	b.CLI("publish", "add", "81:80", "--port", "web") // below 1024
	contains(t, b.Sh("out", "curl -sS -m 5 http://10.1.0.1:81/"), "10.1.0.2")
	_ = c.Process.Signal(unix.SIGTERM)
	hears("STOPPING=1")
	if err := b.Stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", "../packaging/uvswitch.socket").CombinedOutput(); err != nil && !strings.Contains(string(out), "/usr/bin/uvswitch is not executable") {
		t.Errorf("%v: %s", err, out)
	}
}
