// Command bench compares uvswitch with its alternatives: the kernel's bridge with MASQUERADE and DNAT, Open vSwitch's
// user-space datapath, VDE, pasta, slirp4netns, gvisor-tap-vsock, and a bare forwarder that shows what the machine allows
// (limit). Each system connects its own namespaces. In every round the systems take turns, so that other load on the
// machine affects all of them. The result is the ratio of the medians.
//
// The systems are in systems.go and peers.go, the measurements in measure.go, the results in report.go and plot.go.
// micro.go measures the cost of a frame in memory, without the kernel.
package main
