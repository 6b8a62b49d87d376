package cni

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// portName is the same for the same device of the same container in the same configuration, and has as much of the container's ID as
// runtimes print.
func portName(kind, conf, container, ifname string) string {
	return prefixOf(kind, conf) + container[:min(len(container), 12)] + "-" + digest(container, ifname)[:8]
}

// prefixOf is how the ports of one configuration begin.
func prefixOf(kind, conf string) string { return kind + "-" + digest(conf)[:12] + "-" }

func digest(parts ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
}
