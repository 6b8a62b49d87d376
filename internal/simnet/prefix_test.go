package simnet

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
)

// The example of the RFC, and the rules for its special cases.
func TestRFC6296_3_AddressMapping(t *testing.T) {
	for _, x := range []struct{ from, to, in, out string }{
		{"fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"},
		{"2001:db8:1::/48", "fd01:203:405::/48", "2001:db8:1:d550::1234", "fd01:203:405:1::1234"},
		{"fd01:203:405:1::/64", "fd01:203:405:1::/64", "fd01:203:405:1::1234", "fd01:203:405:1::1234"},       // routed: nothing changes
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1:ffff::1", "2001:db8:1:1:ffff:d54f:0:1"}, // 3.5: a word of ffff is passed over
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1:ffff:ffff:ffff:ffff", ""},               // no word is left
		{"fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:ffff::1", ""},                                 // 3.4: nor is this subnet
		{"fd01:203:405:1::/64", "2001:db8:1:1::/64", "fd01:203:405:1::", ""},                                 // 3.7: the anycast address of all routers
	} {
		got, ok := nat.TranslatePrefix(netip.MustParseAddr(x.in), netip.MustParsePrefix(x.from), netip.MustParsePrefix(x.to))
		if x.out == "" && ok || x.out != "" && got.String() != x.out {
			t.Errorf("%s from %s to %s: %s %v, want %s", x.in, x.from, x.to, got, ok, x.out)
		}
	}
}

// The checksum stays, and the way back leads to the same address (RFC 6296, 3.1 and 3.6). A word of 0 and one of ffff are one number: only
// one of them comes back.
func TestRFC6296_3_6_ChecksumNeutral(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		return frame.Addr6{Hi: rng.Uint64()>>8 | 0x20<<56, Lo: rng.Uint64()}.Netip()
	}
	sum := func(a netip.Addr) uint16 { return frame.Sum(a.AsSlice(), 0) % 0xffff }
	for range 100000 {
		bits := []int{40, 48, 52, 56, 64}[rng.IntN(5)]
		from, to := netip.PrefixFrom(addr(), bits).Masked(), netip.PrefixFrom(addr(), bits).Masked()
		a := addr().As16()
		in := netip.AddrFrom16(a)
		p, b := from.Addr().As16(), in.As16()
		for i := range b {
			host := byte(0xff >> max(0, min(8, bits-8*i)))
			b[i] = p[i] | b[i]&host
		}
		in = netip.AddrFrom16(b)
		if bits <= 48 && b[6] == 0xff && b[7] == 0xff {
			continue // 3.4: such a subnet is not translated
		}
		out, ok := nat.TranslatePrefix(in, from, to)
		if !ok || !to.Contains(out) || sum(in) != sum(out) {
			t.Fatalf("%s from %s to %s: %s %v, sums %x and %x", in, from, to, out, ok, sum(in), sum(out))
		}
		if back, ok := nat.TranslatePrefix(out, to, from); !ok || back != in {
			t.Fatalf("%s became %s, and came back as %s %v", in, out, back, ok)
		}
	}
}
