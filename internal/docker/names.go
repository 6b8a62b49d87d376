package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/userns"
)

// Docker's calls name no container. So the driver asks Docker's engine, and gives the port of an endpoint the name of its container. No call of
// Docker waits for this: the engine may hold its own locks during a call.

// An owner is the container of an endpoint, and Docker's name of the endpoint's network.
type owner struct{ container, network string }

// An engine lists the owners of all endpoints, by Docker's ID.
type engine func(context.Context) (map[string]owner, error)

const (
	maxContainers = 64 << 20         // bytes of the engine's answer
	nameTime      = 30 * time.Second // how often all names are looked at: containers can be renamed
	youngTime     = time.Minute      // for so long, an endpoint without a name is asked for each second
)

// engineOf returns the engine at the socket that Docker's own commands would use.
func engineOf(env func(string) string) engine {
	path := "/var/run/docker.sock"
	if dir := env("XDG_RUNTIME_DIR"); dir != "" && userns.IsThere() {
		path = dir + "/docker.sock"
	}
	if at, isUnix := strings.CutPrefix(env("DOCKER_HOST"), "unix://"); isUnix {
		path = at
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	return func(ctx context.Context) (map[string]owner, error) {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/json", nil) // only those that run
		if err != nil {
			return nil, err
		}
		a, err := client.Do(q)
		if err != nil {
			return nil, err
		}
		defer a.Body.Close()
		if a.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("the engine at %s answers %s", path, a.Status)
		}
		return readOwners(io.LimitReader(a.Body, maxContainers))
	}
}

// readOwners reads the engine's list of containers.
func readOwners(r io.Reader) (map[string]owner, error) {
	var list []struct {
		Names           []string
		NetworkSettings struct {
			Networks map[string]struct{ EndpointID string }
		}
	}
	if err := json.NewDecoder(r).Decode(&list); err != nil {
		return nil, err
	}
	out := map[string]owner{}
	for _, c := range list {
		i := slices.IndexFunc(c.Names, func(s string) bool { return strings.LastIndex(s, "/") == 0 }) // the others are links: /web/db
		if i < 0 {
			continue
		}
		for network, e := range c.NetworkSettings.Networks {
			out[e.EndpointID] = owner{c.Names[i][1:], network}
		}
	}
	return out, nil
}

// learnNames gives ports the names of their containers, if it is time to ask for them.
func (d *Driver) learnNames(ctx context.Context, now time.Time) error {
	d.mu.Lock()
	ask := false
	for _, e := range d.state.Endpoints {
		if e.Ifname == "" { // the container is about to start
			continue
		}
		if e.since.IsZero() {
			e.since = now
		}
		ask = ask || now.Sub(d.asked) >= nameTime || e.given == "" && now.Sub(e.since) < youngTime
	}
	d.mu.Unlock()
	if !ask {
		return nil
	}
	d.asked = now
	owners, err := d.engine(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ids := slices.SortedFunc(maps.Keys(d.state.Endpoints), func(a, b string) int { // a container's eth0 first
		return cmp.Or(cmp.Compare(d.state.Endpoints[a].Ifname, d.state.Endpoints[b].Ifname), cmp.Compare(a, b))
	})
	for _, id := range ids {
		if o, known := owners[id]; known && d.state.Endpoints[id].Ifname != "" {
			d.nameAfter(ctx, id, o)
		}
	}
	return nil
}

// nameAfter gives the port of an endpoint the name of its container. If another port has this name, such as one of the same container in another
// network, it appends the network's. A name that somebody else has given stays.
func (d *Driver) nameAfter(ctx context.Context, id string, o owner) {
	e := d.state.Endpoints[id]
	p, err := d.port(ctx, id)
	if err != nil {
		return // it has gone, or has not come
	}
	names := []string{o.container, o.container + "-" + o.network}
	if slices.Contains(names, p.Name) || p.Name != madeName(id) && p.Name != e.given {
		e.given = p.Name
		return
	}
	for _, name := range names {
		if err = d.sw.RenamePort(ctx, p.Name, api.PortRename{Name: name}); err == nil {
			e.name, e.given = name, name
			return
		}
	}
	e.given = p.Name
	d.log.Info("docker: a port does not get the name of its container", "port", p.Name, "container", o.container, "error", err)
}
