// Command bench measures uvswitch beside the kernel's own path, a bridge with MASQUERADE and DNAT, by iperf3
// through network namespaces. The systems take turns in every round, so that what else the machine does meets both;
// what counts is the ratio of the medians.
//
// The micro benchmarks of parsing, tables, translation and the whole way of a frame are in micro_test.go.
package main
