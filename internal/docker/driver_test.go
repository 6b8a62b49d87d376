package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// fake is a switch and a host. It records the requests, knows which names exist, and fails as the switch does.
type fake struct {
	said    []string
	names   map[string]bool
	ports   map[string]api.Port // what the ports among them are; a port that is not here is that of 172.30.0.2
	taken   map[string]bool     // host ports that are in use
	rules   []api.Publish
	subnets map[string]string
	dead    map[string]bool // sandboxes that do not exist
	hidden  bool            // no sandbox can be inspected: permission denied
	ended   map[string]bool // ports whose device is back on the host
}

func newFake() *fake {
	return &fake{names: map[string]bool{}, ports: map[string]api.Port{}, taken: map[string]bool{}, dead: map[string]bool{}, ended: map[string]bool{}, subnets: map[string]string{}}
}

func (f *fake) say(format string, args ...any) { f.said = append(f.said, fmt.Sprintf(format, args...)) }

func (f *fake) add(name string) error {
	if f.names[name] {
		return api.Errorf(http.StatusConflict, "there is a %s already", name)
	}
	f.names[name] = true
	return nil
}

func (f *fake) remove(name string) error {
	if !f.names[name] {
		return api.Errorf(http.StatusNotFound, "there is no %s", name)
	}
	delete(f.names, name)
	return nil
}

func (f *fake) Networks(context.Context) ([]api.Network, error) { return nil, nil }

func (f *fake) AddNetwork(_ context.Context, n api.NetworkAdd) error {
	f.say("add network %s %s gateway %s mtu %d internal %v isolated %v", n.Name, n.Subnet, n.Gateway, n.MTU, n.Internal, n.Isolated)
	for name, subnet := range f.subnets {
		if subnet == n.Subnet && f.names["network "+name] {
			return api.Errorf(http.StatusConflict, "subnet %s overlaps %s", n.Subnet, name)
		}
	}
	f.subnets[n.Name] = n.Subnet
	return f.add("network " + n.Name)
}

func (f *fake) DeleteNetwork(_ context.Context, name string) error {
	f.say("delete network %s", name)
	return f.remove("network " + name)
}

func (f *fake) Port(_ context.Context, name string) (api.Port, error) {
	if !f.names["port "+name] {
		return api.Port{}, api.Errorf(http.StatusNotFound, "there is no port %s", name)
	}
	p, known := f.ports[name]
	if !known {
		p = api.Port{Name: name, Network: "docker-n1", MAC: "02:75:AC:1E:00:02"}
	}
	p.Ifname, p.Netns = "eth0", "/ns/"+strings.TrimPrefix(name, "docker-")
	if f.ended[name] {
		p.Ifname = "uvs" + strings.TrimPrefix(name, "docker-")
	}
	return p, nil
}

func (f *fake) Ports(ctx context.Context) (out []api.Port, err error) {
	for name := range f.names {
		if port, isPort := strings.CutPrefix(name, "port "); isPort {
			p, _ := f.Port(ctx, port)
			out = append(out, p)
		}
	}
	return out, nil
}

func (f *fake) RenamePort(_ context.Context, name string, to api.PortRename) error {
	f.say("rename port %s to %s", name, to.Name)
	if err := f.add("port " + to.Name); err != nil {
		return err
	}
	p, _ := f.Port(context.Background(), name)
	p.Name = to.Name
	f.ports[to.Name] = p
	for i := range f.rules {
		if f.rules[i].Port == name {
			f.rules[i].Port = to.Name
		}
	}
	return f.remove("port " + name)
}

func (f *fake) HandPort(_ context.Context, p api.PortAdd, _ int) (api.Port, error) {
	f.say("hand port %s in %s %s %s isolated %v", p.Name, p.Network, p.IP, p.MAC, p.Set["isolated"] == api.On)
	f.ports[p.Name] = api.Port{Name: p.Name, Network: p.Network, MAC: p.MAC}
	return api.Port{}, f.add("port " + p.Name)
}

func (f *fake) DeletePort(_ context.Context, name string) error {
	f.say("delete port %s", name)
	f.rules = slices.DeleteFunc(f.rules, func(r api.Publish) bool { return r.Port == name })
	return f.remove("port " + name)
}

func (f *fake) Publish(_ context.Context, p api.PublishAdd) (api.Publish, error) {
	host, _, _ := strings.Cut(strings.TrimPrefix(p.Spec, "127.0.0.1:"), ":")
	if f.taken[host] {
		return api.Publish{}, api.Errorf(http.StatusConflict, "port %s is taken", host)
	}
	f.say("publish %s of %s", p.Spec, p.Port)
	r := api.Publish{HostAddress: "0.0.0.0", Port: p.Port, Protocol: p.Spec[len(p.Spec)-3:]}
	if strings.HasPrefix(p.Spec, "127.") {
		r.HostAddress = "127.0.0.1"
	}
	_, _ = fmt.Sscan(host, &r.HostPort)
	r.HostPortEnd = r.HostPort
	f.rules = append(f.rules, r)
	return r, nil
}

func (f *fake) Published(context.Context) ([]api.Publish, error) { return slices.Clone(f.rules), nil }

func (f *fake) Unpublish(_ context.Context, host string) error {
	f.say("unpublish %s", host)
	f.rules = slices.DeleteFunc(f.rules, func(r api.Publish) bool { return r.Host() == host })
	return nil
}

func (f *fake) make(p place) (int, func(), error) {
	f.say("make %s%s mtu %d", p.sandbox, p.device, p.mtu)
	return -1, func() {}, nil
}

func (f *fake) alive(sandbox string) bool { return sandbox != "" && !f.dead[sandbox] }
func (f *fake) seen(sandbox string) bool  { return f.alive(sandbox) && !f.hidden }

func (f *fake) driver(path string) *Driver {
	s, err := load(path)
	if err != nil {
		panic(err)
	}
	return &Driver{sw: f, devices: f, path: path, log: slog.New(slog.DiscardHandler), state: s}
}

// post calls a method and returns the HTTP status and the body.
func post(d *Driver, method, body string) (int, string) {
	w := httptest.NewRecorder()
	d.handler().ServeHTTP(w, httptest.NewRequest("POST", "/"+method, strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// TestExchanges replays recorded calls from Docker, line by line.
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f := newFake()
			d := f.driver(filepath.Join(t.TempDir(), "state.json"))
			var call, got string
			var want []string
			for n, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
				kind, rest, _ := strings.Cut(line, " ")
				switch kind {
				case ">":
					method, body, _ := strings.Cut(rest, " ")
					f.said = nil
					code, answer := post(d, method, body)
					if call, got = method, fmt.Sprint(code); code != http.StatusNotFound {
						got += " " + answer
					}
					want = nil
				case "!":
					want = append(want, rest)
				case "<":
					if got != rest {
						t.Errorf("line %d, %s: %s\nwant %s", n+1, call, got, rest)
					}
					if strings.Join(f.said, "\n") != strings.Join(want, "\n") {
						t.Errorf("line %d, %s asks the switch:\n%s\nwant:\n%s", n+1, call, strings.Join(f.said, "\n"), strings.Join(want, "\n"))
					}
				}
			}
			if len(f.names) > 0 {
				t.Errorf("left: %v", f.names)
			}
		})
	}
}

const (
	aNetwork  = `{"NetworkID":"n1","IPv4Data":[{"Pool":"172.30.0.0/16","Gateway":"172.30.0.1/16"}]}`
	anAddress = `"Interface":{"Address":"172.30.0.2/16"}`
)

func joined(t *testing.T, d *Driver, id string, more string) {
	t.Helper()
	for _, c := range [][2]string{
		{"CreateEndpoint", fmt.Sprintf(`{"NetworkID":"n1","EndpointID":"%s",%s}`, id, anAddress)},
		{"Join", fmt.Sprintf(`{"NetworkID":"n1","EndpointID":"%s","SandboxKey":"/ns/%s"}`, id, id)},
		{"ProgramExternalConnectivity", fmt.Sprintf(`{"NetworkID":"n1","EndpointID":"%s"%s}`, id, more)},
	} {
		if code, answer := post(d, "NetworkDriver."+c[0], c[1]); code != http.StatusOK {
			t.Fatalf("%s: %s", c[0], answer)
		}
	}
}

// TestRestore checks that a restarted switch restores the networks, and a device in each container that still exists.
func TestRestore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	f := newFake()
	d := f.driver(path)
	post(d, "NetworkDriver.CreateNetwork", aNetwork)
	joined(t, d, "e1", `,"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8080}]}`)
	if err := d.learnIfnames(context.Background()); err != nil {
		t.Fatal(err)
	}

	g := newFake()
	d = g.driver(path)
	if err := d.restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := "add network docker-n1 172.30.0.0/16 gateway 172.30.0.1 mtu 1500 internal false isolated true\n" +
		"make /ns/e1eth0 mtu 1500\nhand port docker-e1 in docker-n1 172.30.0.2/16 02:75:ac:1e:00:02 isolated false\npublish 8080:80/tcp of docker-e1"
	if got := strings.Join(g.said, "\n"); got != want {
		t.Errorf("a new switch is asked:\n%s\nwant:\n%s", got, want)
	}

	// The store kept the device: no new device is created.
	g = newFake()
	g.names["network docker-n1"], g.names["port docker-e1"] = true, true
	d = g.driver(path)
	if err := d.restore(context.Background()); err != nil || strings.Contains(strings.Join(g.said, "\n"), "make") {
		t.Errorf("a port that is there: %v %v", g.said, err)
	}

	g = newFake()
	g.names["port docker-e1"], g.ended["docker-e1"] = true, true // the device was kept, and Docker moved it back to the host
	d = g.driver(path)
	if err := d.restore(context.Background()); err != nil || len(g.said) != 2 || g.names["port docker-e1"] {
		t.Errorf("a container that has ended: %v %v", g.said, err)
	}
	joined(t, d, "e2", "") // the address of e1 is free again

	// One container in two networks; the device in one of them has no known name yet. Null values in the file do no harm.
	two := `{"version":1,"networks":{"n1":{"add":{"name":"docker-n1","subnet":"172.30.0.0/16","gateway":"172.30.0.1","mtu":1500}}},"endpoints":{
		"a":{"network":"n1","address":"172.30.0.3/16","mac":"02:00:00:00:00:03","sandbox":"/ns/c"},"b":{"network":"n1","address":"172.30.0.2/16","mac":"02:00:00:00:00:02","sandbox":"/ns/c","ifname":"eth0"}}}`
	for _, text := range []string{two, `{"version":1,"networks":null,"endpoints":null}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g = newFake()
		d = g.driver(path)
		if err := d.restore(context.Background()); err != nil {
			t.Error(err)
		}
		if made := strings.Join(g.said, "\n"); text == two && (!strings.Contains(made, "make /ns/ceth0 mtu 1500\nhand port docker-b") || !strings.Contains(made, "make /ns/ceth1 mtu 1500\nhand port docker-a")) {
			t.Errorf("%s", made)
		}
	}
	if code, answer := post(d, "NetworkDriver.CreateNetwork", aNetwork); code != http.StatusOK {
		t.Error(answer)
	}
	for range 2 { // the second call is as after a lost answer
		if code, answer := post(d, "NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e1",`+anAddress+`}`); code != http.StatusOK || !strings.Contains(answer, "02:75:ac:1e:00:02") {
			t.Error(answer)
		}
	}
	if code, answer := post(d, "NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e2","Interface":{"Address":"172.30.0.9/16","MacAddress":"02:75:ac:1e:00:02"}}`); code == http.StatusOK {
		t.Errorf("a MAC that is another's: %s", answer)
	}
}

// TestStale checks that addresses and subnets in use stay reserved, and that those that Docker has lost become free.
func TestStale(t *testing.T) {
	f := newFake()
	d := f.driver(filepath.Join(t.TempDir(), "state.json"))
	post(d, "NetworkDriver.CreateNetwork", aNetwork)
	joined(t, d, "e1", "")
	if code, answer := post(d, "NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e2",`+anAddress+`}`); code == http.StatusOK || !strings.Contains(answer, "address 172.30.0.2/16 is in use by endpoint e1") {
		t.Errorf("an address twice: %d %s", code, answer)
	}
	other := strings.Replace(aNetwork, "n1", "n2", 1)
	if code, answer := post(d, "NetworkDriver.CreateNetwork", other); code == http.StatusOK || !f.names["network docker-n1"] || !strings.Contains(answer, "overlaps") {
		t.Errorf("a network with a container gives way: %s", answer)
	}
	f.hidden = true
	if code, answer := post(d, "NetworkDriver.CreateNetwork", other); code == http.StatusOK {
		t.Errorf("a network with a container that cannot be seen, and has its port, gives way: %s", answer)
	}
	delete(f.names, "port docker-e1")
	if code, answer := post(d, "NetworkDriver.CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e3",`+anAddress+`}`); code != http.StatusOK {
		t.Errorf("an address whose container cannot be seen and has no port: %d %s", code, answer)
	}
	post(d, "NetworkDriver.DeleteEndpoint", `{"NetworkID":"n1","EndpointID":"e3"}`)
	f.hidden = false
	joined(t, d, "e1", "")
	f.dead["/ns/e1"] = true
	if code, answer := post(d, "NetworkDriver.CreateNetwork", other); code != http.StatusOK || f.names["network docker-n1"] || f.names["port docker-e1"] {
		t.Errorf("the subnet of a forgotten network: %d %s %v", code, answer, f.names)
	}
}

// TestPublishAllOrNone checks that either all ports of a container are published, or none.
func TestPublishAllOrNone(t *testing.T) {
	f := newFake()
	d := f.driver(filepath.Join(t.TempDir(), "state.json"))
	post(d, "NetworkDriver.CreateNetwork", aNetwork)
	joined(t, d, "e1", "")
	f.taken["8081"], f.taken["9000"] = true, true
	f.said = nil
	code, answer := post(d, "NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8080},{"Proto":6,"Port":8181,"HostPort":8081}]}}`)
	if code == http.StatusOK || !strings.Contains(answer, "port 8081 is taken") || strings.Join(f.said, ",") != "publish 8080:80/tcp of docker-e1,unpublish 8080/tcp" {
		t.Errorf("%d %s %v", code, answer, f.said)
	}
	f.said = nil
	code, answer = post(d, "NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[{"Proto":17,"Port":80,"HostPort":9000,"HostPortEnd":9001},{"Proto":6,"Port":80}]}}`)
	if code != http.StatusOK || len(f.said) != 2 || f.said[0] != "publish 9001:80/udp of docker-e1" {
		t.Errorf("a range, and any port: %d %s %v", code, answer, f.said)
	}
	var ports []string
	for p := 3000; p < 5000; p++ {
		ports = append(ports, fmt.Sprintf(`{"Proto":6,"Port":%d,"HostPort":%[1]d,"HostPortEnd":%[1]d,"HostIP":"0.0.0.0"},{"Proto":6,"Port":%[1]d,"HostPort":%[1]d,"HostPortEnd":%[1]d,"HostIP":"::"}`, p))
	}
	f.said = nil
	code, answer = post(d, "NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[`+strings.Join(ports, ",")+`]}}`)
	if code != http.StatusOK || f.said[len(f.said)-1] != "publish 3000-4999:3000/tcp of docker-e1" {
		t.Errorf("two thousand ports: %d %s %v", code, answer, f.said)
	}
	if code, answer = post(d, "NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":80,"HostIP":"2001:db8::1"}]}}`); code != http.StatusOK || f.said[len(f.said)-1] != "publish [2001:db8::1]:80:80/tcp of docker-e1" {
		t.Errorf("an IPv6 address of the host: %d %s %v", code, answer, f.said)
	}
}

// TestCannotKeep checks that a change is undone when its state cannot be saved, here because the folder does not exist.
func TestCannotKeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFake()
	d := f.driver(filepath.Join(dir, "state.json"))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if code, answer := post(d, "NetworkDriver.CreateNetwork", aNetwork); code == http.StatusOK || !strings.Contains(answer, "cannot save the state file") || len(f.names) > 0 {
		t.Errorf("%d %s %v", code, answer, f.names)
	}
}

func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, bad := range []string{"", "{", `{"version":2}`, `{"version":1,"endpoints":{"e1":{"network":"n1"}}}`, `{"version":1,"networks":{"n1":null}}`, `{"version":1,"networks":{"../n":{}}}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %+v %v", bad, s, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || len(b) == 0 {
		t.Errorf("the file is not left as it was: %q %v", b, err)
	}
	if gone(errors.New("x")) == nil || gone(api.Errorf(http.StatusNotFound, "x")) != nil {
		t.Error("gone")
	}
}

// FuzzDocker sends arbitrary calls, as Docker or any other program on its socket could. The driver must give an answer of the
// protocol, and must not pass an invalid name to the switch.
func FuzzDocker(f *testing.F) {
	f.Add("CreateNetwork", aNetwork)
	f.Add("CreateEndpoint", `{"NetworkID":"n1","EndpointID":"e2",`+anAddress+`}`)
	f.Add("Join", `{"NetworkID":"n1","EndpointID":"e1","SandboxKey":"/x"}`)
	f.Add("ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":1,"HostPortEnd":9}]}}`)
	f.Add("Leave", `{"NetworkID":"n1","EndpointID":"e1"}`)
	path := filepath.Join(f.TempDir(), "state.json")
	f.Fuzz(func(t *testing.T, method, body string) {
		if strings.Trim(method, idChars) != "" {
			t.Skip()
		}
		sw := newFake()
		d := sw.driver(path)
		defer os.Remove(path)
		post(d, "NetworkDriver.CreateNetwork", aNetwork)
		joined(t, d, "e1", "")
		code, answer := post(d, "NetworkDriver."+method, body)
		if code != http.StatusOK && code != http.StatusNotFound && (code != http.StatusInternalServerError || !strings.Contains(answer, `"Err"`)) {
			t.Errorf("%s %q: %d %s", method, body, code, answer)
		}
		for _, s := range sw.said {
			if strings.ContainsAny(s, "\n\x00") {
				t.Errorf("%s %q asks the switch: %q", method, body, s)
			}
		}
		if _, err := load(path); err != nil {
			t.Errorf("%s %q: what was kept cannot be read: %v", method, body, err)
		}
	})
}

// TestNames checks that ports get the names of their containers, keep them, and are found by them.
func TestNames(t *testing.T) {
	const list = `[{"Names":["/web/db","/db"],"NetworkSettings":{"Networks":{"back":{"EndpointID":"e1"},"front":{"EndpointID":"e2"}}}},
		{"Names":["/host"],"NetworkSettings":{"Networks":{"back":{"EndpointID":"e3"}}}},{"Names":null},{"Names":["/other"],"NetworkSettings":{"Networks":{"bridge":{"EndpointID":"e9"}}}}]`
	f := newFake()
	path := filepath.Join(t.TempDir(), "state.json")
	d := f.driver(path)
	asked := 0
	answer := list
	d.engine = func(context.Context) (map[string]owner, error) {
		asked++
		return readOwners(strings.NewReader(answer))
	}
	post(d, "NetworkDriver.CreateNetwork", aNetwork)
	for i, id := range []string{"e1", "e2", "e3"} {
		joined(t, d, id, "")
		d.state.Endpoints[id].Address, d.state.Endpoints[id].MAC = fmt.Sprintf("172.30.0.%d/16", 9+i), fmt.Sprintf("02:00:00:00:00:0%d", i)
		f.ports["docker-"+id] = api.Port{Name: "docker-" + id, Network: "docker-n1", MAC: d.state.Endpoints[id].MAC}
	}
	f.add("port db-front")
	f.ports["db-front"] = api.Port{Name: "db-front", Network: "default", MAC: "02:00:00:00:00:99"}
	now := time.Unix(1000, 0)
	look := func(after time.Duration, wantAsked int) {
		t.Helper()
		now = now.Add(after)
		if err := d.learnNames(context.Background(), now); err != nil || asked != wantAsked {
			t.Fatalf("the engine was asked %d times, not %d: %v", asked, wantAsked, err)
		}
	}
	have := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if !f.names["port "+name] {
				t.Errorf("no port %s: %v", name, f.names)
			}
		}
	}
	look(time.Second, 0) // the names of the devices are not known: the containers are about to start
	if err := d.learnIfnames(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.names["port host"] = true // the switch has one
	f.ports["host"] = api.Port{Name: "host"}
	look(time.Second, 1)
	have("db", "docker-e2", "host-back") // db-front is another's, and host is the switch's own
	look(time.Second, 1)

	// The names are found again after a restart, and one that was given by hand stays.
	f.RenamePort(context.Background(), "db", api.PortRename{Name: "mine"})
	answer = strings.Replace(list, "/host", "/store", 1)
	look(nameTime, 2)
	have("mine", "store")
	if post(d, "NetworkDriver.ProgramExternalConnectivity", `{"NetworkID":"n1","EndpointID":"e1","Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8080}]}}`); f.said[len(f.said)-1] != "publish 8080:80/tcp of mine" {
		t.Errorf("%v", f.said)
	}
	g := newFake() // a switch that has lost its ports gets them by the same names
	if err := g.driver(path).restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hand port mine in", "hand port store in", "hand port docker-e2 in", "publish 8080:80/tcp of mine"} {
		if !strings.Contains(strings.Join(g.said, "\n"), want) {
			t.Errorf("no %q in %q", want, g.said)
		}
	}
	d = f.driver(path)
	for _, id := range []string{"e1", "e2", "e3"} {
		post(d, "NetworkDriver.Leave", fmt.Sprintf(`{"NetworkID":"n1","EndpointID":"%s"}`, id))
	}
	if f.names["port mine"] || f.names["port store"] || f.names["port docker-e2"] || !f.names["port db-front"] {
		t.Errorf("after Leave: %v", f.names)
	}
}
