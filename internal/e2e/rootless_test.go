package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// A user is an ordinary user of the bed's host: uid 65534, without any capability, with /dev/net/tun as systems have it.
type user struct {
	*Bed
	dir string // has the command, and is the user's $XDG_RUNTIME_DIR
}

func newUser(b *Bed) *user {
	Need(b.t, "setpriv", "unshare")
	u := &user{b, copyForAll(b.t)}
	run := filepath.Join(u.dir, "run")
	for _, err := range []error{
		os.Mkdir(run, 0o700), os.Chown(run, 65534, 65534),
		unix.Mknod(filepath.Join(u.dir, "tun"), unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), os.Chmod(filepath.Join(u.dir, "tun"), 0o666),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	b.socket = filepath.Join(run, "uvswitch/uvswitch.sock")
	return u
}

// command returns a shell command of the user.
func (u *user) command(line string) string {
	return fmt.Sprintf("exec unshare -m sh -c 'mount --bind %[1]s/tun /dev/net/tun && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "+
		"env XDG_RUNTIME_DIR=%[1]s/run HOME=%[1]s/run PATH=%[1]s:$PATH sh -c \"$1\"' - %[2]s", u.dir, "'"+strings.ReplaceAll(line, "'", `'\''`)+"'")
}

func (u *user) try(line string) (string, error) { return u.TrySh("host", u.command(line)) }

func (u *user) sh(line string) string {
	u.t.Helper()
	out, err := u.try(line)
	if err != nil {
		u.t.Fatalf("as a user: %s: %v\n%s", line, err, out)
	}
	return out
}

// start runs a command of the user in the background until the test ends.
func (u *user) start(line string) *exec.Cmd {
	u.t.Helper()
	c := exec.Command("sh", "-c", u.command(line))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &syncBuffer{}
	c.Stdout, c.Stderr = log, log
	if err := netns.Do(u.path("host"), c.Start); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait()
		if u.t.Failed() {
			u.t.Logf("%s said:\n%s", line, log)
		}
	})
	return c
}

// run starts the user's switch.
func (u *user) run(args string) {
	u.t.Helper()
	u.start("exec uvswitch run --io " + u.pair.IO + " " + args)
	u.Eventually("the switch answers", func() bool { _, err := u.TryCLI("status"); return err == nil })
}

// port waits for a port.
func (u *user) port(name string) (p api.Port) {
	u.t.Helper()
	u.Eventually("there is a port "+name, func() bool {
		out, err := u.TryCLI("-j", "port", "show", name)
		return err == nil && strings.Contains(out, name)
	})
	u.JSON(&p, "port", "show", name)
	return p
}

// TestRootless: an ordinary user runs a switch and containers.
func TestRootless(t *testing.T) {
	b := NewHost(t)
	u := newUser(b)
	before := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; sysctl -a -r 'forwarding|rp_filter' 2>/dev/null")
	u.run("")

	u.start("exec uvswitch exec --port web -- sleep 600")
	web, _, _ := strings.Cut(u.port("web").Addresses[0], "/")
	for what, line := range map[string]string{
		"root of its own namespace": "test $(id -u) = 0",
		"one device":                `test "$(ls /sys/class/net | tr "\n" " ")" = "eth0 lo "`,
		"by address":                "ping -c1 -W5 " + web,
		"by name":                   "ping -c1 -W5 web",
		"IPv6":                      "ping -6 -c1 -W5 web",
		"loopback":                  "ping -c1 -W5 127.0.0.1",
	} {
		if out, err := u.try("uvswitch exec -- sh -c '" + line + "'"); err != nil {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
	if _, err := u.try("uvswitch exec -- sh -c 'exit 7'"); err == nil || err.Error() != "exit status 7" {
		t.Errorf("a command that ends with 7: %v", err)
	}
	if out, err := u.try("uvswitch exec -- no-such-command"); err == nil || !strings.Contains(out, "no-such-command") {
		t.Errorf("a command that does not exist: %v %s", err, out)
	}
	b.Eventually("the ports of commands that have ended are gone", func() bool { return !strings.Contains(b.CLI("port", "ls"), "exec-") })

	// A namespace that another program has made, also one whose user is not root inside.
	for name, as := range map[string]string{"plugged": "-r", "unmapped": "-c"} {
		pid := strings.TrimSpace(u.sh("unshare -Un " + as + " sleep 600 </dev/null >/dev/null 2>&1 & echo $!"))
		t.Cleanup(func() { b.Sh("host", "kill "+pid) })
		b.Eventually("the namespace is there", func() bool {
			_, err := u.try("test $(readlink /proc/" + pid + "/ns/net) != $(readlink /proc/self/ns/net)")
			return err == nil
		})
		if out, err := u.try("uvswitch port add " + name + " --netns pid:" + pid); err != nil {
			t.Errorf("a port in a namespace (unshare %s): %v: %s", as, err, out)
			continue
		}
		u.sh("uvswitch exec -- ping -c1 -W5 " + name)
	}

	// A network without a way out.
	u.start("exec uvswitch exec --internal --port inner -- sleep 600")
	u.port("inner")
	u.sh("uvswitch exec --internal -- ping -c1 -W5 inner")
	if out, err := u.try("uvswitch exec --internal -- ping -c1 -W1 " + web); err == nil {
		t.Errorf("from the internal network to another one: %s", out)
	}

	if out, err := u.try("uvswitch run"); err == nil || !strings.Contains(out, "already running") {
		t.Errorf("a second switch of this user: %v: %s", err, out)
	}
	if after := b.Sh("host", "ip -br link; ip -o -4 addr; ip route; sysctl -a -r 'forwarding|rp_filter' 2>/dev/null"); after != before {
		t.Errorf("the host has changed: was\n%s\nis\n%s", before, after)
	}
	b.Balanced()
}
