package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/url"
)

// The calls that programs need most, by type; Do and Stream reach the rest (GET /v1/openapi.json describes all). What the switch
// refuses is an *Error, with HTTP's status: 400 what cannot be, 403 not allowed, 404 not there, 409 in the way of something, 503 too many.
// Without a switch the error is os.ErrNotExist or syscall.ECONNREFUSED, by errors.Is.

func get[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	err = c.Do(ctx, "GET", path, nil, &v)
	return v, err
}

// Status is the switch on one screen.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Stats are counters, drops and the account of every frame.
func (c *Client) Stats(ctx context.Context) (Stats, error) { return get[Stats](ctx, c, "/stats") }

// Networks lists networks.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return get[[]Network](ctx, c, "/networks")
}

// AddNetwork adds a network.
func (c *Client) AddNetwork(ctx context.Context, n NetworkAdd) error {
	return c.Do(ctx, "POST", "/networks", n, nil)
}

// DeleteNetwork removes a network that has no ports.
func (c *Client) DeleteNetwork(ctx context.Context, name string) error {
	return c.Do(ctx, "DELETE", "/networks/"+url.PathEscape(name), nil, nil)
}

// Ports lists ports.
func (c *Client) Ports(ctx context.Context) ([]Port, error) { return get[[]Port](ctx, c, "/ports") }

// Port is one port; an *Error with status 404 when there is none.
func (c *Client) Port(ctx context.Context, name string) (Port, error) {
	return get[Port](ctx, c, "/ports/"+url.PathEscape(name))
}

// AddPort makes or plugs a port, and returns it with what was chosen for it.
func (c *Client) AddPort(ctx context.Context, p PortAdd) (made Port, err error) {
	err = c.Do(ctx, "POST", "/ports", p, &made)
	return made, err
}

// SetPort turns a port's knobs.
func (c *Client) SetPort(ctx context.Context, name string, set PortSet) error {
	return c.Do(ctx, "PATCH", "/ports/"+url.PathEscape(name), set, nil)
}

// DeletePort removes a port and what is published of it.
func (c *Client) DeletePort(ctx context.Context, name string) error {
	return c.Do(ctx, "DELETE", "/ports/"+url.PathEscape(name), nil, nil)
}

// Published lists published ports.
func (c *Client) Published(ctx context.Context) ([]Publish, error) {
	return get[[]Publish](ctx, c, "/publish")
}

// Publish publishes a port.
func (c *Client) Publish(ctx context.Context, p PublishAdd) (made Publish, err error) {
	err = c.Do(ctx, "POST", "/publish", p, &made)
	return made, err
}

// Unpublish takes a published port back; host is its host side, as [ADDR:]PORT[-END][/PROTO].
func (c *Client) Unpublish(ctx context.Context, host string) error {
	return c.Do(ctx, "DELETE", "/publish?host="+url.QueryEscape(host), nil, nil)
}

// Flows lists tracked connections. filter has the query's parameters: src, dst, proto, port, sport, dport, state, limit.
func (c *Client) Flows(ctx context.Context, filter url.Values) ([]Flow, error) {
	return get[[]Flow](ctx, c, "/flows?"+filter.Encode())
}

// Trace says what would happen to a packet; nothing is changed.
func (c *Client) Trace(ctx context.Context, q TraceRequest) (t Trace, err error) {
	err = c.Do(ctx, "POST", "/trace", q, &t)
	return t, err
}

// FlowEvents follows flows as they come and go, until ctx is done or the switch ends; the last error is yielded.
func (c *Client) FlowEvents(ctx context.Context, filter url.Values) iter.Seq2[FlowEvent, error] {
	return lines[FlowEvent](ctx, c, "/flows/events?"+filter.Encode())
}

// Monitor follows what becomes of frames. filter has the query's parameters: verdict, reason, port, filter, last, follow.
func (c *Client) Monitor(ctx context.Context, filter url.Values) iter.Seq2[Verdict, error] {
	return lines[Verdict](ctx, c, "/monitor?"+filter.Encode())
}

// Capture is a stream of pcapng. options has the query's parameters: port, filter, dir, snap, count, drops, split.
func (c *Client) Capture(ctx context.Context, options url.Values) (io.ReadCloser, error) {
	return c.Stream(ctx, "GET", "/capture?"+options.Encode(), nil)
}

// lines decodes a stream of newline-delimited JSON.
func lines[T any](ctx context.Context, c *Client, path string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		body, err := c.Stream(ctx, "GET", path, nil)
		if err != nil {
			yield(zero, err)
			return
		}
		defer body.Close()
		for dec := json.NewDecoder(body); ; {
			var v T
			switch err := dec.Decode(&v); {
			case err == nil:
				if !yield(v, nil) {
					return
				}
			case ctx.Err() != nil || errors.Is(err, io.EOF):
				return
			default:
				yield(zero, err)
				return
			}
		}
	}
}
