package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// askNames asks for the addresses of n names of the network's own from c1, by dnsperf, and returns how many questions are answered in a second. On
// the kernel's path, dnsmasq answers at the bridge's address.
func askNames(ctx context.Context, o options, s *system, n int) (float64, error) {
	name := func(i int) string { return "name" + strconv.Itoa(i) }
	var hosts, questions strings.Builder
	for i := range n {
		fmt.Fprintf(&hosts, "172.29.77.77 %s.default.uvs.internal\n", name(i))
		fmt.Fprintf(&questions, "%s.default.uvs.internal A\n", name(i))
	}
	known, asked := filepath.Join(s.dir, "hosts"), filepath.Join(s.dir, "questions")
	if err := os.WriteFile(asked, []byte(questions.String()), 0o600); err != nil {
		return 0, err
	}
	if s.name == uvswitchName {
		c := api.NewClient(s.socket())
		for i := range n {
			a := api.NameAdd{Name: name(i), Address: "172.29.77.77"}
			if err := c.Do(ctx, "POST", "/names", a, nil); err != nil && !strings.Contains(err.Error(), "already") {
				return 0, err
			}
		}
	} else {
		if err := os.WriteFile(known, []byte(hosts.String()), 0o644); err != nil {
			return 0, err
		}
		server := s.command(ctx, "host", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--addn-hosts="+known, "--pid-file=", "--user=root")
		if err := server.Start(); err != nil {
			return 0, err
		}
		defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	}
	out, err := s.command(ctx, "c1", "dnsperf", "-s", "172.29.0.1", "-d", asked, "-l", strconv.Itoa(o.seconds), "-c", "8", "-q", "100").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	m := answeredRate.FindSubmatch(out)
	if m == nil || !strings.Contains(string(out), "Queries lost:         0 ") {
		return 0, fmt.Errorf("questions were lost: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

var answeredRate = regexp.MustCompile(`Queries per second: +([0-9.]+)`)
