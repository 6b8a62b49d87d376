package cni

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// portName returns the name of a port. It depends only on the kind, the configuration, the container and the device, and contains
// the 12 characters of the container's ID that runtimes print.
func portName(kind, conf, container, ifname string) string {
	return prefixOf(kind, conf) + container[:min(len(container), 12)] + "-" + digest(container, ifname)[:8]
}

// prefixOf returns the common prefix of the port names of one configuration.
func prefixOf(kind, conf string) string { return kind + "-" + digest(conf)[:12] + "-" }

func digest(parts ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
}
