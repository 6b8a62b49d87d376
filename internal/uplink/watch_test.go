package uplink

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A host on which nothing changes wakes nobody: a read that ends without news is no loss.
func TestListenIsQuiet(t *testing.T) {
	events, err := subscribeTo(unix.NETLINK_ROUTE, unix.RTNLGRP_NEXTHOP)
	if err != nil {
		t.Skip(err)
	}
	if err := events.SetReceiveTimeout(&unix.Timeval{Usec: 1000}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	again := func() (*nl.NetlinkSocket, error) {
		t.Error("the socket was opened again")
		return subscribeTo(unix.NETLINK_ROUTE, unix.RTNLGRP_NEXTHOP)
	}
	listen(ctx, events, again, func([]syscall.NetlinkMessage) { t.Error("news, though nothing changed") })
}
