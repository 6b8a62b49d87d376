package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/bench/hostile"
)

// helperFlag runs this program as one end of a measurement, inside a namespace.
const helperFlag = "-in-namespace"

const requestBytes = 64

func helper(args []string) error {
	switch {
	case args[0] == "answer" && len(args) == 2:
		return answer(args[1])
	case args[0] == "ask" && len(args) == 3:
		return ask(args[1], args[2])
	case args[0] == "spray" && len(args) == 2:
		return spray(args[1])
	case args[0] == "flood" && len(args) == 6:
		return hostile.Send(args[1], args[2], args[3], args[4], args[5] == "polite")
	case args[0] == "serve" && len(args) == 2:
		return hostile.Serve(args[1])
	case args[0] == "measure" && len(args) == 3:
		return hostile.Measure(args[1], args[2])
	}
	return fmt.Errorf("unknown call %q", args)
}

// answer sends back each request of one connection. Both ends use plain blocking sockets, as netperf does: with Go's
// network poller, most of the measured time would be the poller's.
func answer(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	f, err := blocking(c.(*net.TCPConn))
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	b := make([]byte, requestBytes)
	for {
		if err := transfer(unix.SYS_READ, fd, b); err != nil {
			return nil // the other end is done
		}
		if err := transfer(unix.SYS_WRITE, fd, b); err != nil {
			return err
		}
	}
}

// blocking returns a duplicate of a connection's descriptor that Go's network poller does not use; the call of Fd makes it
// blocking. It also locks this goroutine to its thread.
func blocking(c *net.TCPConn) (*os.File, error) {
	runtime.LockOSThread()
	return c.File()
}

// transfer reads or writes all of b.
func transfer(call uintptr, fd int, b []byte) error {
	for len(b) > 0 {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case n == 0:
			return io.EOF
		default:
			b = b[n:]
		}
	}
	return nil
}

// ask sends one request after another, each after the answer to the one before, for some seconds. It prints the median
// time to an answer, in microseconds.
func ask(addr, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := blocking(c.(*net.TCPConn))
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	b := make([]byte, requestBytes)
	times := make([]time.Duration, 0, 1<<20)
	for end := time.Now().Add(time.Duration(n) * time.Second); ; {
		began := time.Now()
		if began.After(end) || len(times) == cap(times) {
			break
		}
		if err := transfer(unix.SYS_WRITE, fd, b); err != nil {
			return err
		}
		if err := transfer(unix.SYS_READ, fd, b); err != nil {
			return err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	_, err = fmt.Printf("%.2f\n", float64(times[len(times)/2].Nanoseconds())/1e3)
	return err
}

// spray sends one datagram to each of count addresses from 16.0.0.0 on, and then all of them again, since a full queue may
// have lost some.
func spray(count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7000})
	if err != nil {
		return err
	}
	defer c.Close()
	for range 2 {
		for i := range n {
			to := net.UDPAddr{IP: net.IPv4(16+byte(i>>24), byte(i>>16), byte(i>>8), byte(i)), Port: 9}
			if _, err := c.WriteToUDP([]byte("x"), &to); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return err
			}
		}
	}
	return nil
}
