// Package uplink is the way out of the containers' networks and back: two small BPF programs, by tcx or, before
// Linux 6.6, as clsact filters, that lead frames between the host's own device and a TAP of the dataplane. The
// host's stack, its netfilter rules and its sysctls are neither used nor changed.
//
//	outside <--> eth0 --ingress: ours? redirect--> uvs-up --read--> dataplane
//	outside <--> eth0 <--redirect_neigh :ingress-- uvs-up <-write-- dataplane
//
// It also has the program that keeps the host's stack from hearing what arrives on a plugged device, as a bridge
// does for its ports.
//
// The BPF programs are assembled in Go (ingress.go), each part beside the C that it would be. Compiled C (bpf2go) would need clang for
// everyone who changes a line, or a generated object in the repository that nobody can review; the programs are small, and the verifier
// and the tests in namespaces check them.
//
// Sources: linux kernel/bpf/tcx.c, net/core/filter.c (bpf_redirect_neigh), tc-bpf(8).
package uplink
