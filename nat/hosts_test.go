package nat

import (
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
)

// TestHosts checks what counts as the host's: addresses and prefixes that touch, overlap and contain each other, and for a while what has left.
func TestHosts(t *testing.T) {
	n := New(Options{})
	own := []frame.Addr{frametest.Addr("198.51.100.1"), frametest.Addr("10.60.0.77")}
	rules := Rules{Own: own, Local: []netip.Prefix{
		netip.MustParsePrefix("10.60.1.0/24"), netip.MustParsePrefix("10.60.0.0/24"), netip.MustParsePrefix("10.60.0.0/30"), netip.MustParsePrefix("255.255.255.255/32"),
	}}
	n.Update(rules)
	check := func(want bool, addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			if n.Owns(netip.MustParseAddr(a)) != want {
				t.Errorf("Owns(%s) is %t", a, !want)
			}
		}
	}
	check(true, "198.51.100.1", "10.60.0.0", "10.60.0.77", "10.60.0.255", "10.60.1.0", "10.60.1.255", "255.255.255.255")
	check(false, "0.0.0.0", "198.51.100.0", "198.51.100.2", "10.59.255.255", "10.60.2.0", "255.255.255.254")
	if why := n.UseAddr(frametest.Addr("10.60.1.9").Netip()); why != frame.None {
		t.Errorf("flows may not leave by an address of a prefix: %s", why)
	}
	rules.Local = nil
	n.Update(rules)
	check(true, "10.60.1.9", "10.60.0.77")
	if why := n.UseAddr(frametest.Addr("10.60.1.10").Netip()); why == frame.None {
		t.Error("flows may leave by an address that has left the host")
	}
	n.ForgetAddrs(graceTime - 1)
	check(true, "10.60.1.9")
	n.ForgetAddrs(graceTime + 2)
	check(false, "10.60.1.9")
	rules.Local = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	n.Update(rules)
	check(true, "0.0.0.0", "8.8.8.8", "255.255.255.255")
}

// TestAddressesComeAndGo checks that the place of an address is given to another one when nothing is published there and no flow uses it.
func TestAddressesComeAndGo(t *testing.T) {
	n := New(Options{})
	rules := Rules{Own: []frame.Addr{frametest.Addr("198.51.100.1")}, Local: []netip.Prefix{netip.MustParsePrefix("10.60.0.0/16")}}
	base := frametest.Addr("10.60.0.0")
	for i := range frame.Addr(3 * MaxAddrs) {
		rules.Publish = []*Publish{{ID: uint32(i + 1), Proto: frame.TCP, HostAddr: base + i, Lo: 80, Hi: 80, Target: 1, Port: 80, RuleCount: &RuleCount{}}}
		n.Update(rules)
		if why := n.UseAddr((base + i).Netip()); why != frame.None {
			t.Fatalf("address %d: %s", i, why)
		}
	}
	rules.Publish = nil
	for i := range frame.Addr(MaxAddrs) {
		rules.Publish = append(rules.Publish, &Publish{ID: uint32(i + 1000), Proto: frame.TCP, HostAddr: base + 1000 + i, Lo: 80, Hi: 80, Target: 1, Port: 80, RuleCount: &RuleCount{}})
	}
	n.Update(rules)
	for i := range frame.Addr(MaxAddrs - 1) {
		if why := n.UseAddr((base + 1000 + i).Netip()); why != frame.None {
			t.Fatalf("published address %d: %s", i, why)
		}
	}
	if why := n.UseAddr((base + 1000 + MaxAddrs - 1).Netip()); why != frame.TooManySources {
		t.Errorf("one more: %v", why)
	}
	if n.addrs.find(frametest.Addr("198.51.100.1")) == nil {
		t.Error("the default source has lost its place")
	}
}
