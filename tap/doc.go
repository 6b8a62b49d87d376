// Package tap opens the wires of ports and moves frames over them: TAP devices with a virtio-net header made in a
// namespace, plain TAP devices (through songgao/water), and existing devices (AF_PACKET). RW is the I/O backend on
// read and write; its Poll and Send are what package dataplane asks of a Poller.
//
// It decides nothing about frames. What a Read brings is untrusted: frame.Parse checks it.
//
// Sources: linux Documentation/networking/tuntap.rst, drivers/net/tun.c, packet(7).
package tap
