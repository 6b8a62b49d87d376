package tapmaker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/tap"
)

// ChildCommand is the argument that makes the command the child: it then calls Serve.
const ChildCommand = "netns-child"

// childSocket is the child's end of the socket pair.
const childSocket = 3

// The protocol: one packet a request, in JSON; one packet an answer, in JSON, with the TAP's descriptor unless it is an error.
type answer struct {
	Error string `json:"error,omitempty"`
	Kind  string `json:"kind,omitempty"` // key of kinds
}

const maxPacket = 16 << 10 // bytes

// kinds are the errors that keep their identity on the way from the child.
var kinds = map[string]error{
	"not_found": netns.ErrNotFound, "not_permitted": netns.ErrNotPermitted, "exists": tap.ErrExists, "no_tun": tap.ErrNoTUN,
}

// A Child is a Maker whose work is done by a child process. Its methods may be called by any goroutine.
type Child struct {
	mu     sync.Mutex // Lock 40: one request at a time
	socket int        // -1: there is no child
	cmd    *exec.Cmd
	closed bool

	process atomic.Pointer[os.Process] // cmd's, for Close while a request waits
}

// askTimeout is how long a request waits for the child. Creating a TAP takes a second at most.
const askTimeout = 10 * time.Second

// endTimeout is how long the child may take to end by itself.
const endTimeout = time.Second

// Start runs this program again as the child. It inherits the network namespace.
func Start() (*Child, error) {
	c := &Child{socket: -1}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.startLocked(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Child) startLocked() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot create a socket pair for the helper process that enters namespaces: %w", err)
	}
	far := os.NewFile(uintptr(pair[1]), "child")
	defer far.Close()
	timeout := unix.NsecToTimeval(askTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(pair[0])
		return fmt.Errorf("cannot set a time limit for the helper process that enters namespaces: %w", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"uvswitch", ChildCommand}
	cmd.ExtraFiles = []*os.File{far} // descriptor 3
	cmd.Stderr = os.Stderr
	cmd.Env = []string{}
	if err := cmd.Start(); err != nil {
		unix.Close(pair[0])
		if !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("cannot start the helper process that enters namespaces: %w", err)
		}
		// The sandbox has been closed since the first child was started.
		return fmt.Errorf("%w: the helper process that enters them has ended, and cannot be started again (%v); restart the switch", netns.ErrNotPermitted, err)
	}
	c.socket, c.cmd = pair[0], cmd
	c.process.Store(cmd.Process)
	return nil
}

// Close ends the child and waits for its end. A child that does not end within endTimeout is killed, also while a request waits.
func (c *Child) Close() error {
	kill := time.AfterFunc(endTimeout, c.kill)
	defer kill.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.endLocked()
}

func (c *Child) endLocked() error {
	if c.socket < 0 {
		return nil
	}
	unix.Close(c.socket)
	c.socket = -1
	kill := time.AfterFunc(endTimeout, c.kill)
	defer kill.Stop()
	return c.cmd.Wait()
}

func (c *Child) kill() {
	if p := c.process.Load(); p != nil {
		_ = p.Kill() // an error: it has ended
	}
}

// Make implements Maker. The original namespace needs no child.
func (c *Child) Make(r Request) (frame.Conn, error) {
	if r.isLocal() {
		return Direct{}.Make(r)
	}
	fd, err := c.ask(r)
	if err != nil {
		return nil, err
	}
	if r.Plain {
		return tap.PlainFromFD(fd), nil
	}
	d, err := tap.FromFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return d, nil
}

// resolvConf has the host's name servers.
const resolvConf = "/etc/resolv.conf"

// OpenResolvConf opens /etc/resolv.conf for reading. The switch's sandbox lets it read the file that was there when it closed, and not one that has
// taken its place since.
func (c *Child) OpenResolvConf() (*os.File, error) {
	fd, err := c.ask(Request{ResolvConf: true})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), resolvConf), nil
}

func (c *Child) ask(r Request) (fd int, err error) {
	text, err := json.Marshal(r)
	if err != nil {
		return -1, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return -1, errors.New("the switch is stopping")
	}
	if c.socket < 0 { // the last child was killed
		if err := c.startLocked(); err != nil {
			return -1, err
		}
	}
	reply, fds, err := c.exchangeLocked(text)
	if errors.Is(err, unix.EAGAIN) {
		c.kill()
		_ = c.endLocked()
		return -1, api.Errorf(http.StatusServiceUnavailable, "the helper process that enters namespaces did not answer within %s and was ended; try again", askTimeout)
	}
	if err != nil { // the child has been killed: a new one does as well
		_ = c.endLocked()
		if err = c.startLocked(); err == nil {
			reply, fds, err = c.exchangeLocked(text)
		}
	}
	if errors.Is(err, netns.ErrNotPermitted) {
		return -1, err
	}
	if err != nil {
		return -1, api.Errorf(http.StatusServiceUnavailable, "the helper process that enters namespaces does not answer: %v; try again", err)
	}
	var a answer
	if err = json.Unmarshal(reply, &a); err == nil && a.Error == "" && len(fds) == 1 {
		return fds[0], nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err != nil || a.Error == "" {
		return -1, api.Errorf(http.StatusServiceUnavailable, "the helper process that enters namespaces has passed no TAP; the switch may have reached its limit of open files: raise LimitNOFILE of the unit, or `ulimit -n`, and restart it")
	}
	return -1, &remoteError{a.Error, kinds[a.Kind]}
}

func (c *Child) exchangeLocked(request []byte) (reply []byte, fds []int, err error) {
	if err := unix.Sendmsg(c.socket, request, nil, nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, nil, err
	}
	return receive(c.socket)
}

// A remoteError is an error of the child.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// receive reads one packet and the descriptors that come with it.
func receive(socket int) (text []byte, fds []int, err error) {
	text = make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(socket, text, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if n == 0 {
			return nil, nil, errors.New("the connection is closed")
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, nil, err
		}
		for i := range messages {
			if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, got...)
			}
		}
		return text[:n], fds, nil
	}
}

// Serve is the child: it answers requests until its parent closes the socket or ends. A terminal's interrupt is for the parent.
func Serve() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	unix.CloseOnExec(childSocket)
	for {
		text, fds, err := receive(childSocket)
		if err != nil {
			return nil // the parent has ended
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		if err := reply(text); err != nil {
			return err
		}
	}
}

// do carries out one request. done closes the descriptor.
func do(r Request) (fd int, done func() error, err error) {
	if r.ResolvConf {
		f, err := os.Open(resolvConf)
		if err != nil {
			return -1, nil, err
		}
		return int(f.Fd()), f.Close, nil
	}
	c, err := Direct{}.Make(r)
	if err != nil {
		return -1, nil, err
	}
	return c.FD(), c.Close, nil
}

// reply answers one request.
func reply(text []byte) error {
	var r Request
	fd, done, err := -1, func() error { return nil }, json.Unmarshal(text, &r)
	if err == nil {
		fd, done, err = do(r)
	}
	var a answer
	var rights []byte
	if err != nil {
		a.Error = err.Error()
		for kind, is := range kinds {
			if errors.Is(err, is) {
				a.Kind = kind
			}
		}
	} else {
		defer done() // the parent has a descriptor of its own by then
		rights = unix.UnixRights(fd)
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return unix.Sendmsg(childSocket, b, rights, nil, unix.MSG_NOSIGNAL)
}
