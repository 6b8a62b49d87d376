// Package dataplane runs the stages of switch, router and nat over batches of frames. It is the only package that
// knows them all and their order, which stands in pipeline.go.
//
// A worker reads a batch from its Poller and carries it to its end; the housekeeper answers what is rare (ARP,
// pings to the gateway, ICMP errors) and lets tables age. What a frame costs and where it ended is counted here:
// received + originated + replicated = transmitted + dropped + consumed.
package dataplane
