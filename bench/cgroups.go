package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// With -weight, each container, the outside and the host have a cgroup of their own, as on a host with Docker and systemd. The host's, where the
// switch runs, has that CPUWeight (systemd.resource-control(5)); the others have 100.

// A cpuController is where cgroups get CPU time, by one of the two interfaces of the kernel.
type cpuController struct {
	root, file string
	unit       int // of a weight of 100
}

func findCPUController() (c cpuController, err error) {
	for _, c := range []cpuController{{"/sys/fs/cgroup", "cpu.weight", 100}, {"/sys/fs/cgroup/cpu", "cpu.shares", 1024}} {
		probe := filepath.Join(c.root, fmt.Sprintf("uvbench-%d", os.Getpid()))
		if err := os.Mkdir(probe, 0o755); err != nil {
			continue
		}
		_, err := os.Stat(filepath.Join(probe, c.file))
		_ = os.Remove(probe)
		if err == nil {
			return c, nil
		}
	}
	return c, fmt.Errorf("no cgroup with a CPU controller can be made below /sys/fs/cgroup")
}

func (s *system) cgroup(part string) string {
	return filepath.Join(s.cpu.root, fmt.Sprintf("uvbench-%d-%s", os.Getpid(), s.ns(part)))
}

// makeCgroups makes a cgroup for each part.
func (s *system) makeCgroups() (err error) {
	if s.cpu, err = findCPUController(); err != nil {
		return err
	}
	for _, part := range s.parts() {
		weight := 100
		if part == "host" {
			weight = s.weight
		}
		if err := os.Mkdir(s.cgroup(part), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.cgroup(part), s.cpu.file), []byte(strconv.Itoa(s.cpu.unit*weight/100)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// inCgroup makes a command join the cgroup of a part first.
func (s *system) inCgroup(part string, args []string) []string {
	if s.weight == 0 {
		return args
	}
	return append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(s.cgroup(part), "cgroup.procs")}, args...)
}

// removeCgroups removes the cgroups, whose programs have ended.
func (s *system) removeCgroups() {
	for _, part := range s.parts() {
		_ = os.Remove(s.cgroup(part))
	}
}
