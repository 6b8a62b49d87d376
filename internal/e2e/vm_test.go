package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// machines are the kinds of virtual machines. The guest is the kernel of namespace vm: QEMU, or VDE's own program, connects its
// tap0 to the port of the switch.
var machines = []struct {
	kind string
	tool string
	args func(path, local string) []string
	lost string // the error for a second machine on the port
}{
	{"qemu-stream", "qemu-system-x86_64", func(path, _ string) []string {
		return qemu("stream,id=a,server=off,addr.type=unix,addr.path=" + path)
	}, ""},
	{"qemu-dgram", "qemu-system-x86_64", func(path, local string) []string {
		return qemu(fmt.Sprintf("dgram,id=a,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", local, path))
	}, ""},
	{"vde", "vde_plug2tap", func(path, _ string) []string { return []string{"vde_plug2tap", "-s", path, "tap0"} }, ""},
}

// qemu returns the command for a machine without a processor. It has only networks: hub 0 connects netdev a and tap0.
func qemu(netdev string) []string {
	return []string{"qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-netdev", netdev, "-netdev", "hubport,id=ha,hubid=0,netdev=a",
		"-netdev", "tap,id=b,ifname=tap0,script=no,downscript=no,vhost=off", "-netdev", "hubport,id=hb,hubid=0,netdev=b"}
}

func TestMachines(t *testing.T) {
	t.Parallel()
	for _, m := range machines {
		t.Run(m.kind, func(t *testing.T) {
			Need(t, m.tool, "iperf3", "curl")
			b := New(t)
			containers(b)
			b.AddNS("vm")
			b.Sh("vm", "ip tuntap add tap0 mode tap && ip link set tap0 up && ip addr add 172.29.0.9/16 dev tap0 && ip route add default via 172.29.0.1")
			path := filepath.Join(b.dir, "vm1")
			b.CLI("port", "add", "vm1", "--"+m.kind, path, "--ip", "172.29.0.9", "--ip6", "auto")
			state := func() string {
				var p api.Port
				b.JSON(&p, "port", "show", "vm1")
				return p.State
			}
			if s := state(); s != "down" {
				t.Errorf("before a machine is there the port is %s", s)
			}
			n := 0
			start := func() *exec.Cmd {
				n++
				args := m.args(path, filepath.Join(b.dir, fmt.Sprintf("local%d", n)))
				c := exec.Command(args[0], args[1:]...)
				c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				said := &syncBuffer{}
				c.Stderr, c.Stdout = said, said
				if err := netns.Do(b.path("vm"), c.Start); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = c.Process.Kill()
					_ = c.Wait()
					if t.Failed() {
						t.Logf("%s said: %s", args[0], said)
					}
				})
				return c
			}
			reaches := func(from, to string) {
				t.Helper()
				b.Eventually(from+" reaches "+to, func() bool { _, err := b.TrySh(from, "ping -c 1 -W 1 "+to); return err == nil })
			}
			c := start()
			reaches("vm", "172.29.0.1")
			if s := state(); s != "forwarding" {
				t.Errorf("with a machine the port is %s", s)
			}
			reaches("vm", "172.29.0.2")
			reaches("web", "172.29.0.9")
			reaches("vm", "10.1.0.2")
			// The machine takes the address of its port, and its route from the gateway's advertisements.
			b.Sh("out", "ip addr add "+out6+"/64 dev eth0 nodad")
			outside6(b)
			b.Sh("vm", "sysctl -qw net.ipv6.conf.tap0.disable_ipv6=0 net.ipv6.conf.tap0.accept_ra=2 && ip addr replace "+addr6(b, "vm1")+"/64 dev tap0 nodad")
			b.Eventually("the machine has a default route", func() bool {
				return strings.Contains(b.Sh("vm", "ip -6 route show default"), "via fe80::1")
			})
			reaches("vm", addr6(b, "web"))
			reaches("vm", out6)
			b.Web("vm")
			b.CLI("publish", "add", "8080:80", "--port", "vm1")
			if got := b.Sh("out", "curl -s -m 5 http://10.1.0.1:8080/"); !strings.Contains(got, "you are 10.1.0.2") {
				t.Errorf("a published port of the machine: %q", got)
			}
			// Super-frames of a container are segmented for the machine. The traffic runs in both directions and exceeds its
			// queue.
			b.Iperf("vm")
			for _, flag := range []string{"", "-R"} {
				b.Measure("web", "-c 172.29.0.9 -n 30M "+flag)
			}
			var p api.Port
			if b.JSON(&p, "port", "show", "vm1"); p.Segmented == 0 {
				t.Error("nothing was taken apart")
			}
			b.Sh("vm", "ping -c 1 -s 4000 172.29.0.3")

			// The machine dies and starts again, with the same port and address.
			_ = c.Process.Kill()
			_ = c.Wait()
			b.Eventually("the port is down", func() bool {
				_, _ = b.TrySh("web", "ping -c 1 -W 1 172.29.0.9")
				return state() == "down"
			})
			if m.kind == "vde" {
				b.Sh("vm", "ip link show tap0 || ip tuntap add tap0 mode tap; ip link set tap0 up; ip addr replace 172.29.0.9/16 dev tap0; ip route replace default via 172.29.0.1")
			}
			c = start()
			reaches("vm", "172.29.0.2")
			reaches("web", "172.29.0.9")
			b.CLI("config", "show")
			b.CLI("port", "del", "vm1")
			if left, _ := filepath.Glob(path + "*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			// A machine whose port has no address leases one. Nothing of it is left behind with the port.
			_ = c.Process.Kill()
			_ = c.Wait()
			b.CLI("port", "add", "vm1", "--"+m.kind, path)
			if m.kind == "vde" {
				b.Sh("vm", "ip link show tap0 || ip tuntap add tap0 mode tap; ip link set tap0 up")
			}
			start()
			b.Eventually("the machine has a lease", func() bool {
				said, _ := b.TrySh("vm", "busybox udhcpc -i tap0 -n -q -f -t 3 -T 1 -s /bin/true 2>&1")
				return strings.Contains(said, "lease of 172.29.128.1 obtained from 172.29.0.1")
			})
			contains(t, b.CLI("neigh"), "172.29.128.1")
			b.CLI("port", "del", "vm1")
			if out := b.CLI("neigh"); strings.Contains(out, "172.29.128.1") {
				t.Errorf("the leased address of a port that has gone is known still: %s", out)
			}
			b.Balanced()
		})
	}
}
