package cni

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// freeSubnet returns the first of 10.89.0.0/24 to 10.89.255.0/24 that overlaps no network of the switch. podman chooses in the
// same way.
func freeSubnet(ctx context.Context, sw *api.Client) (netip.Prefix, error) {
	nets, err := sw.Networks(ctx)
	if err != nil {
		return netip.Prefix{}, err
	}
	for i := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 89, byte(i), 0}), 24)
		if !slices.ContainsFunc(nets, func(n api.Network) bool {
			o, err := netip.ParsePrefix(n.Subnet)
			return err == nil && o.Overlaps(p)
		}) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no /24 subnet of 10.89.0.0/16 is free; set a subnet with --subnet")
}
