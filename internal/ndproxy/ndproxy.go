// Package ndproxy answers neighbor solicitations on the host's devices for addresses of containers: RFC 4861, 7.2.8. Thus containers may
// have addresses of a subnet that is on the link of such a device.
//
// On each device, a packet socket hears the solicitations for these addresses. The switch joins the solicited-node group of each address: else the device, and
// switches that snoop MLD, let no solicitation pass.
package ndproxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// A Device is a device of the host on which solicitations are answered. Another MAC or source makes it another device.
type Device struct {
	Index  int
	Name   string
	MAC    frame.MAC
	Source frame.Addr6 // a link-local address of the device: the source of answers
}

// Addrs are addresses of containers.
type Addrs map[frame.Addr6]struct{}

// A Proxy answers solicitations. The zero Proxy answers none.
type Proxy struct {
	mu sync.Mutex // Lock 47: held through system calls
	on map[Device]*listener

	answers atomic.Uint64
}

// Answers is how many solicitations were answered.
func (p *Proxy) Answers() uint64 { return p.answers.Load() }

// Set says for which addresses solicitations are answered on which device, from now on. After an error, the next Set tries again.
func (p *Proxy) Set(want map[Device]Addrs) (errs error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d, l := range p.on {
		if _, ok := want[d]; !ok {
			l.close()
			delete(p.on, d)
		}
	}
	for d, addrs := range want {
		l := p.on[d]
		if l == nil {
			var err error
			if l, err = listen(d); err != nil {
				errs = errors.Join(errs, fmt.Errorf("device %s: cannot hear neighbor solicitations: %w", d.Name, err))
				continue
			}
			if p.on == nil {
				p.on = map[Device]*listener{}
			}
			p.on[d] = l
			go l.serve(&p.answers)
		}
		if err := l.set(addrs); err != nil {
			errs = errors.Join(errs, fmt.Errorf("device %s: cannot join the groups of the containers' addresses: %w", d.Name, err))
		}
	}
	return errs
}

// Keep joins groups that the kernel has left by itself: it leaves all groups of a device when it takes IPv6 off the device, as with an MTU
// below 1280.
func (p *Proxy) Keep() (errs error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.on) == 0 {
		return nil
	}
	joined, err := joinedGroups()
	if err != nil {
		return err
	}
	for d, l := range p.on {
		if err := l.groups.keep(joined[d.Name]); err != nil {
			errs = errors.Join(errs, fmt.Errorf("device %s: cannot join the groups of the containers' addresses again: %w", d.Name, err))
		}
	}
	return errs
}

// A listener answers on one device.
type listener struct {
	device Device
	conn   *packet.Conn
	filter *filter
	addrs  atomic.Pointer[Addrs]
	groups groups
}

func listen(d Device) (*listener, error) {
	f, err := newFilter()
	if err != nil {
		return nil, err
	}
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{}})
	if err != nil {
		return nil, err
	}
	conn, err := packet.Listen(&net.Interface{Index: d.Index, Name: d.Name, HardwareAddr: d.MAC.HardwareAddr()}, packet.Raw, unix.ETH_P_IPV6, &packet.Config{Filter: nothing})
	if err == nil {
		if err = attach(conn, f); err != nil {
			_ = conn.Close() // nothing was read from it
		}
	}
	if err != nil {
		f.close()
		return nil, err
	}
	l := &listener{device: d, conn: conn, filter: f, groups: groups{device: d.Index, in: map[frame.Addr6]int{}}}
	l.addrs.Store(&Addrs{})
	return l, nil
}

func attach(conn *packet.Conn, f *filter) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = f.attach(int(fd)) }), err)
}

// set joins and leaves groups. All addresses are answered for, also if a group cannot be joined: there are solicitations to one address, too.
func (l *listener) set(addrs Addrs) error {
	addrs = maps.Clone(addrs)
	l.addrs.Store(&addrs)
	return errors.Join(l.filter.set(addrs), l.groups.set(addrs))
}

// maxLen is how much of a solicitation is read, in bytes.
const maxLen = 1514

// maxPerSecond is how many solicitations are answered in a second: the others are lost in the socket's queue. A host on the link could take
// a CPU with more.
const maxPerSecond = 10000

// serve answers until the socket is closed.
func (l *listener) serve(answers *atomic.Uint64) {
	raw := make([]byte, frame.VnetLen+maxLen)
	began, read := time.Now(), 0
	for {
		n, _, err := l.conn.ReadFrom(raw[frame.VnetLen:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the device is down, say: another error follows at once while it stays so
			time.Sleep(time.Second)
			continue
		}
		if b := l.answerTo(raw[:frame.VnetLen+n]); b != nil {
			if _, err := l.conn.WriteTo(b, &packet.Addr{HardwareAddr: b[:6]}); err == nil {
				answers.Add(1)
			}
		}
		if read++; read == maxPerSecond { // as a rule, the second is not over
			time.Sleep(time.Second - time.Since(began))
		}
		if time.Since(began) > time.Second {
			began, read = time.Now(), 0
		}
	}
}

func (l *listener) answerTo(raw []byte) []byte {
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	frame.Parse(&f)
	return router.ProxyAnswer(&f, l.device.MAC, l.device.Source, func(a frame.Addr6) bool {
		_, ok := (*l.addrs.Load())[a]
		return ok
	})
}

func (l *listener) close() {
	_ = l.conn.Close() // this ends serve
	l.filter.close()
	l.groups.close()
}
