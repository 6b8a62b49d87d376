package uplink

import (
	"context"
	"errors"
	"os"
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

// After an error of its socket, a listener subscribes again, tells that something may have changed, and ends with its context.
func TestListenAgain(t *testing.T) {
	open := func() *nl.NetlinkSocket {
		s, err := subscribeTo(unix.NETLINK_ROUTE, unix.RTNLGRP_NEXTHOP)
		if err != nil {
			t.Skip(err)
		}
		return s
	}
	broken := open()
	broken.Close()
	ctx, cancel := context.WithCancel(t.Context())
	opened := 0
	var last *nl.NetlinkSocket
	listen(ctx, broken, func() (*nl.NetlinkSocket, error) {
		opened++
		last = open()
		return last, nil
	}, func([]syscall.NetlinkMessage) { cancel() })
	if opened != 1 {
		t.Errorf("%d sockets were opened", opened)
	}
	if _, _, err := last.Receive(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the socket is still open: %v", err)
	}
}
