package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The alternatives to uvswitch. Each is started as its manual says, with its own state directory.

// ovsUp starts Open vSwitch with its user-space datapath and TSO (ovs-vswitchd(8), and "Userspace Datapath - TSO" of its
// documentation), on veth pairs, which it reads through packet sockets, or on its own TAPs (type internal).
func ovsUp(internal bool) func(context.Context, *system) error {
	return func(_ context.Context, s *system) error {
		env := []string{"OVS_RUNDIR=" + s.dir, "OVS_DBDIR=" + s.dir, "OVS_LOGDIR=" + s.dir}
		db := "unix:" + s.dir + "/db.sock"
		ctl := "ovs-vsctl --db=" + db + " --retry --timeout=10 "
		err := sh("ovsdb-tool create " + s.dir + "/conf.db /usr/share/openvswitch/vswitch.ovsschema")
		if err == nil && !internal {
			err = sh(s.veths("")...)
		}
		if err == nil {
			err = s.daemon("host", "", env, "ovsdb-server", s.dir+"/conf.db", "--remote=p"+db, "--pidfile="+s.dir+"/db.pid", "--no-chdir")
		}
		if err == nil {
			err = sh(ctl + "--no-wait init -- set Open_vSwitch . other_config:userspace-tso-enable=true")
		}
		if err == nil {
			err = s.daemon("host", "", env, "ovs-vswitchd", db, "--pidfile="+s.dir+"/vswitchd.pid", "--unixctl="+s.dir+"/ctl", "--no-chdir")
		}
		if err != nil {
			return err
		}
		ports := ctl + "add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 v0 -- add-port br0 v1"
		if !internal {
			return sh(ports, ctl+"wait-until interface v0 link_state=up -- wait-until interface v1 link_state=up")
		}
		lines := []string{ports + " -- set interface v0 type=internal -- set interface v1 type=internal"}
		for i, c := range []string{"c1", "c2"} {
			lines = append(lines, s.adopt(fmt.Sprintf("v%d", i), c, i+2)...)
		}
		return sh(lines...)
	}
}

// vdeUp starts vde_switch, and vde_plug2tap for a TAP in each container's namespace.
func vdeUp(ctx context.Context, s *system) error {
	// vde_switch ends when its standard input ends. So its standard input is a pipe that stays open until down.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	sw := s.command(context.Background(), "host", "vde_switch", "-sock", s.dir+"/sw", "-M", s.dir+"/mgmt")
	sw.Stdin = r
	err = sw.Start()
	r.Close()
	if err != nil {
		w.Close()
		return err
	}
	s.procs = append(s.procs, sw)
	s.held = append(s.held, w)
	if err := awaitFile(ctx, s.dir+"/sw/ctl"); err != nil {
		return err
	}
	for i, c := range []string{"c1", "c2"} {
		if err := s.daemon(c, "", nil, "vde_plug2tap", "-s", s.dir+"/sw", "eth0"); err != nil {
			return err
		}
		if err := s.awaitDevice(ctx, c, "eth0"); err != nil {
			return err
		}
		if err := sh(fmt.Sprintf("ip -n %s addr add 172.29.0.%d/16 dev eth0", s.ns(c), i+2), "ip -n "+s.ns(c)+" link set eth0 up"); err != nil {
			return err
		}
	}
	return nil
}

// pastaUp starts a pasta, which gives c1 a device with pasta's largest MTU and forwards port 5201.
func pastaUp(pasta string) func(context.Context, *system) error {
	return func(ctx context.Context, s *system) error {
		err := s.daemon("host", "", nil, pasta, "--foreground", "--runas", "0", "--config-net", "--mtu", "65520", "-4", "--ns-ifname", "eth0",
			"--pid", s.dir+"/pid", "-t", "5201", "-u", "5201", "-T", "none", "-U", "none", "--no-map-gw", "--netns", s.path("c1"))
		if err != nil {
			return err
		}
		return awaitFile(ctx, s.dir+"/pid")
	}
}

// slirpUp starts slirp4netns, which gives c1 a device with MTU 65520. Port 5201 is forwarded through its API.
func slirpUp(ctx context.Context, s *system) error {
	api := s.dir + "/api.sock"
	err := s.daemon("host", "", nil, "slirp4netns", "--netns-type=path", "--configure", "--mtu=65520", "--api-socket="+api, s.path("c1"), "eth0")
	if err != nil {
		return err
	}
	if err := awaitFile(ctx, api); err != nil {
		return err
	}
	for _, proto := range []string{"tcp", "udp"} {
		ask := `{"execute":"add_hostfwd","arguments":{"proto":"` + proto + `","host_addr":"0.0.0.0","host_port":5201,"guest_addr":"10.0.2.100","guest_port":5201}}`
		answer, err := askUnix(ctx, api, ask)
		if err != nil {
			return err
		}
		if !strings.Contains(answer, "return") {
			return fmt.Errorf("slirp4netns: %s", answer)
		}
	}
	return nil
}

// gvproxyPath returns the path of gvproxy, next to which `make bench-deps` puts gvisor-tap-vsock's other programs.
func gvproxyPath() string { return filepath.Join("bin", "peers", "gvproxy") }

// gvisorUp starts gvproxy on the host and gvforwarder on a TAP in c1, connected by a unix socket. Port 5201 is forwarded
// through gvproxy's API. The network of gvproxy is fixed: 192.168.127.0/24.
func gvisorUp(ctx context.Context, s *system) error {
	const mtu, guest = "65520", "192.168.127.2"
	bin, err := filepath.Abs(filepath.Dir(gvproxyPath()))
	if err != nil {
		return err
	}
	sock := s.dir + "/gv.sock"
	if err := s.daemon("host", "", nil, bin+"/gvproxy", "-mtu", mtu, "-ssh-port", "-1", "-listen", "unix://"+sock); err != nil {
		return err
	}
	if err := awaitFile(ctx, sock); err != nil {
		return err
	}
	c := s.ns("c1")
	err = sh("ip -n "+c+" tuntap add dev eth0 mode tap", "ip -n "+c+" link set eth0 address 5a:94:ef:e4:0c:ee mtu "+mtu,
		"ip -n "+c+" addr add "+guest+"/24 dev eth0", "ip -n "+c+" link set eth0 up", "ip -n "+c+" route add default via 192.168.127.1")
	if err == nil {
		err = s.daemon("c1", "", nil, bin+"/gvforwarder", "-url", "unix://"+sock, "-iface", "eth0", "-preexisting", "-stop-if-exist", "", "-mtu", mtu)
	}
	if err != nil {
		return err
	}
	api := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", sock)
	}}}
	for _, proto := range []string{"tcp", "udp"} {
		ask := `{"local":"0.0.0.0:5201","remote":"` + guest + `:5201","protocol":"` + proto + `"}`
		r, err := api.Post("http://gv/services/forwarder/expose", "application/json", strings.NewReader(ask))
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("gvproxy: %s", r.Status)
		}
	}
	return nil
}

// awaitFile waits until path is a file that is not empty, or a socket.
func awaitFile(ctx context.Context, path string) error {
	for ctx.Err() == nil {
		if i, err := os.Stat(path); err == nil && (i.Size() > 0 || i.Mode()&os.ModeSocket != 0) {
			return nil
		}
	}
	return fmt.Errorf("%s did not appear", path)
}

func (s *system) awaitDevice(ctx context.Context, part, dev string) error {
	for ctx.Err() == nil {
		if exec.CommandContext(ctx, "ip", "-n", s.ns(part), "link", "show", dev).Run() == nil {
			return nil
		}
	}
	return fmt.Errorf("%s did not appear in %s", dev, part)
}

// askUnix sends line to a unix socket and returns the answer.
func askUnix(ctx context.Context, path, line string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, line); err != nil {
		return "", err
	}
	_ = c.(*net.UnixConn).CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}
