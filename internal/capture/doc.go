// Package capture copies frames as they come in and go out of ports, for `uvswitch dump`. It is a Poller before a
// worker's own, put in only while somebody captures: off, it costs nothing.
//
// A worker copies what is asked for into a ring of its own and never waits: a slow reader loses records, counted.
// What a frame looked like before and after translation are two records, on the port it came by and on the one it
// left by.
//
// Source: the pcapng format, draft-ietf-opsawg-pcapng.
package capture
