package docker

import (
	"errors"
	"strconv"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// A refusal is why a value is not taken, if there is more to say than that it is not valid.
type refusal string

func (r refusal) Error() string { return string(r) }

// An option is an -o of `docker network create`.
type option struct {
	names []string // the first is ours, the others are names of Docker's bridge driver
	set   func(n *network, value string) error
}

var networkOptions = []option{
	{[]string{"mtu", "com.docker.network.driver.mtu"}, func(n *network, v string) (err error) {
		if n.Add.MTU, err = strconv.Atoi(v); n.Add.MTU <= 0 {
			err = strconv.ErrRange
		}
		return err
	}},
	{[]string{"icc", "com.docker.network.bridge.enable_icc"}, func(n *network, v string) (err error) {
		n.ICC, err = strconv.ParseBool(v)
		return err
	}},
	{[]string{"isolated"}, func(n *network, v string) (err error) {
		n.Add.Isolated, err = strconv.ParseBool(v)
		return err
	}},
	{[]string{"tenant"}, func(n *network, v string) error { n.Tenant = v; return nil }},
	{[]string{"mapping"}, func(n *network, v string) error { n.Add.Mapping = v; return nil }},
	{[]string{"filtering"}, func(n *network, v string) error { n.Add.Filtering = v; return nil }},
	{[]string{"nat6", "com.docker.network.bridge.gateway_mode_ipv6"}, func(n *network, v string) error {
		switch v { // Docker's words
		case "nat":
			v = "masquerade"
		case "isolated":
			if v = ""; !n.Add.Internal {
				return refusal("needs --internal, as in Docker's bridge driver")
			}
		case "nat-unprotected":
			return refusal("does not exist here: behind the host's address, the outside reaches published ports only; use nat6=routed with in6=any")
		}
		n.Add.NAT6 = v
		return nil
	}},
	{[]string{"in6"}, func(n *network, v string) error { n.Add.In6 = v; return nil }},
	{[]string{"ra"}, func(n *network, v string) error { n.Add.RA = v; return nil }},
	{[]string{"nd-proxy"}, func(n *network, v string) (err error) {
		n.Add.NDProxy, err = strconv.ParseBool(v)
		return err
	}},
	{[]string{"dns"}, func(n *network, v string) error { n.Add.DNS = v; return nil }},
	{[]string{"dns-servers"}, func(n *network, v string) error { n.Add.DNSServers = api.Words(v); return nil }},
	{[]string{"domain"}, func(n *network, v string) error { n.Add.Domain = v; return nil }},
	{[]string{"policy"}, func(n *network, v string) error { n.Add.Policies = api.Words(v); return nil }},
	{[]string{"protocols"}, func(n *network, v string) error {
		if n.Add.Protocols = api.Words(v); v == "" {
			return errors.New("empty")
		}
		return nil
	}},
}
