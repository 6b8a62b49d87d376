package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// dockerDriver is the name of uvswitch as a driver of Docker's networks.
func dockerDriver() string { return fmt.Sprint("uvb", os.Getpid()) }

// hasDocker reports whether there is a Docker to measure, and an image can be made.
func hasDocker() bool {
	for _, tool := range []string{"dockerd", "docker", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			return false
		}
	}
	return true
}

// dockerRuns starts n containers, one after another, each of which pings its gateway once and ends. It returns how many that are in a second.
// Docker's own bridge is in the place of the kernel's path.
func dockerRuns(ctx context.Context, _ options, s *system, n int) (float64, error) {
	network, gateway := "bridge", "172.17.0.1"
	if s.name == uvswitchName {
		network, gateway = "uvs", "172.30.0.1"
	}
	if err := s.startDocker(ctx, network, gateway); err != nil {
		return 0, err
	}
	began := time.Now()
	for range n {
		if err := s.docker(ctx, "run", "--rm", "--network", network, "bb", "/bin/busybox", "ping", "-c", "1", "-W", "5", gateway); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// startDocker starts a dockerd of the system's own on its host, once, with an image and the network.
func (s *system) startDocker(ctx context.Context, network, gateway string) error {
	at := func(name string) string { return filepath.Join(s.dir, "docker", name) }
	if _, err := os.Stat(at("")); err == nil {
		return nil
	}
	if err := os.MkdirAll(at("root/bin"), 0o755); err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := sh("cp "+busybox+" "+at("root/bin/busybox"), "tar -C "+at("root")+" -cf "+at("bb.tar")+" ."); err != nil {
		return err
	}
	err = s.daemon("host", "API listen on", nil, "dockerd", "--data-root", at("data"), "--exec-root", at("exec"), "-H", "unix://"+at("d.sock"), "-p", at("pid"), "--storage-driver=vfs")
	if err == nil {
		err = s.docker(ctx, "import", at("bb.tar"), "bb")
	}
	if err == nil && network != "bridge" {
		err = s.docker(ctx, "network", "create", "-d", dockerDriver(), "--subnet", gateway+"/24", "--gateway", gateway, network)
	}
	return err
}

func (s *system) docker(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	at := filepath.Join(s.dir, "docker")
	c := exec.CommandContext(ctx, "docker", append([]string{"-H", "unix://" + filepath.Join(at, "d.sock")}, args...)...)
	c.Env = append(os.Environ(), "DOCKER_CONFIG="+at)
	if out, err := c.CombinedOutput(); err != nil {
		return errors.New(strings.TrimSpace(fmt.Sprintf("docker %s: %v: %s", args[0], err, out)))
	}
	return nil
}
