package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/attach"
	"github.com/uvswitch/uvswitch/internal/netns"
)

// A Room is where `uvswitch exec` runs a command: namespaces of its own, with one port of the switch.
type Room struct {
	Socket   string // of the switch
	Port     api.PortAdd
	Publish  []string // as in api.PublishAdd
	Internal bool     // in InternalNetwork
}

// InternalNetwork is the network without a way out, which is created when a room needs it.
const (
	InternalNetwork = "internal"
	internalSubnet  = "172.30.0.0/24"
)

// ChildCommand is the command that calls Become.
const ChildCommand = "exec-child"

// Run runs a command in the room, and returns when it has ended. An error of the command itself is an *exec.ExitError.
func (o *Room) Run(args []string, in io.Reader, out, stderr io.Writer) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return Run(append([]string{ChildCommand, "--", string(text)}, args...), in, out, stderr)
}

// Run runs this program as New does, and returns when it has ended. It passes signals on. An error of the program that ran is an *exec.ExitError.
func Run(args []string, in io.Reader, out, stderr io.Writer) error {
	runtime.LockOSThread() // the child ends with the thread that has started it
	c := New(args...)
	c.Stdin, c.Stdout, c.Stderr = in, out, stderr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGINT)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return explain(err)
	}
	go func() {
		for s := range signals {
			if s != unix.SIGINT && s != unix.SIGQUIT { // a terminal sends these to the command, too
				_ = c.Process.Signal(s)
			}
		}
	}()
	return c.Wait()
}

// Status is the exit status of a program as a shell gives it: 128 and more if a signal has ended the program.
func Status(e *exec.ExitError) int {
	if st, ok := e.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 128 + int(st.Signal())
	}
	return e.ExitCode()
}

// Become is the child of Run, which gets the room as text: it plugs its network namespace into the switch, and replaces itself by the command.
func Become(ctx context.Context, room string, args []string) error {
	parent := os.Getppid()
	var o Room
	if err := json.Unmarshal([]byte(room), &o); err != nil {
		return err
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("%w; the command is looked for in PATH", err)
	}
	at := &attach.Attachment{
		Switch: api.NewClient(o.Socket), Network: api.NetworkAdd{Name: api.DefaultNetwork}, Port: o.Port.Name, ID: o.Port.Name, Policies: o.Port.Policies, IP: o.Port.IP,
		Netns: netns.Original, Display: fmt.Sprintf("pid:%d", os.Getpid()), Ifname: api.DefaultIfname,
	}
	switch {
	case o.Internal:
		at.Network = api.NetworkAdd{Name: InternalNetwork, Subnet: internalSubnet, Internal: true}
	case o.Port.Network != "":
		at.Network.Name = o.Port.Network
	}
	made, err := at.Attach(ctx)
	if err != nil {
		return err
	}
	for _, spec := range o.Publish {
		if _, err := at.Switch.Publish(ctx, api.PublishAdd{Spec: spec, Port: o.Port.Name}); err != nil {
			return errors.Join(err, at.Detach(ctx))
		}
	}
	if err := furnish(made); err != nil {
		return errors.Join(err, at.Detach(ctx))
	}
	runtime.LockOSThread() // each thread has a signal of its own for the parent's end, and the one that calls exec stays
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	if os.Getppid() != parent { // it has ended before
		return at.Detach(ctx)
	}
	err = unix.Exec(path, args, os.Environ())
	return errors.Join(fmt.Errorf("cannot run %s: %w", path, err), at.Detach(ctx))
}

// furnish gives the command files of its own: /etc/resolv.conf with the gateway, and a /sys that shows its devices.
func furnish(r attach.Result) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") // where the kernel forbids it, /sys shows the host's
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) || r.Domain == "" {
		return nil // a program without that file asks 127.0.0.1, which does not answer
	}
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "uvswitch-resolv.conf-")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name()) // the mount keeps it
	lines := "search " + r.Domain + "\n"
	for _, s := range r.NameServers {
		lines += "nameserver " + s + "\n"
	}
	if _, err = io.Copy(f, strings.NewReader(lines)); err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = unix.Mount(f.Name(), target, "", unix.MS_BIND, "")
	}
	return err
}
