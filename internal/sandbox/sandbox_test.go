package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/uvswitch/uvswitch/internal/rights"
)

const insideOf = "UVSWITCH_SANDBOX_TEST" // names the folder that stays open for sockets, in the process that enters the sandbox

// TestSandbox runs a process that enters the sandbox. Two of its threads then try what the sandbox denies, and one of them what it allows. One
// of the two has existed since before.
func TestSandbox(t *testing.T) {
	if dir := os.Getenv(insideOf); dir != "" {
		inside(t, dir)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: the calls would be denied anyhow")
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestSandbox$", "-test.v")
	c.Env = append(os.Environ(), insideOf+"="+t.TempDir())
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func inside(t *testing.T, dir string) {
	before := make(chan func())
	done := make(chan bool)
	go func() { // a thread of its own, from before
		runtime.LockOSThread()
		for f := range before {
			f()
			done <- true
		}
	}()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	holds, err := Enter(append([]rights.Path{{Name: filepath.Join(dir, "is not there"), Access: rights.Keep}}, rights.Paths...))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(holds)
	try := func() {
		for what, f := range map[string]func() error{
			"execve":     func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
			"unshare":    func() error { return unix.Unshare(unix.CLONE_NEWNET) },
			"setns":      func() error { return unix.Setns(0, unix.CLONE_NEWNET) },
			"mount":      func() error { return unix.Mount("none", "/mnt", "tmpfs", 0, "") },
			"ptrace":     func() error { return unix.PtraceAttach(os.Getppid()) },
			"a priority": func() error { return unix.Setpriority(unix.PRIO_PROCESS, os.Getppid(), 5) },
			"real time": func() error {
				return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
			},
			"chmod":      func() error { return unix.Chmod("/etc/passwd", 0o644) },
			"typing":     func() error { _, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, 0); return e },
			"typing too": func() error { _, _, e := unix.Syscall(unix.SYS_IOCTL, 0, 1<<32|unix.TIOCSTI, 0); return e },
			"AF_VSOCK":   func() error { _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); return err },
			"AF_ALG":     func() error { _, err := unix.Socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0); return err },
			"a namespace": func() error {
				_, _, e := unix.RawSyscall(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
				return e
			},
			"another ABI": func() error { _, _, e := unix.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0); return e },
		} {
			if err := f(); !errors.Is(err, unix.EPERM) && !(what == "another ABI" && errors.Is(err, unix.ENOSYS)) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 19); err != nil {
			t.Errorf("a thread's own priority: %v", err)
		}
		own, err := arch.GetInfo("")
		if err != nil {
			t.Error(err)
			return
		}
		for _, call := range rights.DeniedCalls {
			number, ok := own.SyscallNames[call]
			if !ok {
				continue // this architecture has none of that name
			}
			const wrong = ^uintptr(0) // as each argument: a call that is made does nothing
			if _, _, err := unix.RawSyscall6(uintptr(number), wrong, wrong, wrong, wrong, wrong, wrong); err != unix.EPERM {
				t.Errorf("%s: %v", call, err)
			}
		}
		if !strings.Contains(holds, "landlock (") {
			return
		}
		for what, f := range map[string]func() error{
			"reading":               func() error { _, err := os.ReadFile("/etc/passwd"); return err },
			"reading by /proc":      func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/passwd", os.Getpid())); return err },
			"reading below":         func() error { _, err := os.ReadFile(secret); return err },
			"writing":               func() error { return os.WriteFile("/tmp/uvswitch-sandbox", nil, 0o600) },
			"a setting":             func() error { return os.WriteFile("/proc/sys/kernel/core_pattern", nil, 0o600) },
			"another's environment": func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid())); return err },
		} {
			if err := f(); !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	try()
	before <- try
	<-done
	bounds := map[string]bool{}
	look := func() {
		status, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Error(err)
		}
		for _, line := range strings.Split(string(status), "\n") {
			if caps, ok := strings.CutPrefix(line, "CapBnd:"); ok {
				bounds[strings.TrimSpace(caps)] = true
			}
			if caps, ok := strings.CutPrefix(line, "CapPrm:"); ok {
				bounds[strings.TrimSpace(caps)] = true
			}
		}
	}
	look()
	before <- look
	<-done
	if len(bounds) != 1 || bounds["0000000000000000"] || bounds["000001ffffffffff"] {
		t.Errorf("the permitted capabilities and the bounds of both threads are %v", bounds)
	}
	for what, f := range map[string]func() error{
		"a socket": func() error {
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err == nil {
				err = l.Close()
			}
			return err
		},
		"the host's sockets": func() error { _, err := os.ReadFile("/proc/self/net/tcp"); return err },
		"a setting":          func() error { _, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); return err },
		"a device":           func() error { _, err := net.Interfaces(); return err },
		"threads": func() error {
			more := make(chan bool)
			for range 8 {
				go func() { runtime.LockOSThread(); more <- true }()
				<-more
			}
			return nil
		},
	} {
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	var have [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &have[0]); err != nil || have[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0 || have[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		t.Errorf("capabilities %x: %v", have[0].Effective, err)
	}
}

// TestTables checks that each denied call has a name that some machine's kernel has, and that no call is there twice.
func TestTables(t *testing.T) {
	seen := map[string]bool{}
	native, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range rights.DeniedCalls {
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if _, ok := native.SyscallNames[name]; !ok && runtime.GOARCH == "amd64" {
			t.Errorf("%s is no system call", name)
		}
	}
}
