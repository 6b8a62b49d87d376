package simnet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// overIPv6 are the tests that TestOverIPv6 runs once more.
var overIPv6 = []func(*testing.T){
	TestRFC4787_REQ1_EndpointIndependentMapping,
	TestRFC4787_REQ3_NoOverloading,
	TestRFC4787_REQ3a_PrivilegedPorts,
	TestRFC4787_REQ4_Parity,
	TestRFC4787_REQ14_Fragments,
	TestRFC5382_REQ1_EndpointIndependentMapping,
	TestRFC5382_REQ7_NoOverloading,
	TestRFC7857_9_UnpredictablePorts,
	TestRFC6888_REQ4_LimitsPerSubscriber,
	TestRFC6888_REQ8_PortsRest,
	TestBehaviour_NeverUntranslated,
	TestBehaviour_TwoQuestionsAtOnce,
	TestBehaviour_OverlappingFragments,
	TestBehaviour_SCTP,
	TestBehaviour_EvictionIsFair,
	TestBehaviour_SharedPorts,
	TestBehaviour_ForgedErrors,
	TestBehaviour_FlowToItself,
	TestBehaviour_EaseFindsWhoMayGo,
	TestRFC1812_4_3_2_8_RateLimit,
	TestRFC5227_2_1_Probe,
	TestRFC1122_2_3_2_NeighborQueue,
	TestBehaviour_ErrorsFromARouterInside,
	TestLinux_conntrack_clash,
	TestOVS_SimpleSNAT,
	TestVPP_SessionLimit,
	TestForgedSYNs,
	TestForgedQuestions,
	TestEndedFlowsLeaveRoom,
	TestErrorsForPathMTU,
	TestPairsFull,
	TestPairsAreShared,
	TestNeighborsOfOnePort, TestNeighborOfAnotherPort,
	TestNeighborsOfManyPorts, TestErrorsOfManyPorts, TestWaitingFramesOfPortThatIsOff,
	TestStorms,
	TestFragmentsShareTheQueue,
	TestWaitingFragmentsCostNothing,
	TestLastPortIsNotTheGateway,
	TestWaitingFramesAreAccounted,
}

// notOverIPv6 are tests that play a scenario, and whose subject IPv6 does not have.
var notOverIPv6 = map[string]string{
	"TestRFC1812_5_2_2_Header": "the header of IPv4", "TestRFC826_Order": "ARP", "TestRFC5227_2_4_Defend": "ARP; what claims an address of the gateway is dropped", "TestFastEqualsSlow": "it sends both itself", "TestNeighborsShare": "ARP", "TestOneFrameIsNoStorm": "a broadcast", "TestLongPingsLeaveRoom": "ICMP of IPv4; the queue knows no family", "TestTraceOfReopened": "it sends the last frame itself; NAT has one code for both",
}

// TestOverIPv6 runs the tests that play a scenario once more, with the packets translated to IPv6.
func TestOverIPv6(t *testing.T) {
	if underRace {
		t.Skip("the race detector has seen the same code")
	}
	listed := map[string]bool{}
	for _, test := range overIPv6 {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		name = name[strings.LastIndex(name, ".")+1:]
		listed[name] = true
		t.Run(name, test)
	}
	files, _ := filepath.Glob("*_test.go")
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") || !plays(f) {
				continue
			}
			if _, never := notOverIPv6[f.Name.Name]; never == listed[f.Name.Name] {
				t.Errorf("%s: %s must be in overIPv6 or in notOverIPv6", file, f.Name.Name)
			}
		}
	}
}

// plays reports whether a function calls play.
func plays(f *ast.FuncDecl) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "play" {
				found = true
			}
		}
		return true
	})
	return found
}

// onlyIPv4 are scenarios whose outcome is another one over IPv6, by name: from which line on, and why.
var onlyIPv4 = map[string]struct{ line, why string }{
	"TestScenarios/basics/ttl-and-routes":            {"line 23", "IPv6 has no broadcast"},
	"TestScenarios/rfc1812/5.3.5-directed-broadcast": {"line 14", "IPv6 has no broadcast"},
	"TestScenarios/behaviour/host-inbound":           {"line 63", "IPv6 has no broadcast"},
	"TestScenarios/rfc1812/5.3.7-martians":           {"line 122", "IPv6 has no broadcast"},
	"TestScenarios/behaviour/path-mtu":               {"line 25", "no MTU is below 1280"},
	"TestScenarios/vpp/mss-clamping":                 {"line 11", "no MTU is below 1280"},
	"TestScenarios/rfc1812/4.3.2.7-no-errors-about":  {"line 11", "a later fragment is answered, too (RFC 4443, 2.4 (e))"},
	"TestScenarios/rfc1812/5.2.6-fragmentation":      {"line 11", "routers do not fragment"},
	"TestScenarios/rfc1812/5.3.13-source-routes":     {"line 10", "IPv6 has no options in its header; see TestRFC8200_4_4_RoutingHeader"},
	"TestScenarios/openvswitch/fragments":            {"line 15", "the translation to IPv6 cannot sum an ICMP message in fragments"},
	"TestScenarios/rfc5508/req-3-checks":             {"line 14", "IPv6 has no header checksum"},
}

// alsoOverIPv6 plays a scenario over IPv6: its outcome must be that of IPv4. The race detector has seen the same code by then.
func alsoOverIPv6(t *testing.T, play func() (*Net, error)) {
	t.Helper()
	if underRace {
		return
	}
	n, err := play()
	only := onlyIPv4[t.Name()]
	switch {
	case err != nil && (only.why == "" || !strings.HasPrefix(err.Error(), only.line+":")):
		t.Errorf("over IPv6: %v (expected: %q)\nall frames (-> in, <- out):\n%s\ncaptured in %s", err, only.line, strings.Join(n.trace, "\n"), save(t, n))
	case err == nil && only.why != "":
		t.Errorf("over IPv6 the outcome is the same, and not another one (%s)", only.why)
	}
}
