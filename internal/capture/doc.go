// Package capture shows what becomes of frames: `uvswitch dump` and `uvswitch monitor` are made of its records.
//
// It is a dataplane.Observer, installed only while somebody captures: off, it costs a comparison per batch. A worker
// runs the filter, copies what is asked for into a ring of its own, and never waits: a slow reader loses records,
// counted. What a frame looked like before and after translation are two records, on the port it came by and on the
// one it left by, with one packet number.
//
// The way of a record: observer.go sees the frame, record.go is its shape in a ring, hub.go hands it to the reader,
// pcapng.go writes it.
//
// Source: the pcapng format, draft-ietf-opsawg-pcapng.
package capture
