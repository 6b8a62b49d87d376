// Package dataplane runs the stages of switch, router and nat over batches of frames. It alone knows all stages and their order: the
// table in pipeline.go.
//
// A worker reads a batch from its Poller and carries it to its end. The slow path answers what is rare (ARP, pings to the gateway, ICMP
// errors) and ages the tables. Where each frame ended is counted here:
// received + originated + replicated = transmitted + dropped + consumed.
package dataplane
