package simnet

import (
	"errors"
	"strings"
	"testing"
)

// onlyIPv4 are tests and scenarios whose outcome is another one over IPv6, by name, and why.
var onlyIPv4 = map[string]string{
	"TestScenarios/basics/ttl-and-routes":            "IPv6 has no broadcast",
	"TestScenarios/rfc1812/5.3.5-directed-broadcast": "IPv6 has no broadcast",
	"TestScenarios/behaviour/host-inbound":           "IPv6 has no broadcast",
	"TestScenarios/rfc1812/5.3.7-martians":           "IPv6 has no broadcast",
	"TestScenarios/behaviour/path-mtu":               "no MTU is below 1280",
	"TestScenarios/vpp/mss-clamping":                 "no MTU is below 1280",
	"TestScenarios/rfc1812/4.3.2.7-no-errors-about":  "a later fragment is answered, too (RFC 4443, 2.4 (e))",
	"TestScenarios/rfc1812/5.2.6-fragmentation":      "routers do not fragment",
}

// alsoOverIPv6 plays a scenario over IPv6: its outcome must be that of IPv4. The race detector has seen the same code by then.
func alsoOverIPv6(t *testing.T, play func() (*Net, error)) {
	t.Helper()
	if underRace {
		return
	}
	n, err := play()
	var u untranslatable
	why := onlyIPv4[t.Name()]
	switch {
	case errors.As(err, &u):
		t.Log(err)
	case err != nil && why == "":
		t.Errorf("over IPv6: %v\nall frames (-> in, <- out):\n%s\ncaptured in %s", err, strings.Join(n.trace, "\n"), save(t, n))
	case err == nil && why != "":
		t.Errorf("over IPv6 the outcome is the same, and not another one (%s)", why)
	}
}
