package userns

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/link"
)

// PlugCommand is the command that calls StayPlugged.
const PlugCommand = "exec-plug"

// retryTime is how long StayPlugged waits between two tries.
const retryTime = 500 * time.Millisecond

// follow waits for the end of the switch into which the room of process pid is plugged. Then it runs StayPlugged in the room. at is what openSwitch has
// returned; from addr it reads the address that the port has got.
func (o *Room) follow(at, pid int, in namespaces, addr io.Reader, stderr io.Writer) {
	had, _ := io.ReadAll(addr)
	o.Had = string(had)
	if at < 0 || AwaitExit(at) != nil {
		return // the switch is not visible from here
	}
	text, err := json.Marshal(o)
	if err == nil {
		err = in.run([]string{os.Args[0], PlugCommand, "--", string(text), strconv.Itoa(pid)})
	}
	fmt.Fprintf(stderr, "uvswitch: the switch has ended, and port %s is not plugged in again: %v\r\n", o.Port.Name, err)
}

// StayPlugged runs in the namespaces of a room whose switch has ended. It gets the room as text; pid is the process for which the room is. It resets the
// room's connections, and plugs it into the next switch, and into the one after that, for as long as the process runs that has started it.
func StayPlugged(ctx context.Context, room, pid string) error {
	var o Room
	if err := json.Unmarshal([]byte(room), &o); err != nil {
		return err
	}
	runtime.LockOSThread()
	signal.Ignore(unix.SIGINT, unix.SIGQUIT) // of the terminal, for the command
	for {
		o.say("the switch has ended: port %s has no network until a switch runs again")
		link.ResetConnections()
		at, said := -1, ""
		for at < 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if at = openSwitch(o.Socket); at < 0 {
				wait(ctx)
				continue
			}
			if err := o.plugAgain(ctx, pid); err != nil {
				if unix.Close(at); err.Error() != said {
					said = err.Error()
					o.say("port %s cannot be plugged in again yet: %s", said)
				}
				at = -1
				wait(ctx)
			}
		}
		o.say("port %s is plugged in again")
		err := AwaitExit(at)
		if unix.Close(at); err != nil {
			return err
		}
	}
}

func (o *Room) say(format string, more ...any) {
	text := fmt.Sprintf(format, append([]any{o.Port.Name}, more...)...)
	fmt.Fprintf(os.Stderr, "uvswitch: %s\r\n", text) // the command may have the terminal in another mode
}

func wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryTime):
	}
}

// plugAgain plugs the room in. It asks for the address that the room had. If that is taken, the room gets another one.
func (o *Room) plugAgain(ctx context.Context, pid string) error {
	again := *o
	if again.Port.IP == "" {
		again.Port.IP = o.Had
	}
	at := again.attachment(pid)
	if p, err := at.Switch.Port(ctx, o.Port.Name); err == nil && p.Netns == at.Display { // an earlier try has plugged the room in already
		if err := at.Detach(ctx); err != nil {
			return err
		}
	}
	made, err := again.plug(ctx, at)
	if err != nil && again.Port.IP != o.Port.IP { // the address may be somebody else's now
		made, err = o.plug(ctx, o.attachment(pid))
	}
	if err == nil {
		o.Had = addressOf(made)
	}
	return err
}

// unplug takes the port of a process out of the switch, if it is still there.
func (o *Room) unplug(pid int) {
	at := o.attachment(strconv.Itoa(pid))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if p, err := at.Switch.Port(ctx, o.Port.Name); err == nil && p.Netns == at.Display {
		_ = at.Switch.DeletePort(ctx, o.Port.Name)
	}
}

// openSwitch returns a pidfd of the process that listens at a control socket; -1 if there is none, or if it is not visible here.
func openSwitch(socket string) int {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return -1
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	_ = raw.Control(func(s uintptr) {
		if peer, err := unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && peer.Pid > 0 {
			if p, err := unix.PidfdOpen(int(peer.Pid), 0); err == nil {
				fd = p
			}
		}
	})
	return fd
}

// AwaitExit returns when the process of a pidfd has ended.
func AwaitExit(pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
}
