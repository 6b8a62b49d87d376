package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// A dockerHost is a bed whose host runs its own dockerd, with its own files, and a switch that is its network driver.
type dockerHost struct {
	*Bed
	tmp    string // short, because the path of a unix socket has at most 107 bytes
	driver string
	proc   *exec.Cmd
	log    *syncBuffer
	exited chan error
}

func newDocker(t *testing.T) *dockerHost {
	d := dockerOn(t, NewHost(t), "/tmp")
	d.startSwitch()
	d.startDocker()
	d.image()
	return d
}

// dockerOn prepares a dockerd on a bed's host, with its files in a new folder in parent. It does not start dockerd.
func dockerOn(t *testing.T, b *Bed, parent string) *dockerHost {
	Need(t, "dockerd", "docker", "busybox", "iptables-save", "curl")
	d := &dockerHost{Bed: b, log: &syncBuffer{}}
	d.driver = d.id
	var err error
	if d.tmp, err = os.MkdirTemp(parent, "uvd"); err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, "DOCKER_HOST=unix://"+filepath.Join(d.tmp, "d.sock")) // the switch asks it for names
	t.Cleanup(func() {
		d.killShims()
		os.RemoveAll(d.tmp)
		os.Remove("/run/docker/plugins/" + d.driver + ".sock") // left by a switch that was killed
	})
	return d
}

func (d *dockerHost) startSwitch() {
	d.t.Helper()
	d.Start("--docker="+d.driver, "--state", filepath.Join(d.tmp, "state"), "-v")
}

// startDocker runs dockerd on the host and waits until it answers.
func (d *dockerHost) startDocker() {
	d.t.Helper()
	at := func(name string) string { return filepath.Join(d.tmp, name) }
	os.Remove(at("pid")) // left by a killed dockerd; containerd, below, looks alive while it is a zombie
	os.Remove(at("exec/containerd/containerd.pid"))
	c := exec.Command("dockerd", "--data-root", at("data"), "--exec-root", at("exec"), "-H", "unix://"+at("d.sock"), "-p", at("pid"), "--storage-driver=vfs")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	c.Stdout, c.Stderr = d.log, d.log
	if err := netns.Do(d.path("host"), c.Start); err != nil {
		d.t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()
	d.proc, d.exited = c, exited
	d.t.Cleanup(func() {
		if d.proc == c {
			d.stopDocker()
		}
		if d.t.Failed() {
			t := d.log.String()
			d.t.Logf("dockerd said, at the end:\n%s", t[max(0, len(t)-8000):])
		}
	})
	d.Eventually("dockerd answers", func() bool { _, err := d.try("version"); return err == nil })
}

func (d *dockerHost) stopDocker() {
	if all, _ := d.try("ps", "-aq"); strings.TrimSpace(all) != "" {
		_, _ = d.try(append([]string{"rm", "-f"}, strings.Fields(all)...)...)
	}
	_ = d.proc.Process.Signal(unix.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.t.Error("dockerd does not end")
		_ = d.proc.Process.Kill()
	}
	d.proc = nil
}

// killShims ends containers that still run because their dockerd could not be started again.
func (d *dockerHost) killShims() {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range list {
		if line, _ := os.ReadFile(path); strings.Contains(string(line), d.tmp) && strings.Contains(string(line), "containerd-shim") {
			pid := filepath.Base(filepath.Dir(path))
			_ = exec.Command("pkill", "-KILL", "-P", pid).Run() // the container's process
			_ = exec.Command("kill", "-KILL", pid).Run()
		}
	}
	unmountBelow(d.tmp)
}

// unmountBelow unmounts everything that is mounted in a folder.
func unmountBelow(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, m := range strings.Fields(string(mounts)) {
		if strings.HasPrefix(m, dir+"/") {
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	}
}

func (d *dockerHost) killDocker() {
	_ = d.proc.Process.Kill()
	<-d.exited
	d.proc = nil
}

// client returns the docker command: that of dockerd's package, if there are several.
var client = sync.OnceValue(func() string {
	if path := "/usr/bin/docker"; exec.Command(path, "--version").Run() == nil {
		return path
	}
	return "docker"
})

// try runs the docker command; the error has its messages.
func (d *dockerHost) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, client(), append([]string{"-H", "unix://" + filepath.Join(d.tmp, "d.sock")}, args...)...)
	c.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Join(d.tmp, "config"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s%s", strings.Join(args, " "), err, stderr.String(), out)
	}
	return string(out), err
}

func (d *dockerHost) docker(args ...string) string {
	d.t.Helper()
	out, err := d.try(args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// image creates the image bb with a static busybox, which can run a web server that names its client.
func (d *dockerHost) image() {
	d.t.Helper()
	root := filepath.Join(d.tmp, "root")
	d.local("sh", "-c", busyboxImage, root)
	d.docker("import", root+".tar", "bb")
}

// busyboxImage is a script that creates the root of an image and a tar of it, with a static busybox and a page that names the
// client. It has only the commands that the tests use: every container copies every file.
const busyboxImage = `set -e
mkdir -p "$0/bin" "$0/etc" "$0/proc" "$0/sys" "$0/dev" "$0/tmp" "$0/www/cgi-bin"
cp "$(command -v busybox)" "$0/bin/busybox"
for a in arp cat echo httpd ip ls ping ps sh sleep true wget; do ln -s busybox "$0/bin/$a"; done
printf '#!/bin/sh\nr=${REMOTE_ADDR#\\[}; r=${r%%]}; echo; echo you are ${r#::ffff:}\n' > "$0/www/cgi-bin/who"; chmod +x "$0/www/cgi-bin/who"
tar -C "$0" -cf "$0.tar" .`

// web starts a container with a web server.
func (d *dockerHost) web(name string, args ...string) {
	d.t.Helper()
	d.docker(append(append([]string{"run", "-d", "--name", name}, args...), "bb", "httpd", "-f", "-p", "80", "-h", "/www")...)
}

// idle starts a container that only waits.
func (d *dockerHost) idle(name string, args ...string) {
	d.t.Helper()
	d.docker(append(append([]string{"run", "-d", "--name", name}, args...), "bb", "sleep", "3600")...)
}

// exec runs a command in a container.
func (d *dockerHost) exec(name string, args ...string) string {
	d.t.Helper()
	return d.docker(append([]string{"exec", name}, args...)...)
}

// inspect returns a field of a container.
func (d *dockerHost) inspect(name, format string) string {
	d.t.Helper()
	return strings.TrimSpace(d.docker("inspect", "-f", format, name))
}

func (d *dockerHost) address(name, network string) string {
	d.t.Helper()
	return d.inspect(name, fmt.Sprintf(`{{(index .NetworkSettings.Networks "%s").IPAddress}}`, network))
}

// containerPorts returns the switch's ports that belong to Docker's containers.
func (d *dockerHost) containerPorts() (out []api.Port) {
	d.t.Helper()
	var all []api.Port
	d.JSON(&all, "port", "ls")
	for _, p := range all {
		if strings.HasPrefix(p.Network, "docker-") {
			out = append(out, p)
		}
	}
	return out
}

// TestDocker follows an article about docker0, with a network of the switch instead of docker0.
func TestDocker(t *testing.T) {
	d := newDocker(t)
	rules := regexp.MustCompile(`\[\d+:\d+\]|(?m)^#.*$`)
	netfilter := func() string { return rules.ReplaceAllString(d.Sh("host", "iptables-save"), "") }
	before := netfilter()
	d.Web("out")
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.30.0.0/16", "net1")
	d.web("web", "--network", "net1", "-p", "8080:80")
	d.idle("db", "--network", "net1")

	d.Eventually("the ports have the names of their containers", func() bool {
		ports := d.CLI("port", "ls")
		return strings.Contains(ports, "\nweb ") && strings.Contains(ports, "\ndb ")
	})
	contains(t, d.CLI("publish", "ls"), "web")

	contains(t, d.exec("db", "ping", "-c", "2", "172.30.0.2"), "64 bytes from 172.30.0.2: seq=0 ttl=64", "2 packets transmitted, 2 packets received, 0% packet loss")
	contains(t, d.exec("db", "ping", "-c", "1", "web"), "PING web (172.30.0.2): 56 data bytes", "1 packets received")
	contains(t, d.exec("db", "arp", "-n"), "? (172.30.0.2) at 02:75:ac:1e:00:02 [ether]  on eth0")
	contains(t, d.exec("db", "ip", "route"), "default via 172.30.0.1 dev eth0", "172.30.0.0/16 dev eth0 scope link  src 172.30.0.3")
	contains(t, d.exec("db", "ip", "addr", "show", "eth0"), "inet 172.30.0.3/16", "link/ether 02:75:ac:1e:00:03", "mtu 1500")
	contains(t, d.exec("db", "ping", "-c", "1", "10.1.0.2"), "64 bytes from 10.1.0.2: seq=0 ttl=63")
	contains(t, d.exec("db", "wget", "-qO-", "http://10.1.0.2/"), "10.1.0.1") // the outside sees the host's address

	if got := d.Sh("out", "curl -sS http://10.1.0.1:8080/cgi-bin/who"); got != "you are 10.1.0.2\n" {
		t.Errorf("from outside: %q", got)
	}
	contains(t, d.Sh("host", "curl -sS http://127.0.0.1:8080/cgi-bin/who http://10.1.0.1:8080/cgi-bin/who"), "you are ")
	contains(t, d.exec("db", "wget", "-qO-", "http://10.1.0.1:8080/cgi-bin/who"), "you are ")

	var published []api.Publish
	d.JSON(&published, "publish", "ls")
	if len(published) != 1 || published[0].HostPort != 8080 || published[0].Address != "172.30.0.2" {
		t.Errorf("published: %+v", published)
	}
	for _, p := range d.containerPorts() {
		if p.Ifname != "eth0" || p.State != "forwarding" || p.Kind != "tap" || !p.Flags["guard"] {
			t.Errorf("%+v", p)
		}
	}
	if after := netfilter(); after != before {
		t.Errorf("netfilter's rules before:\n%s\nafter:\n%s", before, after)
	}
	if links := d.Sh("host", "ip -br link"); strings.Contains(links, "docker_gwbridge") || strings.Contains(links, "veth") {
		t.Errorf("the kernel's own network came along:\n%s", links)
	}
	d.Balanced()
	d.docker("rm", "-f", "web", "db")
	if left := d.containerPorts(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	d.docker("network", "rm", "net1")
	if links := d.Sh("host", "ip -br link"); strings.Contains(links, "uvs") && regexp.MustCompile(`uvs[0-9a-f]{12}`).MatchString(links) {
		t.Errorf("left:\n%s", links)
	}
}

// TestDockerIPv6 makes networks with both families: one whose containers leave with the host's address, and one whose containers keep theirs.
func TestDockerIPv6(t *testing.T) {
	b := newWithIPv6(t)
	outside6(b)
	b.Web("out")
	b.Sh("out", "ip -6 route add 2001:db8:31::/64 via "+host6)
	d := dockerOn(t, b, "/tmp")
	d.startSwitch()
	d.startDocker()
	d.image()
	d.docker("network", "create", "-d", d.driver, "--ipv6", "--subnet", "172.30.0.0/16", "--subnet", "fd00:30::/64", "net1")
	d.docker("network", "create", "-d", d.driver, "--ipv6", "--subnet", "172.31.0.0/16", "--subnet", "2001:db8:31::/64", "-o", "com.docker.network.bridge.gateway_mode_ipv6=routed", "net2")
	d.web("web", "--network", "net1", "-p", "8080:80")
	d.idle("db", "--network", "net1", "--ip6", "fd00:30::99")
	d.web("own", "--network", "net2", "-p", "8081:80")
	address := func(name, network string) string {
		return strings.TrimSpace(d.docker("inspect", "-f", "{{ (index .NetworkSettings.Networks \""+network+"\").GlobalIPv6Address }}", name))
	}
	web, own := address("web", "net1"), address("own", "net2")
	if !strings.HasPrefix(web, "fd00:30::") || address("db", "net1") != "fd00:30::99" || !strings.HasPrefix(own, "2001:db8:31::") {
		t.Fatalf("docker inspect: web %q, db %q, own %q", web, address("db", "net1"), own)
	}
	contains(t, d.docker("inspect", "-f", "{{ range .NetworkSettings.Networks }}{{ .IPAddress }} {{ .Gateway }} {{ .IPv6Gateway }}{{ end }}", "db"), "172.30.0.", "172.30.0.1 fd00:30::1")
	contains(t, d.docker("network", "inspect", "net1"), `"EnableIPv6": true`, `"Subnet": "172.30.0.0/16"`, `"Subnet": "fd00:30::/64"`, `"IPv6Address": "fd00:30::99/64"`)
	contains(t, d.exec("db", "ip", "-6", "addr", "show", "eth0"), "inet6 fd00:30::99/64")
	contains(t, d.exec("db", "ip", "-6", "route"), "default via fd00:30::1 dev eth0")
	contains(t, d.exec("db", "ping", "-6", "-c", "1", web), "64 bytes from "+web)
	contains(t, d.exec("db", "ping", "-6", "-c", "1", out6), "64 bytes from "+out6)
	contains(t, d.exec("db", "wget", "-qO-", "http://["+out6+"]/"), "you are "+host6)
	contains(t, d.exec("own", "wget", "-qO-", "http://["+out6+"]/"), "you are "+own)
	for _, url := range []string{"http://[" + host6 + "]:8080", "http://[" + host6 + "]:8081", "http://[" + own + "]:80"} {
		contains(t, d.Sh("out", "curl -sS -m 5 '"+url+"/cgi-bin/who'"), "you are "+out6)
	}
	contains(t, d.Sh("out", "curl -sS -m 5 http://10.1.0.1:8080/cgi-bin/who"), "you are 10.1.0.2")
	d.docker("rm", "-f", "web", "db", "own")
	d.docker("network", "rm", "net1", "net2")
	d.Balanced()
}

// TestDockerFlags tests further options of `docker network create` and `docker run`.
func TestDockerFlags(t *testing.T) {
	d := newDocker(t)
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.30.0.0/16", "-o", "mtu=1400", "net1")
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.31.0.0/16", "-o", "icc=false", "net2")
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.28.0.0/16", "--internal", "inner")

	d.web("web", "--network", "net1", "--ip", "172.30.5.6", "--mac-address", "02:aa:bb:cc:dd:ee", "-p", "127.0.0.1:8081:80", "-p", "53:53/udp", "-p", "80")
	contains(t, d.exec("web", "ip", "addr", "show", "eth0"), "inet 172.30.5.6/16", "link/ether 02:aa:bb:cc:dd:ee", "mtu 1400")
	var published []api.Publish
	d.JSON(&published, "publish", "ls")
	any := 0
	for _, p := range published {
		switch {
		case p.HostPort == 8081 && p.HostAddress == "127.0.0.1" && p.Protocol == "tcp", p.HostPort == 53 && p.Protocol == "udp":
		case p.HostPort >= 49152 && p.ContainerPort == 80:
			any = p.HostPort
		default:
			t.Errorf("published: %+v", p)
		}
	}
	contains(t, d.Sh("out", fmt.Sprintf("curl -sS http://10.1.0.1:%d/cgi-bin/who", any)), "you are 10.1.0.2")
	contains(t, d.Sh("host", "curl -sS http://127.0.0.1:8081/cgi-bin/who"), "you are ")
	if out, err := d.TrySh("out", "curl -sS -m 2 http://10.1.0.1:8081/"); err == nil {
		t.Errorf("what is published on 127.0.0.1 answers outside: %s", out)
	}

	d.CLI("policy", "add", "agent", "egress", "allow", "10.1.0.2", "icmp")
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.26.0.0/16", "-o", "policy=agent", "boxes")
	d.idle("box", "--network", "boxes")
	contains(t, d.exec("box", "ping", "-c", "1", "10.1.0.2"), "1 packets received")
	if out, err := d.try("exec", "box", "ping", "-c", "1", "-W", "2", "10.1.0.1"); err == nil {
		t.Errorf("what no rule of the network's policy allows: %s", out)
	}
	d.idle("aa", "--network", "net2")
	d.idle("ab", "--network", "net2")
	d.idle("shy", "--network", "inner")
	d.web("shyweb", "--network", "inner")
	refused := func(who string, cmd ...string) {
		t.Helper()
		if out, err := d.try(append([]string{"exec", who}, cmd...)...); err == nil {
			t.Errorf("%s: %v works: %s", who, cmd, out)
		}
	}
	refused("aa", "ping", "-c", "1", "-W", "1", "172.30.5.6")                                  // another network
	refused("aa", "ping", "-c", "1", "-W", "1", "ab")                                          // icc is off
	refused("shy", "ping", "-c", "1", "-W", "1", "10.1.0.2")                                   // an internal network has no way out
	contains(t, d.exec("aa", "ping", "-c", "1", "10.1.0.2"), "1 packets received")             // other networks have a way out
	contains(t, d.exec("shy", "wget", "-qO-", "http://shyweb/cgi-bin/who"), "you are 172.28.") // containers find each other by name
	if r := d.exec("shy", "ip", "route"); strings.Contains(r, "default") {
		t.Errorf("routes in an internal network:\n%s", r)
	}
	contains(t, d.exec("aa", "wget", "-qO-", fmt.Sprintf("http://10.1.0.1:%d/cgi-bin/who", any)), "you are ") // every container reaches a published port

	for _, bad := range []struct{ args, want string }{
		{"network create -d DRIVER --subnet 172.30.0.0/17 x", "overlap"},
		{"network create -d DRIVER --subnet 172.29.0.0/16 x", `overlaps 172.29.0.0/16 of network "default"`},
		{"network create -d DRIVER --subnet 10.1.0.0/24 x", "overlaps"},
		{"network create -d DRIVER --subnet 172.27.0.0/16 -o color=red x", "-o color: this option does not exist; the options are mtu, icc, isolated, tenant, mapping, filtering, nat6, in6, ra, nd-proxy, dns, dns-servers, domain, policy, protocols"},
		{"network create -d DRIVER --subnet 172.27.0.0/16 -o mtu=lots x", "-o mtu=lots"},
		{"network create -d DRIVER --subnet 172.27.0.0/16 -o mtu=9 x", "MTU 9 is out of range"},
		{"run --rm --network net1 --mac-address 01:00:00:00:00:01 bb true", "--mac-address"},
		{"run --rm --network net1 -p 53:53/udp bb true", "53/udp of the host is already published"},
	} {
		_, err := d.try(strings.Fields(strings.ReplaceAll(bad.args, "DRIVER", d.driver))...)
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("docker %s: %v, want %q", bad.args, err, bad.want)
		}
	}
	if n := len(d.containerPorts()); n != 6 {
		t.Errorf("%d ports, want those of 6 containers", n)
	}

	// A running container is connected to networks and disconnected from them.
	d.docker("network", "connect", "net2", "web")
	contains(t, d.exec("web", "ip", "addr", "show", "eth1"), "inet 172.31.0.4/16")
	contains(t, d.exec("web", "ping", "-c", "1", "172.31.0.1"), "1 packets received")
	d.docker("network", "disconnect", "net2", "web")
	if out, err := d.try("exec", "web", "ip", "addr", "show", "eth1"); err == nil {
		t.Errorf("disconnected, and there is:\n%s", out)
	}
	d.docker("network", "disconnect", "net1", "web") // its default route and its published ports are removed, too
	d.JSON(&published, "publish", "ls")
	if len(published) > 0 {
		t.Errorf("published: %+v", published)
	}
	d.docker("network", "connect", "--ip", "172.30.5.7", "net1", "web")
	contains(t, d.exec("web", "ping", "-c", "1", "10.1.0.2"), "1 packets received")
	d.docker("restart", "-t", "0", "web")
	contains(t, d.exec("web", "ping", "-c", "1", "10.1.0.2"), "1 packets received")
	if got := d.address("web", "net1"); got != "172.30.5.7" {
		t.Errorf("after a restart its address is %s", got)
	}
}

// TestDockerDeaths kills the switch, a container and dockerd.
func TestDockerDeaths(t *testing.T) {
	d := newDocker(t)
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.30.0.0/16", "net1")
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.31.0.0/16", "net2")
	d.web("web", "--network", "net1", "-p", "8080:80", "--restart", "always")
	d.idle("db", "--network", "net1")
	d.docker("network", "connect", "net2", "db")
	works := func(after string) {
		t.Helper()
		for _, line := range []string{"ping -c 1 -W 2 172.30.0.2", "ping -c 1 -W 2 web", "ping -c 1 -W 2 10.1.0.2", "ping -c 1 -W 2 172.31.0.1"} {
			var out string
			d.Eventually(after+": db: "+line, func() bool {
				var err error
				out, err = d.try(append([]string{"exec", "db"}, strings.Fields(line)...)...)
				return err == nil
			})
			contains(t, out, "1 packets received")
		}
		d.Eventually(after+": the published port answers", func() bool {
			out, err := d.TrySh("out", "curl -sS -m 2 http://10.1.0.1:8080/cgi-bin/who")
			return err == nil && out == "you are 10.1.0.2\n"
		})
	}
	named := func() bool { // the driver knows Docker's names of the devices
		b, err := os.ReadFile(filepath.Join(d.tmp, "state", "docker-"+d.driver+".json"))
		var s struct {
			Endpoints map[string]struct{ Ifname string }
		}
		if err != nil || json.Unmarshal(b, &s) != nil || len(s.Endpoints) != 3 {
			return false
		}
		for _, e := range s.Endpoints {
			if e.Ifname == "" {
				return false
			}
		}
		return true
	}
	works("at first")

	d.Eventually("devices are known by name", named)
	names := func() (names []string) {
		for _, p := range d.containerPorts() {
			names = append(names, p.Name+" "+strings.Join(p.Policies, ","))
		}
		slices.Sort(names)
		return names
	}
	d.Eventually("ports are named after containers", func() bool { return strings.HasPrefix(strings.Join(names(), " "), "db  db-") })
	d.CLI("policy", "add", "p", "ingress", "allow", "any")
	d.CLI("policy", "attach", "p", "--port", "web")
	links, before := d.exec("db", "ip", "-o", "addr"), names()
	d.Kill()
	d.startSwitch()
	if now := names(); !slices.Equal(now, before) { // without a wait: the switch has attached the policy again
		t.Errorf("ports before: %v, after: %v", before, now)
	}
	works("a killed switch")
	tidy := regexp.MustCompile(`(?m)^\d+: |qlen \d+|\s+$`) // device indexes change
	if got := d.exec("db", "ip", "-o", "addr"); tidy.ReplaceAllString(got, "") != tidy.ReplaceAllString(links, "") {
		t.Errorf("addresses in db, before:\n%s\nafter:\n%s", links, got)
	}
	if err := d.Stop(); err != nil {
		t.Errorf("the switch ended with %v", err)
	}
	d.startSwitch()
	works("a switch that ended and came again")

	// The container's process dies. Docker starts it again, in another namespace.
	pid := d.inspect("web", "{{.State.Pid}}")
	d.local("kill", "-9", pid)
	d.Eventually("web is started again", func() bool {
		now := d.inspect("web", "{{.State.Pid}} {{.State.Running}}")
		return now != pid+" true" && strings.HasSuffix(now, "true")
	})
	works("a killed container")

	d.killDocker()
	contains(t, d.Sh("out", "curl -sS http://10.1.0.1:8080/cgi-bin/who"), "you are 10.1.0.2") // this needs no dockerd
	d.startDocker()
	d.docker("start", "db", "web")
	works("a killed dockerd")

	// dockerd and the switch die at once.
	d.killDocker()
	d.Kill()
	d.startSwitch()
	d.startDocker()
	d.docker("start", "db", "web")
	works("both killed")

	// A container ends while no switch runs: Docker repeats its call for half a minute.
	pid = d.inspect("db", "{{.State.Pid}}")
	d.Kill()
	d.local("kill", "-9", pid)
	d.Eventually("Docker asks", func() bool {
		return strings.Contains(d.log.String(), "Unable to connect to plugin: /run/docker/plugins/"+d.driver)
	})
	d.startSwitch()
	d.Eventually("db starts again", func() bool { _, err := d.try("start", "db"); return err == nil })
	works("a container that ended without a switch")

	d.docker("rm", "-f", "web", "db")
	d.docker("network", "rm", "net1", "net2")
	if left := d.containerPorts(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	var nets []api.Network
	d.JSON(&nets, "network", "ls")
	if len(nets) != 1 {
		t.Errorf("left: %+v", nets)
	}
}

// TestDockerMany starts and stops a hundred containers, several at a time.
func TestDockerMany(t *testing.T) {
	const count, atOnce = 100, 4
	d := newDocker(t)
	d.docker("network", "create", "-d", d.driver, "--subnet", "172.30.0.0/16", "net1")
	d.web("web", "--network", "net1")
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range next {
				if out, err := d.try("run", "--rm", "--network", "net1", "-p", fmt.Sprintf("%d:80", 9000+i), "bb", "wget", "-qO-", "http://172.30.0.2/cgi-bin/who"); err != nil || !strings.HasPrefix(out, "you are 172.30.") {
					t.Errorf("container %d: %q %v", i, out, err)
				}
			}
		}()
	}
	for i := range count {
		next <- i
	}
	close(next)
	wg.Wait()
	d.docker("rm", "-f", "web")
	if left := d.containerPorts(); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
	var published []api.Publish
	if d.JSON(&published, "publish", "ls"); len(published) > 0 {
		t.Errorf("left: %+v", published)
	}
	var state struct{ Endpoints map[string]any }
	b, err := os.ReadFile(filepath.Join(d.tmp, "state", "docker-"+d.driver+".json"))
	if err != nil || json.Unmarshal(b, &state) != nil || len(state.Endpoints) > 0 {
		t.Errorf("kept: %v %s", err, b)
	}
	d.Balanced()
}

// TestDockerPage runs the commands of docs/docker.md, with a driver name of its own.
func TestDockerPage(t *testing.T) {
	d := newDocker(t)
	d.docker("tag", "bb", "busybox")
	var err error
	bin := t.TempDir()
	for name, path := range map[string]string{"uvswitch": uvswitch, "docker": client()} {
		if path, err = exec.LookPath(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf("set -e; export PATH=%s:$PATH DOCKER_HOST=unix://%s/d.sock DOCKER_CONFIG=%[2]s/config UVSWITCH_SOCKET=%s\n", bin, d.tmp, d.Socket())
	commands, expect := fencesOf(t, "docker.md", "sh docker")
	contains(t, d.Sh("host", script+strings.ReplaceAll(commands, "-d uvswitch", "-d "+d.driver)), expect...)
}
