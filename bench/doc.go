// Command bench measures uvswitch beside what people would use instead: the kernel's bridge with MASQUERADE and DNAT,
// Open vSwitch's user-space datapath, VDE, pasta, slirp4netns, gvisor-tap-vsock, and a bare forwarder that shows what
// the machine allows (limit). Each system joins namespaces of its own; all take turns in every round, so that what
// else the machine does meets all of them. What counts is the ratio of the medians.
//
// A system is in systems.go or peers.go; what is measured, in measure.go; what comes of it, in report.go and plot.go.
// The cost of a frame in memory, without a kernel, is in micro.go.
package main
