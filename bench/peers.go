package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What people would use instead, each started as its manual says, with a state directory of its own.

// ovsUp: Open vSwitch with its user-space datapath on veth pairs, TSO on (ovs-vswitchd(8), and "Userspace Datapath -
// TSO" of its documentation).
func ovsUp(_ context.Context, s *system) error {
	env := []string{"OVS_RUNDIR=" + s.dir, "OVS_DBDIR=" + s.dir, "OVS_LOGDIR=" + s.dir}
	db := "unix:" + s.dir + "/db.sock"
	if err := sh(append(s.veths(""), "ovsdb-tool create "+s.dir+"/conf.db /usr/share/openvswitch/vswitch.ovsschema")...); err != nil {
		return err
	}
	err := s.daemon("host", "", env, "ovsdb-server", s.dir+"/conf.db", "--remote=p"+db, "--pidfile="+s.dir+"/db.pid", "--no-chdir")
	if err == nil {
		err = sh("ovs-vsctl --db=" + db + " --retry --timeout=10 --no-wait init -- set Open_vSwitch . other_config:userspace-tso-enable=true")
	}
	if err == nil {
		err = s.daemon("host", "", env, "ovs-vswitchd", db, "--pidfile="+s.dir+"/vswitchd.pid", "--unixctl="+s.dir+"/ctl", "--no-chdir")
	}
	if err != nil {
		return err
	}
	return sh("ovs-vsctl --db="+db+" --timeout=10 add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 v0 -- add-port br0 v1",
		"ovs-vsctl --db="+db+" --timeout=10 wait-until interface v0 link_state=up -- wait-until interface v1 link_state=up")
}

// vdeUp: vde_switch, and a TAP in each namespace by vde_plug2tap.
func vdeUp(ctx context.Context, s *system) error {
	// It ends when its standard input does, so that must stay open: by a pipe that is held until down.
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

// pastaUp: pasta gives c1 a device and forwards port 5201, at its largest MTU.
func pastaUp(ctx context.Context, s *system) error {
	err := s.daemon("host", "", nil, "pasta", "--foreground", "--runas", "0", "--config-net", "--mtu", "65520", "-4", "--ns-ifname", "eth0",
		"--pid", s.dir+"/pid", "-t", "5201", "-u", "5201", "-T", "none", "-U", "none", "--no-map-gw", "--netns", s.path("c1"))
	if err != nil {
		return err
	}
	return awaitFile(ctx, s.dir+"/pid")
}

// slirpUp: slirp4netns gives c1 a device at MTU 65520; port 5201 by its API.
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

// gvproxyPath is where `make bench-deps` puts gvisor-tap-vsock's programs.
func gvproxyPath() string { return filepath.Join("bin", "peers", "gvproxy") }

// gvisorUp: gvproxy on the host, and gvforwarder with a TAP in c1, joined by a unix socket; port 5201 by its API.
func gvisorUp(ctx context.Context, s *system) error {
	return errors.New("not yet")
}

// awaitFile waits until a file is there and not empty, or is a socket.
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

// askUnix sends one line to a unix socket and returns what comes back.
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
