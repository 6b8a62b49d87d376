package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// DefaultSocket is where a switch listens unless told otherwise.
const DefaultSocket = "/run/uvswitch/uvswitch.sock"

// A Client speaks to one switch.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of the switch whose control socket is at path.
func NewClient(path string) *Client {
	c := &Client{socket: path}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	return c
}

// Do sends in, when it is not nil, and decodes the answer into out, when that is not nil.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	body, err := c.Stream(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("cannot read the switch's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// Stream sends in and returns the answer's body, which the caller closes.
func (c *Client) Stream(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://uvswitch/v1"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	if json.NewDecoder(resp.Body).Decode(e) != nil || e.Message == "" {
		e.Message = "the switch answered " + resp.Status
	}
	return nil, e
}

// HandPort adds a port whose TAP the caller has made (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) and may move, name and address as it
// likes; fd is the TAP's descriptor and stays the caller's, who closes it. The switch keeps one of its own.
func (c *Client) HandPort(ctx context.Context, p PortAdd, fd int) (made Port, err error) {
	p.Handed = true
	with := NewClient(c.socket)
	with.http.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		if err != nil {
			return nil, err
		}
		return &handing{UnixConn: conn.(*net.UnixConn), rights: syscall.UnixRights(fd)}, nil
	}}
	err = with.Do(ctx, "POST", "/ports", p, &made)
	return made, err
}

// handing sends a descriptor with the first bytes.
type handing struct {
	*net.UnixConn
	rights []byte
}

func (h *handing) Write(b []byte) (int, error) {
	if h.rights == nil {
		return h.UnixConn.Write(b)
	}
	n, _, err := h.WriteMsgUnix(b, h.rights, nil)
	h.rights = nil
	if err == nil && n < len(b) {
		var m int
		m, err = h.UnixConn.Write(b[n:])
		n += m
	}
	return n, err
}

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &unreachable{fmt.Sprintf("no switch listens on %s; start a switch with `uvswitch run`, or name another socket (--socket, UVSWITCH_SOCKET)", c.socket), err}
	case errors.Is(err, os.ErrPermission):
		return &unreachable{fmt.Sprintf("%s: permission denied; run as root, or as a member of the socket's group", c.socket), err}
	}
	return err
}

// unreachable says for people what err says for programs.
type unreachable struct {
	text string
	err  error
}

// IsStatus tells whether the switch has refused with that status of HTTP.
func IsStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// IsCode reports whether the switch refused with that code.
func IsCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// IsUnreachable tells whether err says that there is no switch, rather than what the switch says.
func IsUnreachable(err error) bool {
	var e *unreachable
	return errors.As(err, &e)
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.err }
