package userns

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/link"
)

// PlugCommand is the command that calls PlugAgain.
const PlugCommand = "exec-plug"

// retryTime is how often a switch is looked for that has ended.
const retryTime = 500 * time.Millisecond

// stayPlugged waits for the end of the switch, and then for another one, into which it plugs the room of process pid. It returns when it cannot know
// of the end. switchFD is what openSwitch has returned.
func (o *Room) stayPlugged(switchFD, pid int, stderr io.Writer) {
	for ; switchFD >= 0; switchFD = openSwitch(o.Socket) {
		err := AwaitExit(switchFD)
		unix.Close(switchFD)
		if err != nil {
			return
		}
		fmt.Fprintf(stderr, "uvswitch: the switch has ended: port %s has no network until a switch runs again\r\n", o.Port.Name)
		text, err := json.Marshal(o)
		if err == nil {
			err = RunBeside(context.Background(), pid, []string{os.Args[0], PlugCommand, "--", string(text), strconv.Itoa(pid)})
		}
		if err != nil {
			fmt.Fprintf(stderr, "uvswitch: port %s was not plugged in again: %v\r\n", o.Port.Name, err)
			return
		}
		fmt.Fprintf(stderr, "uvswitch: port %s is plugged in again\r\n", o.Port.Name)
	}
}

// PlugAgain runs in the namespaces of a room whose switch has ended, and which it gets as text: it resets the room's connections, waits for a switch, and
// plugs the room in. pid is the process for which the room is.
func PlugAgain(ctx context.Context, room, pid string) error {
	var o Room
	if err := json.Unmarshal([]byte(room), &o); err != nil {
		return err
	}
	runtime.LockOSThread()
	link.ResetConnections()
	for {
		c, err := net.Dial("unix", o.Socket)
		if err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryTime):
		}
	}
	_, err := o.plug(ctx, o.attachment(pid))
	return err
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
