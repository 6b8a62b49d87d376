// Package vswitch is a learning Ethernet switch: it guards ports, learns source MACs, and says for each frame of
// a batch to which port it goes, that it is flooded, that it is for the gateway, or why it is dropped. One
// forwarding database (FDB) per network.
//
// The folder is called switch because that is what it is; the package is not, because switch is a Go keyword.
//
// It writes no frame, knows no IP routing and no address translation, starts no goroutine and reads no clock.
// Readers never lock; see FDB for who may write.
//
// Sources: IEEE 802.1D-2004, 7.7 to 7.9 (learning, ageing, forwarding); 802.1Q-2018, 8.6.3 (addresses that are
// not forwarded); linux net/bridge/br_input.c and br_fdb.c for what users know as a bridge's behaviour.
package vswitch
