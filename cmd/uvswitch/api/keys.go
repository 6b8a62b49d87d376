package api

import (
	"regexp"
	"strings"
)

// keys are the keys of the API, of the configuration file and of a CNI configuration, by the option of the command line that says the same.
var keys = map[string]string{
	"--subnet": "subnet", "--subnet6": "subnet6", "--gateway": "gateway", "--gateway6": "gateway6", "--nat6": "nat6", "--in6": "in6", "--ra": "ra",
	"--nd-proxy": "ndProxy", "--mtu": "mtu", "--internal": "internal", "--isolated": "isolated", "--mapping": "mapping", "--filtering": "filtering",
	"--protocols": "protocols", "--network": "network", "--netns": "netns", "--ifname": "ifname", "--device": "device", "--qemu-stream": "qemu_stream",
	"--qemu-dgram": "qemu_dgram", "--vde": "vde", "--ip": "ip", "--ip6": "ip6", "--mac": "mac", "--offload": "offload", "--no-route": "no_route",
	"--container": "container", "--tenant": "tenant", "--from": "from",
	"--dhcp": "dhcp", "--dns": "dns", "--dns-servers": "dnsServers", "--dhcp-range": "dhcpRange", "--dhcp-lease": "dhcpLease", "--dhcp-routes": "dhcpRoutes", "--domain": "domain", "--names": "names", "--aliases": "aliases", "--policy": "policies",
}

// Key is the key that says the same as an option of the command line, such as --nd-proxy; empty if there is none.
func Key(option string) string { return keys[option] }

// InKeys returns err with options of the command line, such as --nd-proxy, written as keys: ndProxy. err may be nil.
func InKeys(err error) error {
	if err == nil {
		return nil
	}
	return inKeys{err}
}

type inKeys struct{ error }

func (e inKeys) Unwrap() error { return e.error }

func (e inKeys) Error() string { return ReplaceOptions(e.error.Error(), keys) }

var optionNames = regexp.MustCompile(`(^|[\s(])--[a-z0-9]+(-[a-z0-9]+)*`)

// ReplaceOptions returns a message with options of the command line replaced by words. Commands, which stand between backquotes, and other
// options stay as they are.
func ReplaceOptions(message string, words map[string]string) string {
	parts := strings.Split(message, "`")
	for i := 0; i < len(parts); i += 2 {
		parts[i] = optionNames.ReplaceAllStringFunc(parts[i], func(found string) string {
			at := strings.Index(found, "--")
			if word, ok := words[found[at:]]; ok {
				return found[:at] + word
			}
			return found
		})
	}
	return strings.Join(parts, "`")
}
