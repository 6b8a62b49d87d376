package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
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
	Had      string   // the address that the port had, which is asked for first when it is plugged in again; empty: not known
}

// InternalNetwork is the network without a way out, which is created with InternalSubnet when a room needs it.
const (
	InternalNetwork = "internal"
	InternalSubnet  = "172.27.255.0/24"
)

// ChildCommand is the command that calls Become.
const ChildCommand = "exec-child"

// Run runs a command in the room, and returns when it has ended. An error of the command itself is an *exec.ExitError.
func (o *Room) Run(args []string, in io.Reader, out, stderr io.Writer) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	fd := openSwitch(o.Socket)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return run(append([]string{ChildCommand, "--", string(text)}, args...), in, out, stderr, w, func(pid int) (end func()) {
		if own, err := openNamespaces(pid); err == nil {
			go o.follow(fd, pid, own, r, stderr)
		} else {
			fmt.Fprintf(stderr, "uvswitch: port %s will not be plugged in again when the switch ends: %v\n", o.Port.Name, err)
		}
		return func() { o.unplug(pid) }
	})
}

// Run runs this program as New does, and returns when it has ended. It passes signals on. An error of the program that ran is an *exec.ExitError.
func Run(args []string, in io.Reader, out, stderr io.Writer) error {
	return run(args, in, out, stderr, nil, func(int) (end func()) { return func() {} })
}

// addressFD is the descriptor of a room's child to which it writes the address that its port has got.
const addressFD = 3

// run runs this program as New does. It calls begun with the process ID when the program has begun. begun returns a function, which run calls when the
// program has ended. addr may be nil. Otherwise the program gets this file as descriptor addressFD.
func run(args []string, in io.Reader, out, stderr io.Writer, addr *os.File, begun func(pid int) (end func())) error {
	runtime.LockOSThread() // the child ends with the thread that has started it
	c := New(args...)
	c.Stdin, c.Stdout, c.Stderr = in, out, stderr
	if addr != nil {
		c.ExtraFiles = []*os.File{addr}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGINT)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return explain(err)
	}
	if addr != nil {
		addr.Close()
	}
	defer begun(c.Process.Pid)()
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
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("there is no command %q in PATH", args[0])
		}
		return NoCommandError{err}
	}
	at := o.attachment(strconv.Itoa(os.Getpid()))
	made, err := o.plug(ctx, at)
	if err != nil {
		return err
	}
	to := os.NewFile(addressFD, "address")
	_, _ = io.WriteString(to, addressOf(made))
	to.Close()
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

// A NoCommandError says that there is no such command, or that it cannot be run.
type NoCommandError struct{ error }

// Status is the exit status that a shell gives for it.
func (e NoCommandError) Status() int {
	if errors.Is(e.error, fs.ErrPermission) {
		return 126
	}
	return 127
}

// attachment is the port of a room for a process.
func (o *Room) attachment(pid string) *attach.Attachment {
	at := &attach.Attachment{
		Switch: api.NewClient(o.Socket), Network: api.NetworkAdd{Name: api.DefaultNetwork}, Port: o.Port.Name, ID: o.Port.Name, Policies: o.Port.Policies, IP: o.Port.IP,
		Netns: netns.Original, Display: "pid:" + pid, Ifname: api.DefaultIfname,
	}
	switch {
	case o.Internal:
		at.Network = api.NetworkAdd{Name: InternalNetwork, Subnet: InternalSubnet, Internal: true}
	case o.Port.Network != "":
		at.Network.Name = o.Port.Network
	}
	return at
}

// addressOf is the IPv4 address that a port has got; empty if it has none.
func addressOf(r attach.Result) string {
	if !r.Addr.IsValid() {
		return ""
	}
	return r.Addr.Addr().String()
}

// plug plugs this network namespace into the switch, and publishes its ports.
func (o *Room) plug(ctx context.Context, at *attach.Attachment) (attach.Result, error) {
	made, err := at.Attach(ctx)
	if err != nil {
		return made, err
	}
	for _, spec := range o.Publish {
		if _, err := at.Switch.Publish(ctx, api.PublishAdd{Spec: spec, Port: o.Port.Name}); err != nil {
			return made, errors.Join(err, at.Detach(ctx))
		}
	}
	return made, nil
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
	// The file is in a file system of its own, which is unmounted at once and lives as long as the file is mounted. On a file that is deleted
	// instead, nothing could be mounted: a room in the room would have no file.
	dir, err := os.MkdirTemp("", "uvswitch-etc-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=755"); err != nil {
		return fmt.Errorf("cannot make a file system for /etc/resolv.conf: %w", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	lines := "search " + r.Domain + "\n"
	for _, s := range r.NameServers {
		lines += "nameserver " + s + "\n"
	}
	file := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(file, []byte(lines), 0o644); err != nil {
		return err
	}
	if err := os.Chmod(file, 0o644); err != nil { // whatever the umask
		return err
	}
	return unix.Mount(file, target, "", unix.MS_BIND, "")
}
