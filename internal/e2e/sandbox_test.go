package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// TestSandbox checks that a running switch has given up what it never uses, on each of its threads; what it says where the sandbox denies
// something; and that the command does what the switch may not do any more. All other tests of this package run in the sandbox, too.
func TestSandbox(t *testing.T) {
	b := New(t)
	var s api.Status
	if b.JSON(&s, "status"); !strings.Contains(s.Sandbox, "seccomp") {
		t.Errorf("status says %q", s.Sandbox)
	}
	pid := b.proc.Process.Pid
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		var effective uint64
		for _, line := range strings.Split(string(text), "\n") {
			if caps, ok := strings.CutPrefix(line, "CapEff:"); ok {
				fmt.Sscanf(strings.TrimSpace(caps), "%x", &effective)
			}
		}
		if effective&(1<<unix.CAP_NET_ADMIN) == 0 || effective&(1<<unix.CAP_SYS_ADMIN|1<<unix.CAP_SYS_MODULE|1<<unix.CAP_SYS_PTRACE) != 0 {
			t.Errorf("%s: capabilities %x", path, effective)
		}
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %q", path, want)
			}
		}
	}
	if len(threads) < 3 {
		t.Errorf("%d threads", len(threads))
	}
	// The helper process that enters namespaces does not come again. The command does its work then.
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, path := range threads { // any thread may have started it
		more, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "children"))
		children = append(append(children, ' '), more...)
	}
	var helper int
	if _, serr := fmt.Sscan(string(children), &helper); serr != nil {
		t.Fatalf("no helper process: %q, %v", children, err)
	}
	if err := unix.Kill(helper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	containers(b)
	ping(b, "web", "172.29.0.3")
	b.AddNS("third")
	file := filepath.Join(b.dir, "uvs.yml")
	if err := os.WriteFile(file, []byte("networks: [{name: default, subnet: 172.29.0.0/16}]\nports: [{name: third, netns: "+b.NS("third")+"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.TryCLI("reload", file); err == nil || !strings.Contains(err.Error(), "restart the switch") {
		t.Errorf("a port of a namespace in a file: %s %v", out, err)
	}
	// Sockets of virtual machines.
	elsewhere := t.TempDir()
	outside, err := os.MkdirTemp("/root", "uvswitch-test-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(outside)
	b.CLI("port", "add", "vm", "--qemu-stream", filepath.Join(elsewhere, "vm"))
	_, err = b.TryCLI("port", "add", "vm2", "--qemu-stream", filepath.Join(outside, "vm"))
	if strings.Contains(s.Sandbox, "landlock (") && (err == nil || !strings.Contains(err.Error(), "/run, /tmp, /var/tmp") || !strings.Contains(err.Error(), "--vm-folders")) {
		t.Errorf("a socket in %s: %v", outside, err)
	}
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	b.Start("--vm-folders", outside)
	b.CLI("port", "add", "vm2", "--qemu-stream", filepath.Join(outside, "vm"))
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "vm")); err == nil {
		t.Error("the socket is left")
	}
	b.Start("--sandbox", "off")
	if b.JSON(&s, "status"); s.Sandbox != "off" {
		t.Errorf("status says %q", s.Sandbox)
	}
}
