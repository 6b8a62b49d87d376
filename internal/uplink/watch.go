package uplink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls changed at once, and after changes of the host's devices, addresses, routes and routing rules, until ctx is done. Changes
// that come while changed runs are told by one more call. The caller then asks Refresh.
func Watch(ctx context.Context, changed func()) error {
	events, err := subscribe()
	if err != nil {
		return err
	}
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	context.AfterFunc(ctx, tell)
	go listen(ctx, events, subscribe, tell)
	if policies, err := subscribePolicies(); err == nil { // a kernel without IPsec has none
		go listen(ctx, policies, subscribePolicies, tell)
	}
	go func() {
		for ; ctx.Err() == nil; <-news {
			changed()
			time.Sleep(pause)
		}
	}()
	return nil
}

// listen calls tell for each message until ctx is done.
func listen(ctx context.Context, events *nl.NetlinkSocket, again func() (*nl.NetlinkSocket, error), tell func()) {
	for ctx.Err() == nil {
		_, _, err := events.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // ctx may be done
		}
		if err != nil { // the kernel had more to tell than we could hear
			events.Close()
			for events, err = again(); err != nil && ctx.Err() == nil; events, err = again() {
				time.Sleep(time.Second)
			}
		}
		tell()
	}
	if events != nil {
		events.Close()
	}
}

func subscribePolicies() (*nl.NetlinkSocket, error) {
	const policies = 4 // XFRMNLGRP_POLICY of linux/xfrm.h
	s, err := nl.Subscribe(unix.NETLINK_XFRM, policies)
	if err != nil {
		return nil, err
	}
	return s, s.SetReceiveTimeout(&unix.Timeval{Sec: 1})
}

// pause is what a host with a busy routing daemon is spared. The packets themselves ask the routing at once.
const pause = 20 * time.Millisecond

func subscribe() (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE,
		unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV4_NETCONF)
	if err != nil {
		return nil, fmt.Errorf("uplink: cannot watch the host's devices: %w", err)
	}
	return s, s.SetReceiveTimeout(&unix.Timeval{Sec: 1})
}
