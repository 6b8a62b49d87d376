// Package vswitch is a learning Ethernet switch. It guards ports, learns source MACs, and decides for each frame of a
// batch: to one port, flooded, to the gateway, or dropped for a reason. Each network has its own forwarding database
// (FDB).
//
// The folder is named switch after its content. The package is not, because switch is a Go keyword.
//
// The package writes no frame, knows no IP routing and no address translation, starts no goroutine and reads no
// clock. Readers never lock; see FDB for writers.
//
// Sources: IEEE 802.1D-2004, 7.7 to 7.9 (learning, ageing, forwarding); 802.1Q-2018, 8.6.3 (addresses that are not
// forwarded); linux net/bridge/br_input.c and br_fdb.c for the behaviour that users know from a bridge.
package vswitch
