package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/url"
)

// These are the calls that programs need most. Do and Stream reach the others; GET /v1/openapi.json describes all.
//
// An error from the switch is an *Error with a status of HTTP: 400 not valid, 403 not permitted, 404 does not exist, 409
// conflict, 503 too many or busy. If no switch answers, errors.Is finds os.ErrNotExist or syscall.ECONNREFUSED in the error.

func get[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	err = c.Do(ctx, "GET", path, nil, &v)
	return v, err
}

// Status returns a summary of the switch.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Stats returns counters, drops by reason, fill levels of tables, and the balance of frames.
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

// Port returns one port. If it does not exist, the error is an *Error with status 404.
func (c *Client) Port(ctx context.Context, name string) (Port, error) {
	return get[Port](ctx, c, "/ports/"+url.PathEscape(name))
}

// AddPort adds a port. It returns the port with the values that the switch chose.
func (c *Client) AddPort(ctx context.Context, p PortAdd) (made Port, err error) {
	err = c.Do(ctx, "POST", "/ports", p, &made)
	return made, err
}

// RenamePort gives a port another name.
func (c *Client) RenamePort(ctx context.Context, name string, to PortRename) error {
	return c.Do(ctx, "POST", "/ports/"+url.PathEscape(name)+"/rename", to, nil)
}

// SetPort changes settings of a port.
func (c *Client) SetPort(ctx context.Context, name string, set PortSet) error {
	return c.Do(ctx, "PATCH", "/ports/"+url.PathEscape(name), set, nil)
}

// DeletePort removes a port and its published ports.
func (c *Client) DeletePort(ctx context.Context, name string) error {
	return c.Do(ctx, "DELETE", "/ports/"+url.PathEscape(name), nil, nil)
}

// Problems lists what does not work now, as far as the switch can see it.
func (c *Client) Problems(ctx context.Context) ([]Problem, error) {
	return get[[]Problem](ctx, c, "/problems")
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

// Unpublish removes a published port. host is its host side: [ADDR:]PORT[-END][/PROTO].
func (c *Client) Unpublish(ctx context.Context, host string) error {
	return c.Do(ctx, "DELETE", "/publish?host="+url.QueryEscape(host), nil, nil)
}

// Flows lists flows, the tracked connections. The parameters of filter are src, dst, proto, port, sport, dport, state and limit.
func (c *Client) Flows(ctx context.Context, filter url.Values) ([]Flow, error) {
	return get[[]Flow](ctx, c, "/flows?"+filter.Encode())
}

// Trace returns what would happen to a packet. It changes nothing.
func (c *Client) Trace(ctx context.Context, q TraceRequest) (t Trace, err error) {
	err = c.Do(ctx, "POST", "/trace", q, &t)
	return t, err
}

// FlowEvents yields an event for each flow that starts, changes or ends, until ctx is done or the switch ends. If reading fails,
// it yields the error last.
func (c *Client) FlowEvents(ctx context.Context, filter url.Values) iter.Seq2[FlowEvent, error] {
	return lines[FlowEvent](ctx, c, "/flows/events?"+filter.Encode())
}

// Events yields what happens to the switch, and what has happened. The parameters of filter are since, until, filter and follow. If reading fails,
// it yields the error last.
func (c *Client) Events(ctx context.Context, filter url.Values) iter.Seq2[Event, error] {
	return lines[Event](ctx, c, "/events?"+filter.Encode())
}

// Monitor yields the verdicts of frames. The parameters of filter are verdict, reason, port, filter, last and follow. If reading
// fails, it yields the error last.
func (c *Client) Monitor(ctx context.Context, filter url.Values) iter.Seq2[Verdict, error] {
	return lines[Verdict](ctx, c, "/monitor?"+filter.Encode())
}

// Capture returns a pcapng stream, which the caller must close. The parameters of options are port, filter, dir, snap, count,
// drops and split.
func (c *Client) Capture(ctx context.Context, options url.Values) (io.ReadCloser, error) {
	return c.Stream(ctx, "GET", "/capture?"+options.Encode(), nil)
}

// lines yields the values of a stream of newline-delimited JSON.
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
