// Package tapmaker creates TAPs inside network namespaces. A switch lets a child process do it, the only process of the switch
// that enters namespaces: the process that reads frames from containers never does.
//
// Direct creates a TAP in this process. Start runs the child; Serve is the child's side.
package tapmaker

import (
	"errors"
	"fmt"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/tap"
)

// A Request describes a TAP that is to be created.
type Request struct {
	Netns  string       `json:"netns"`            // path of the namespace
	Ifname string       `json:"ifname"`           // its name inside
	Plain  bool         `json:"plain,omitempty"`  // without a virtio-net header
	Config *link.Config `json:"config,omitempty"` // how to configure it; nil: not at all

	ResolvConf bool `json:"resolv_conf,omitempty"` // no TAP: see Child.OpenResolvConf
}

// isLocal reports whether the namespace is the one that this process was started in.
func (r *Request) isLocal() bool {
	same, err := netns.Same(r.Netns, netns.Original)
	return err == nil && same
}

// A Maker creates TAPs. On an error nothing remains. Errors wrap netns.ErrNotFound, netns.ErrNotPermitted, tap.ErrExists and
// tap.ErrNoTUN where these are the cause.
type Maker interface {
	Make(Request) (frame.Conn, error)
}

// Direct creates TAPs in this process.
type Direct struct{}

// Make implements Maker.
func (Direct) Make(r Request) (c frame.Conn, err error) {
	if r.Plain {
		c, err = frame.AsConn(tap.OpenPlain(r.Netns, r.Ifname))
	} else {
		c, err = frame.AsConn(tap.Open(r.Netns, r.Ifname))
	}
	if err != nil || r.Config == nil {
		return c, err
	}
	if err := link.Configure(r.Netns, r.Ifname, *r.Config); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Forbidden creates TAPs in the original namespace only.
type Forbidden struct{}

// Make implements Maker.
func (Forbidden) Make(r Request) (frame.Conn, error) {
	if r.isLocal() {
		return Direct{}.Make(r)
	}
	return nil, fmt.Errorf("%w (%s); this needs CAP_SYS_ADMIN", netns.ErrNotPermitted, r.Netns)
}
