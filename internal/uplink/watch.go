package uplink

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Watch calls changed at once, and after changes of the host's devices, addresses, routes and routing rules, until ctx is done. Changes
// that come while changed runs are told by one more call. The caller then asks Refresh.
func Watch(ctx context.Context, changed func()) error {
	events, err := subscribe()
	if err != nil {
		return err
	}
	news := make(chan struct{}, 1)
	tell := func([]syscall.NetlinkMessage) {
		select {
		case news <- struct{}{}:
		default:
		}
	}
	context.AfterFunc(ctx, func() { tell(nil) })
	go listen(ctx, events, subscribe, tell)
	if policies, err := subscribePolicies(); err == nil { // a kernel without IPsec has none
		go listen(ctx, policies, subscribePolicies, tell)
	}
	go func() {
		for ; ctx.Err() == nil; <-news {
			began := time.Now()
			changed()
			time.Sleep(max(pause, 2*time.Since(began))) // with very many routes, a call takes long
		}
	}()
	return nil
}

// A NextHop is an address on the link of a device of the host.
type NextHop struct {
	device int
	addr   netip.Addr
}

// NextHopOf returns where the host's routing sends a packet now.
func (u *Uplink) NextHopOf(e frame.Endpoints, class uint8) (hop NextHop, ok bool) {
	var w Way
	var err error
	if e.Src.Is6() {
		w, err = u.Ask6(frame.TupleFrom[frame.Addr6](e), class)
	} else {
		w, err = u.Ask(frame.TupleFrom[frame.Addr](e), class)
	}
	return NextHop{w.index, w.NextHop}, err == nil && w.Code == 0
}

// WatchNextHops calls dead for each next hop of the host that does not answer ARP, until ctx is done.
func WatchNextHops(ctx context.Context, dead func(NextHop)) error {
	subscribe := func() (*nl.NetlinkSocket, error) { return subscribeTo(unix.NETLINK_ROUTE, unix.RTNLGRP_NEIGH) }
	events, err := subscribe()
	if err != nil {
		return fmt.Errorf("uplink: cannot watch the host's neighbors: %w", err)
	}
	go listen(ctx, events, subscribe, func(messages []syscall.NetlinkMessage) {
		for _, m := range messages {
			n, err := netlink.NeighDeserialize(m.Data)
			if err != nil || m.Header.Type != unix.RTM_NEWNEIGH || n.State&netlink.NUD_FAILED == 0 {
				continue
			}
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				dead(NextHop{n.LinkIndex, addr.Unmap()})
			}
		}
	})
	return nil
}

// listen calls tell with what comes, until ctx is done. After a loss it calls tell with nothing.
func listen(ctx context.Context, events *nl.NetlinkSocket, again func() (*nl.NetlinkSocket, error), tell func([]syscall.NetlinkMessage)) {
	for ctx.Err() == nil {
		messages, _, err := events.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EAGAIN) {
			continue // a second without news; ctx may be done
		}
		if err != nil { // the kernel had more to tell than we could hear
			events.Close()
			for events, err = again(); err != nil && ctx.Err() == nil; events, err = again() {
				time.Sleep(time.Second)
			}
		}
		tell(messages)
	}
	if events != nil {
		events.Close()
	}
}

func subscribePolicies() (*nl.NetlinkSocket, error) {
	const states, policies = 3, 4 // XFRMNLGRP_SA, XFRMNLGRP_POLICY of linux/xfrm.h
	return subscribeTo(unix.NETLINK_XFRM, states, policies)
}

// pause is what a host with a busy routing daemon is spared. The packets themselves ask the routing at once.
const pause = 20 * time.Millisecond

func subscribe() (*nl.NetlinkSocket, error) {
	s, err := subscribeTo(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
	if err != nil {
		return nil, fmt.Errorf("uplink: cannot watch the host's devices: %w", err)
	}
	return s, nil
}

// subscribeTo opens a socket that hears some groups of a netlink protocol. A read from it ends after a second.
func subscribeTo(protocol int, groups ...uint) (*nl.NetlinkSocket, error) {
	s, err := nl.Subscribe(protocol) // with groups, it closes its descriptor twice where the kernel refuses one
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			s.Close()
			return nil, err
		}
	}
	if err := s.SetReceiveTimeout(&unix.Timeval{Sec: 1}); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
