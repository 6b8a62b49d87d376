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

// A Client sends requests to one switch.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the switch whose control socket is at path.
func NewClient(path string) *Client {
	c := &Client{socket: path}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	return c
}

// NewEncoder returns an encoder of JSON for people and programs, and not for HTML: a > stays a >.
func NewEncoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

// Do sends a request to /v1 followed by path, with in as the JSON body unless it is nil, and decodes the answer into out unless
// it is nil. An answer of the switch whose status is not 2xx becomes an *Error.
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

// Stream sends a request as Do does, and returns the body of the answer, which the caller must close.
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

// HandPort adds a port whose TAP the caller has created, with the flags IFF_TAP, IFF_NO_PI and IFF_VNET_HDR. The caller may move
// the device, rename it and set its addresses. fd is the file descriptor of the TAP. The switch duplicates it, and the caller
// closes fd.
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

// handing is a connection that sends a file descriptor with its first bytes.
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

// unreachable wraps err in a message for people.
type unreachable struct {
	text string
	err  error
}

// IsStatus reports whether err is an *Error of the switch with that status of HTTP.
func IsStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// IsCode reports whether err is an *Error of the switch with that code.
func IsCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// IsUnreachable reports whether err says that no switch can be reached, rather than that the switch refused.
func IsUnreachable(err error) bool {
	var e *unreachable
	return errors.As(err, &e)
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.err }
