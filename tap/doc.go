// Package tap opens the devices behind ports and moves frames over them: TAPs with a virtio-net header, created in a
// namespace (Device), plain TAPs created by songgao/water (Plain), and existing devices through AF_PACKET sockets
// (AFPacket). RW (read, write, epoll) and IOUring are the I/O backends; both implement dataplane.Poller.
//
// The package makes no decision about frames. Frames that Read returns are untrusted: frame.Parse checks them.
//
// Sources: linux Documentation/networking/tuntap.rst, drivers/net/tun.c, packet(7).
package tap
