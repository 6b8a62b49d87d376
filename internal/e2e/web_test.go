package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/netns"
)

const webAddr = "127.0.0.1:8099"

// TestWebPage opens the live page in a real browser in the host's namespace. For this, the test runs itself again in that
// namespace.
func TestWebPage(t *testing.T) {
	if url := os.Getenv(urlOfPage); url != "" {
		browse(t, url)
		return
	}
	Need(t, "chromium", "iperf3", "curl")
	b := New(t, "--web", webAddr)
	containers(b)
	b.CLI("network", "add", "lab", "--subnet", "10.9.0.0/24", "--internal")
	b.AddNS("cache", "queue")
	b.CLI("port", "add", "cache", "--netns", b.NS("cache"), "--network", "lab")
	b.CLI("port", "add", "queue", "--netns", b.NS("queue"), "--network", "lab")
	b.Web("web")
	b.CLI("publish", "add", "8080:80", "--port", "web")
	b.Iperf("db")
	b.Iperf("out")
	// Some traffic to show: two streams, dropped packets, pings.
	for _, line := range []string{"iperf3 -c 172.29.0.3 -t 300 -b 800M", "iperf3 -c 10.1.0.2 -t 300 -b 90M",
		"timeout 300 sh -c 'while :; do ping -c 1 -W 1 172.29.0.3; echo x | socat - udp-sendto:172.29.0.1:9; echo x | socat - udp-sendto:240.0.0.1:9; sleep 0.2; done'",
		"ping -c 300 -i 1 172.29.0.77 || true"} {
		b.Background("web", line)
	}
	b.Eventually("drops are seen", func() bool { return strings.Contains(b.CLI("stats"), "martian_destination") })
	inside := exec.Command(os.Args[0], "-test.run=^TestWebPage$", "-test.v", "-test.timeout=5m")
	page := strings.TrimSpace(b.CLI("web", "url"))
	if !strings.HasPrefix(page, "http://"+webAddr+"/#token=") || !strings.Contains(b.log.String(), page) {
		t.Fatalf("the page is at %s; the switch said %s", page, b.log)
	}
	inside.Env = append(os.Environ(), urlOfPage+"="+page)
	inside.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &syncBuffer{}
	inside.Stdout, inside.Stderr = out, out
	if err := netns.Do(b.path("host"), inside.Start); err != nil {
		t.Fatal(err)
	}
	if err := inside.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	// The page has read access only, and only for requests that name this host.
	for _, c := range []struct{ args, want string }{
		{"", "200"}, {"-H 'Host: evil.example'", "403"}, {"-H 'Origin: http://evil.example'", "403"},
		{"-H 'Origin: https://net.example' -H 'Sec-Fetch-Site: same-origin'", "200"}, {"-H 'Origin: https://net.example' -H 'Sec-Fetch-Site: same-site'", "403"}, {"-H 'Host: localhost'", "200"},
	} {
		if got := b.Sh("host", "curl -s -o /dev/null -w '%{http_code}' "+c.args+" http://"+webAddr+"/v1/status"); got != c.want {
			t.Errorf("curl %s: %s, not %s", c.args, got, c.want)
		}
	}
	// Flows, packets and traces are for those who have the token.
	_, token, _ := strings.Cut(page, "token=")
	for _, path := range []string{"/v1/flows", "/v1/problems", "/v1/neighbors/unanswered", "/v1/flows/stats", "/v1/monitor?last=1&follow=0", "/v1/events?follow=0", "/v1/web"} {
		for args, want := range map[string]string{
			"": "401", "-H 'Authorization: Bearer x'": "401", "-H 'Authorization: Bearer'": "401", "-H 'Authorization: " + token + "'": "401",
			"-H 'Authorization: Bearer " + token + "'": "200",
		} {
			if path == "/v1/flows/stats" {
				want = "200"
			}
			if got := b.Sh("host", "curl -s -o /dev/null -w '%{http_code}' "+args+" 'http://"+webAddr+path+"'"); got != want {
				t.Errorf("curl %s %s: %s, not %s", args, path, got, want)
			}
		}
	}
	if got := b.Sh("host", `curl -s -o /dev/null -w '%{http_code}' -d '{"port":"web","packet":"icmp 172.29.0.2 > 172.29.0.3"}' http://`+webAddr+"/v1/trace"); got != "401" {
		t.Errorf("a trace without the token: %s", got)
	}
	for _, c := range []string{"-X DELETE http://" + webAddr + "/v1/ports/web", "-X POST -d '{}' http://" + webAddr + "/v1/ports", "http://" + webAddr + "/v1/capture", "-X POST -d '{}' http://" + webAddr + "/v1/reload"} {
		if got := b.Sh("host", "curl -s -o /dev/null -w '%{http_code}' "+c); got != "403" {
			t.Errorf("curl %s: %s", c, got)
		}
	}
	if err := func() error { b2 := *b; return b2.TryStart("--web", "0.0.0.0:80", "--name", "uvz") }(); err == nil {
		t.Error("it was served to the network")
	}
}

// browse checks the page in the browser and uses its controls.
func browse(t *testing.T, url string) {
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1360, 900), chromedp.Flag("disable-gpu", true), chromedp.Flag("hide-scrollbars", true), chromedp.IgnoreCertErrors)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var complaints []string
	complain := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		complaints = append(complaints, s)
	}
	chromedp.ListenTarget(ctx, func(e any) {
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			complain(e.ExceptionDetails.Error())
		case *log.EventEntryAdded: // content security policy violations, missing files and so on
			complain(e.Entry.Text + " " + e.Entry.URL)
		}
	})
	do := func(what string, actions ...chromedp.Action) {
		t.Helper()
		if err := chromedp.Run(ctx, actions...); err != nil {
			t.Fatalf("%s: %v; the page says %v", what, err, complaints)
		}
	}
	eventually := func(what, js string) {
		t.Helper()
		do(what, chromedp.Poll(js, nil, chromedp.WithPollingTimeout(patience)))
	}
	shot := func(name string) {
		dir := os.Getenv("UVSWITCH_SCREENSHOTS")
		if dir == "" {
			return
		}
		var png []byte
		do("screenshot", chromedp.CaptureScreenshot(&png))
		if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	scheme := func(v string) chromedp.Action {
		return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v}})
	}
	do("open", log.Enable(), scheme("light"), chromedp.Navigate(url))
	page, token, _ := strings.Cut(url, "#token=")
	url = page // it has taken the token
	eventually("it is live", `document.getElementById("live").textContent === "live"`)
	eventually("ports are drawn", `["web","db","cache","queue","host","uplink"].every(p => document.querySelector('.topo a[data-port="'+p+'"]'))`)
	eventually("addresses of both families are drawn", `["172.29.0.2", "275:ac1d:2"].every(a => [...document.querySelectorAll('.topo a[data-port="web"] text')].some(t => t.textContent.endsWith(a)))`)
	eventually("traffic flows along edges", `document.querySelectorAll(".topo .edge.on").length >= 4`)
	eventually("edges are as wide as their rate", `(() => { const w = [...document.querySelectorAll(".topo .edge")].map(e => +e.getAttribute("stroke-width")); return Math.max(...w) > 2 * Math.min(...w) })()`)
	eventually("drops by reason", `!!document.querySelector('[data-reason="martian_destination"]') && document.body.innerText.includes("never routed")`)
	eventually("problems, and what to do", `(() => { const c = [...document.querySelectorAll("section.card")].find(c => c.innerText.startsWith("Problems")); return c && ["martian_destination", "web asks for 172.29.0.77, and nobody answers", "no port of network default has this address"].every(w => c.innerText.includes(w)) && [...c.querySelectorAll(".command code")].some(x => x.textContent === "uvswitch port ls") })()`)
	eventually("tables and what is published", `document.body.innerText.includes("1,048,576") && document.body.innerText.includes("8080/tcp")`)
	eventually("rates", `/[MG]bit\/s/.test(document.getElementById("rate").textContent)`)
	if os.Getenv("UVSWITCH_SCREENSHOTS") != "" { // wait until the screenshot has a curve
		eventually("some history", `performance.now() > 9000`)
	}
	shot("web-light.png")
	var light, dark string
	do("colours", chromedp.Evaluate(`getComputedStyle(document.body).backgroundColor`, &light), scheme("dark"), chromedp.Evaluate(`getComputedStyle(document.body).backgroundColor`, &dark))
	if light == dark {
		t.Errorf("light and dark are both %s", light)
	}
	shot("web-dark.png")
	do("a port's page", chromedp.Click(`.topo a[data-port="web"]`, chromedp.ByQuery))
	eventually("the port", `location.hash === "#port/web" && document.body.innerText.includes("172.29.0.2/16") && document.body.innerText.includes(":275:ac1d:2/64") && document.body.innerText.includes("02:75:ac:1d:00:02")`)
	eventually("the live capture", `document.querySelectorAll(".tail > div").length > 5 && document.querySelector(".tail").textContent.includes("dropped: martian_destination")`)
	eventually("flows", `[...document.querySelectorAll("section.card")].some(c => c.innerText.startsWith("Flows") && c.innerText.includes("ESTABLISHED"))`)
	eventually("counters and rate", `document.querySelector(".chart path.rx") !== null && /[kMG]bit/.test(document.querySelector(".chart").textContent)`)
	eventually("a frame to look at", `(() => { const l = [...document.querySelectorAll(".tail > div")].find(l => l.textContent.includes("240.0.0.1")); l?.click(); return !!l })()`)
	eventually("its headers", `["Ethernet", "IPv4", "UDP"].every(l => [...document.querySelectorAll("details summary b")].some(b => b.textContent === l)) && document.body.innerText.includes("240.0.0.1")`)
	shot("web-port.png")
	do("light again", scheme("light"))
	do("the trace form", chromedp.Navigate(url+"#trace"), chromedp.WaitVisible("#tracer"), chromedp.SetValue("#trace-port", "web", chromedp.ByQuery),
		chromedp.SetValue("#trace-packet", "tcp > 10.1.0.2:443 S", chromedp.ByQuery), chromedp.Click("#tracer button", chromedp.ByQuery))
	eventually("the way of the packet", `document.querySelectorAll(".way").length === 2 && document.querySelectorAll(".way li").length > 10 && document.querySelector(".way li.end").innerText.includes("uplink")`)
	eventually("what NAT has changed", `[...document.querySelectorAll(".way li.end mark")].some(m => m.textContent.startsWith("10.1.0.1:") && m.title.startsWith("was 172.29.0.2:"))`)
	shot("web-trace.png")
	do("an example", chromedp.Click(`//button[text()="icmp > 1.1.1.1"]`))
	eventually("the example's way, and its address", `document.getElementById("trace-packet").value === "icmp > 1.1.1.1" && location.hash.includes("icmp") && document.querySelectorAll(".way").length === 2`)
	do("a filter of flows", chromedp.Navigate(url+"#flows?filter="+"-p+tcp+--port+web+5201"), chromedp.WaitVisible("#flow-filter"))
	eventually("flows as the container sees them", `(() => { const rows = [...document.querySelectorAll("tbody tr")]; return rows.length > 1 && rows.every(r => r.innerText.includes(":5201") && r.innerText.includes("→") && r.innerText.includes("tcp")) && rows.some(r => r.innerText.includes("bit/s")) })()`)
	eventually("its command", `document.querySelector(".command code").textContent === "uvswitch flow ls -p tcp --port web"`)
	shot("web-flows.png")
	eventually("a flow with a rate", `window.busy = [...document.querySelectorAll("tbody tr")].find(r => /[1-9][\d.]* Mbit/.test(r.innerText))?.querySelector('a[href^="#flow/"]')`)
	do("its page", chromedp.Evaluate(`location.hash = window.busy.getAttribute("href")`, nil))
	eventually("both directions and its rate", `location.hash.startsWith("#flow/") && ["original", "reply", "ESTABLISHED"].every(w => document.body.innerText.includes(w)) && document.querySelector(".chart path.rx") !== null`)
	eventually("its frames", `(() => { const l = [...document.querySelectorAll(".tail > div")]; return l.length > 5 && l.every(d => d.textContent.includes("5201")) })()`)
	eventually("its commands", `[...document.querySelectorAll(".command code")].some(c => c.textContent.startsWith("uvswitch flow del -p tcp -s 172.29.0."))`)
	eventually("its rate over time", `/Mbit/.test(document.querySelector(".chart").textContent) && document.querySelector(".chart path.rx")?.getAttribute("d").includes("L")`)
	shot("web-flow.png")
	do("the flows again", chromedp.Navigate(url+"#flows?filter="+"-p+tcp+--port+web+5201"), chromedp.WaitVisible("#flow-filter"))
	do("sort", chromedp.Click(`//button[text()="expires in"]`))
	eventually("the sorted view's address", `location.hash.includes("sort=expires")`)
	do("the keys", chromedp.Evaluate(`document.activeElement.blur()`, nil), chromedp.KeyEvent("?"))
	eventually("help", `document.getElementById("help").open`)
	do("away", chromedp.Evaluate(`document.getElementById("help").close()`, nil), chromedp.KeyEvent("g"), chromedp.KeyEvent("d"))
	eventually("by keys to the drops", `location.hash === "#drops"`)
	do("to the search", chromedp.KeyEvent("/"))
	eventually("the search has the focus", `document.activeElement.id === "search"`)
	do("an address", chromedp.Evaluate(`document.getElementById("search").value = ""`, nil), chromedp.SendKeys("#search", "172.29.0.3", chromedp.ByQuery))
	eventually("its port", `document.querySelector("#found a.on")?.innerText.includes("db") && !document.getElementById("found").hidden`)
	do("a reason", chromedp.Evaluate(`document.getElementById("search").value = ""`, nil), chromedp.SendKeys("#search", "martian_dest", chromedp.ByQuery))
	eventually("the reason", `document.querySelector("#found a.on")?.innerText.includes("martian_destination")`)
	do("open it", chromedp.SendKeys("#search", kb.Enter, chromedp.ByQuery))
	eventually("the drops of the reason", `location.hash === "#drops?reason=martian_destination" && document.getElementById("found").hidden`)
	do("flows by keys", chromedp.Evaluate(`document.activeElement.blur()`, nil), chromedp.KeyEvent("g"), chromedp.KeyEvent("f"), chromedp.WaitVisible("#flow-filter"), chromedp.KeyEvent("/"))
	eventually("the filter has the focus", `document.activeElement.id === "flow-filter"`)
	do("the theme", chromedp.Click("#theme", chromedp.ByQuery), chromedp.Click("#theme", chromedp.ByQuery))
	eventually("it is dark", `document.getElementById("theme").textContent === "dark" && getComputedStyle(document.body).backgroundColor === "rgb(14, 17, 23)"`)
	do("the system's again", chromedp.Click("#theme", chromedp.ByQuery), chromedp.Navigate(url+"#port/web"))
	eventually("the port's graph", `!!document.querySelector(".chart path.rx")`)
	do("the pointer on it", chromedp.Evaluate(`(() => { const c = document.querySelector(".chart"), b = c.getBoundingClientRect(); window.kept = c;
		c.dispatchEvent(new PointerEvent("pointermove", { clientX: b.right - 20, clientY: b.top + 20, bubbles: true })) })()`, nil))
	eventually("values of a moment", `/ago: from the port/.test(document.querySelector(".legend .at")?.textContent)`)
	do("the next polls", chromedp.Evaluate(`window.polled = document.querySelector("[data-key=\"card Counters\"] td.n").textContent`, nil))
	eventually("elements are kept while values change", `document.querySelector("[data-key=\"card Counters\"] td.n").textContent !== window.polled && window.kept.isConnected && !!document.querySelector(".legend .at")`)
	do("many ports", chromedp.Navigate(url+"#"), chromedp.Evaluate(`window.fetch = (ask => async (path, opt) => {
		const r = await ask(path, opt);
		if (path !== "v1/ports") return r;
		const all = await r.json(), one = all.find(p => p.name === "web");
		return new Response(JSON.stringify([...all, ...Array.from({ length: window.more }, (_, i) => ({ ...one, name: "c" + i }))]));
	})(window.fetch); window.more = 60`, nil))
	for _, color := range []string{"dark", "light"} {
		do(color, scheme(color))
		eventually("60 ports, each with a cell", `document.querySelectorAll(".topo a").length > 60 && document.querySelectorAll(".topo a").length < 80 && document.documentElement.scrollWidth <= innerWidth`)
		shot("web-60-" + color + ".png")
	}
	do("more ports", chromedp.Evaluate(`window.more = 500`, nil))
	eventually("each has a cell, and the table pages", `document.querySelectorAll(".topo a").length > 500 && document.body.innerText.includes("1 to 100")`)
	shot("web-500.png")
	do("the next page", chromedp.Click(`//button[text()="next"]`))
	eventually("the second hundred", `document.body.innerText.includes("101 to 200")`)
	for _, width := range []int64{820, 390} {
		do("a narrow screen", chromedp.EmulateViewport(width, 844), chromedp.Navigate(url+"#flows"), chromedp.Reload())
		for _, page := range []string{"drops", "flows", "trace", "events", "port/web", ""} {
			do(page, chromedp.Navigate(url+"#"+page))
			eventually(fmt.Sprintf("page %q fits %d pixels", page, width), `document.querySelectorAll("main .card").length > 0 && document.documentElement.scrollWidth <= innerWidth`)
		}
	}
	shot("web-phone.png")
	do("wide again", chromedp.EmulateViewport(1360, 900))
	do("the drops of a port", chromedp.Navigate(url+"#drops?port=web&reason=martian_destination"))
	eventually("the last drops", `(() => { const rows = [...document.querySelectorAll("tbody tr")]; return rows.length > 3 && rows.every(r => r.innerText.includes("martian_destination") && r.innerText.includes("240.0.0.1")) })()`)
	eventually("drops over time", `document.querySelector(".chart path.c0") !== null`)
	shot("web-drops.png")
	do("from a drop to its trace", chromedp.Click(`tbody tr a[href^="#trace"]`, chromedp.ByQuery))
	eventually("why it was dropped", `document.querySelector(".way li.end")?.innerText.includes("martian_destination")`)
	do("a wrong packet", chromedp.SetValue("#trace-packet", "tcp what", chromedp.ByQuery), chromedp.Click("#tracer button", chromedp.ByQuery))
	eventually("an error for people", `document.querySelector("#way .error")?.textContent.length > 20`)
	for page, want := range map[string]string{"drops": "To do:", "flows": "ESTABLISHED", "names": "web.default.uvs.internal", "policies": "Names that were refused", "events": "port web added", "port/nobody": "Port nobody does not exist"} {
		do(page, chromedp.Navigate(url+"#"+page))
		eventually(page, fmt.Sprintf(`document.body.innerText.includes(%q)`, want))
	}
	// Behind a reverse proxy, below a path, with TLS.
	target, err := neturl.Parse("http://" + webAddr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewTLSServer(http.StripPrefix("/net", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1}))
	defer proxy.Close()
	defer proxy.CloseClientConnections() // the live capture has no end
	do("by a proxy", chromedp.Navigate(proxy.URL+"/net/#token="+token), chromedp.WaitVisible(".topo"))
	eventually("it is live there", `document.getElementById("live").textContent === "live" && location.pathname === "/net/"`)
	do("a trace there", chromedp.Navigate(proxy.URL+"/net/#trace?in=web&packet=icmp+%3E+1.1.1.1"))
	eventually("the way", `document.querySelectorAll(".way li").length > 5`)
	do("a port there", chromedp.Navigate(proxy.URL+"/net/#port/web"))
	eventually("the live capture there", `document.querySelectorAll(".tail > div").length > 5`)
	mu.Lock()
	defer mu.Unlock()
	for _, c := range complaints {
		if !strings.Contains(c, "400 (Bad Request)") { // expected for the invalid packet
			t.Errorf("the browser complains: %s", c)
		}
	}
}

var metricName = regexp.MustCompile(`uvswitch_[a-z_]+`)

// TestMetrics checks the metrics in Prometheus' text format, over loopback and over a unix socket. They must contain no
// addresses.
func TestMetrics(t *testing.T) {
	Need(t, "curl")
	b := New(t, "--metrics", "127.0.0.1:9101")
	containers(b)
	b.CLI("publish", "add", "8080:80", "--port", "web")
	ping(b, "web", "10.1.0.2")
	b.Sh("web", "echo x | socat - udp-sendto:240.0.0.1:9")
	text := b.Sh("host", "curl -s http://127.0.0.1:9101/metrics")
	contains(t, text, "# TYPE uvswitch_port_bytes_total counter", `uvswitch_port_packets_total{direction="rx",port="web"}`, `uvswitch_drops_total{reason="martian_destination"} 1`,
		`uvswitch_drops_total{reason="tx_refused"} 0`, `uvswitch_dhcp_leases{network="default"} 0`, `uvswitch_port_up{kind="tap",network="default",port="web"} 1`, `uvswitch_table_entries{table="flows"}`, "uvswitch_uplink_up", "uvswitch_uplink_ipv6_up 0", `uvswitch_flows{family="ipv6"} 0`, "go_goroutines", "process_resident_memory_bytes")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "uvswitch_") && (strings.Contains(line, "172.29") || strings.Contains(line, "02:75")) {
			t.Errorf("an address is a label: %s", line)
		}
	}
	var s api.Stats
	b.JSON(&s, "stats")
	if !strings.Contains(text, fmt.Sprintf(`uvswitch_drops_total{reason="martian_destination"} %d`, s.Drops["martian_destination"])) {
		t.Error("stats and metrics differ")
	}
	if got := b.Sh("host", "curl -s -o /dev/null -w '%{http_code}' -H 'Host: evil.example' http://127.0.0.1:9101/metrics"); got != "403" {
		t.Errorf("another host's name: %s", got)
	}
	b.Stop()
	path := filepath.Join(b.dir, "metrics.sock")
	page := filepath.Join(b.dir, "page.sock")
	b.Start("--metrics", path, "--web", "unix:"+page)
	contains(t, b.Sh("host", "curl -s --unix-socket "+path+" http://localhost/metrics"), "uvswitch_start_time_seconds")
	contains(t, b.Sh("host", "curl -s --unix-socket "+page+" http://localhost/"), "<title>")
	for _, socket := range []string{path, page} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("%s: %v, %v; only root and its group may connect", socket, info.Mode(), err)
		}
		b.Sh("host", "pids=; for i in $(seq 40); do curl -s -o /dev/null --unix-socket "+socket+" http://localhost/ & pids=\"$pids $!\"; done; wait $pids")
	}
	if out, err := b.TrySh("host", "curl -sS --unix-socket "+page+" -H 'Sec-Fetch-Site: cross-site' http://localhost/ -o /dev/null -w '%{http_code}'"); err != nil || out != "403" {
		t.Errorf("another site: %v: %s", err, out)
	}

	// Every metric that the dashboard and the alerts use is exported.
	var reasons []api.Reason
	b.JSON(&reasons, "reasons")
	exported := map[string]bool{}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "{")
		name, _, _ = strings.Cut(name, " ")
		exported[name] = true
	}
	for _, file := range []string{"grafana-dashboard.json", "alerts.yml"} {
		raw, err := os.ReadFile(filepath.Join("../../docs/monitoring", file))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(raw) {
			t.Errorf("%s is no JSON", file)
		}
		names := metricName.FindAllString(string(raw), -1)
		if len(names) < 4 {
			t.Errorf("%s asks for %v only", file, names)
		}
		for _, m := range regexp.MustCompile(`reason(?:=|!=|=~)\\?"([^"\\]+)`).FindAllStringSubmatch(string(raw), -1) {
			for _, name := range strings.Split(m[1], "|") {
				known := func(i api.Reason) bool { ok, _ := regexp.MatchString("^(?:"+name+")$", i.Name); return ok }
				if !slices.ContainsFunc(reasons, known) {
					t.Errorf("%s speaks of reason %s, which there is not", file, name)
				}
			}
		}
		for _, n := range names {
			if !exported[n] {
				t.Errorf("%s asks for %s, which is not exported", file, n)
			}
		}
	}
}
