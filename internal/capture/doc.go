// Package capture records what the switch does with frames; `uvswitch dump` and `uvswitch monitor` show its records.
//
// It implements dataplane.Observer, which is installed only while a capture runs: without one, it costs a comparison per
// batch. A worker runs the filter, copies the selected frames into its own ring, and never waits. If the reader is slow,
// records are lost and counted. A frame before and after translation is two records with the same packet number: one on
// the port that the frame came by, one on the port that it leaves by.
//
// The path of a record: observer.go sees the frame, record.go defines the record's layout in a ring, hub.go passes it to
// the reader, pcapng.go writes it.
//
// Source: the pcapng format, draft-ietf-opsawg-pcapng.
package capture
