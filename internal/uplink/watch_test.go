package uplink

import (
	"context"
	"errors"
	"os"
	"runtime"
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

// A refused subscription, as an ordinary user's to IPsec policies is, closes nothing of others: its descriptor is closed once.
func TestRefusedSubscription(t *testing.T) {
	runtime.LockOSThread() // the thread ends with the test
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		t.Fatal(err)
	}
	if s, err := subscribePolicies(); err == nil {
		s.Close()
		t.Skip("the kernel lets everybody subscribe")
	}
	var others [16]int
	for i := range others {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		others[i] = fd
	}
	collected := make(chan struct{})
	runtime.SetFinalizer(&[64]byte{}, func(*[64]byte) { close(collected) })
	for done := false; !done; runtime.GC() {
		select {
		case <-collected:
			done = true
		default:
		}
	}
	for _, fd := range others {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Errorf("descriptor %d was closed: %v", fd, err)
		}
	}
}
