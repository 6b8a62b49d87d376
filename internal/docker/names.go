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
	"github.com/uvswitch/uvswitch/internal/attach"
	"github.com/uvswitch/uvswitch/internal/userns"
)

// Docker's calls name no container. So the driver asks Docker's engine, and gives the port of an endpoint the name of its container. It asks outside
// of Docker's calls, because the engine may hold its own locks during a call.

// An owner is the container of an endpoint, and Docker's name of the endpoint's network.
type owner struct{ container, network string }

// An engine lists the owners of all endpoints, by Docker's ID.
type engine func(context.Context) (map[string]owner, error)

const (
	maxContainers = 64 << 20         // bytes of the engine's answer
	engineTime    = 5 * time.Second  // for an answer of the engine
	nameTime      = 30 * time.Second // how often all names are looked at: containers can be renamed
	youngTime     = time.Minute      // for so long, an endpoint without a name is asked for each second
)

// engineOf returns the engine at the socket that Docker's own commands would use.
func engineOf(env func(string) string) engine {
	path := "/var/run/docker.sock"
	if dir := env("XDG_RUNTIME_DIR"); dir != "" && userns.IsThere() {
		path = dir + "/docker.sock"
	}
	if host := env("DOCKER_HOST"); host != "" {
		at, isUnix := strings.CutPrefix(host, "unix://")
		if !isUnix {
			return func(context.Context) (map[string]owner, error) {
				return nil, fmt.Errorf("DOCKER_HOST is %s; the driver asks an engine at a unix socket only", host)
			}
		}
		path = at
	}
	client := &http.Client{Timeout: engineTime, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
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
	if !d.mustAsk(now) {
		return nil
	}
	d.asked = now
	owners, err := d.engine(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ports, err := d.sw.Ports(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	ids := slices.SortedFunc(maps.Keys(d.state.Endpoints), func(a, b string) int { // a container's eth0 first
		return cmp.Or(cmp.Compare(d.state.Endpoints[a].Ifname, d.state.Endpoints[b].Ifname), cmp.Compare(a, b))
	})
	d.mu.Unlock()
	for _, id := range ids {
		if o, known := owners[id]; known {
			if err := d.nameAfter(ctx, id, o, ports); err != nil {
				return err
			}
		}
	}
	return nil
}

// mustAsk reports whether names may be missing, or have not been looked at for a time.
func (d *Driver) mustAsk(now time.Time) (must bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.state.Endpoints {
		if e.Ifname == "" { // Docker has not renamed the device yet
			continue
		}
		if e.since.IsZero() {
			e.since = now
		}
		isNew := e.Given == "" && e.refused == "" && now.Sub(e.since) < youngTime
		must = must || isNew || now.Sub(d.asked) >= nameTime
	}
	return must
}

// nameAfter gives the port of an endpoint the name of its container. If another port has this name, such as one of the same container in another
// network, it appends the network's. A name that somebody else has given stays. The lock is held for one change only.
func (d *Driver) nameAfter(ctx context.Context, id string, o owner, ports []api.Port) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.state.Endpoints[id]
	if e == nil || e.Ifname == "" {
		return nil
	}
	p := d.portIn(ports, e)
	names := []string{attach.PlainName(o.container), attach.PlainName(o.container + "-" + o.network)}
	if p == nil || slices.Contains(names, p.Name) || e.refused == o.container || p.Name != madeName(id) && p.Name != e.Given {
		return nil
	}
	for _, name := range names {
		err := d.sw.RenamePort(ctx, p.Name, api.PortRename{Name: name})
		if err == nil {
			e.Name, e.Given, e.refused = name, name, ""
			return d.save()
		}
		if !api.IsStatus(err, http.StatusConflict) && !api.IsStatus(err, http.StatusBadRequest) {
			return err
		}
	}
	e.refused = o.container
	d.log.Info("docker: a port does not get the name of its container: another port has it, or it is too long", "port", p.Name, "container", o.container)
	return nil
}
