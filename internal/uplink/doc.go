// Package uplink is the way out of the containers' networks and back: two small BPF programs, by tcx or as clsact filters, that lead
// packets between the host's devices and a TAP of the data plane. The host's routing decides where a packet leaves; its netfilter rules
// and its sysctls are neither used nor changed.
//
//	outside <--> eth0, wg0, ... --ingress: way in----> uvs-up --read--> data plane
//	outside <--> eth0, wg0, ... <--way out: ingress--- uvs-up <-write-- data plane
//
// It also has the program that keeps the host's stack from hearing what arrives on a plugged device, as a bridge
// does for its ports.
//
// The BPF programs are assembled in Go (bpf_out.go, bpf_in.go), each part beside the C that it would be. Compiled C (bpf2go) would need
// clang for everyone who changes a line, or a generated object in the repository that nobody can review; the programs are small, and the
// verifier and the tests in namespaces check them.
//
// Sources: linux kernel/bpf/tcx.c, net/core/filter.c (bpf_fib_lookup, bpf_redirect_neigh), tc-bpf(8).
package uplink
