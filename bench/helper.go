package main

import (
	"errors"
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
	case args[0] == "ask" && len(args) == 5:
		return ask(args[1], args[2], args[3], args[4])
	case args[0] == "greet" && len(args) == 2:
		return greet(args[1])
	case args[0] == "connect" && len(args) == 3:
		return connect(args[1], args[2])
	case args[0] == "keep" && len(args) == 2:
		return keep(args[1])
	case args[0] == "idle" && len(args) == 3:
		return beIdle(args[1], args[2])
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

// answer sends back each request of one connection, and takes datagrams. Both ends use plain blocking sockets, as netperf does: with Go's
// network poller, most of the measured time would be the poller's.
func answer(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	sink, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, requestBytes)
		for err := error(nil); err == nil; {
			_, _, err = sink.ReadFrom(b)
		}
	}()
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

// ask sends one request after another, each after the answer to the one before, for some seconds. It prints a quantile of the times
// to an answer, in microseconds. Meanwhile it sends datagrams, load of them in a second.
func ask(addr, seconds, quantile, load string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	q, err := strconv.ParseFloat(quantile, 64)
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(load)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if rate > 0 {
		datagrams, err := net.Dial("udp", addr)
		if err != nil {
			return err
		}
		defer datagrams.Close()
		go paced(datagrams, rate)
	}
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
	_, err = fmt.Printf("%.2f\n", float64(times[int(q*float64(len(times)))].Nanoseconds())/1e3)
	return err
}

// paced sends datagrams, some every millisecond, until the connection is closed.
func paced(c net.Conn, rate int) {
	b := make([]byte, requestBytes)
	for began, sent := time.Now(), 0; ; time.Sleep(time.Millisecond) {
		for ; sent < int(time.Since(began).Seconds()*float64(rate)); sent++ {
			if _, err := c.Write(b); errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}
}

// greet says one byte to each client, and closes the connection first: the client's kernel need not remember it.
func greet(addr string) error {
	return serveEach(addr, func(c net.Conn) {
		_, _ = c.Write([]byte{1}) // else the client fails
		c.Close()
	})
}

// serveEach accepts connections, and calls do with each.
func serveEach(addr string, do func(net.Conn)) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		do(c)
	}
}

// connect opens one connection after another for some seconds, and prints how many in a second.
func connect(addr, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	began, opened := time.Now(), 0
	for b := make([]byte, 1); time.Since(began) < time.Duration(n)*time.Second; opened++ {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		if _, err = io.ReadFull(c, b); err == nil {
			_, err = c.Read(b) // the end
		}
		c.Close()
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("the connection did not end: %w", err)
		}
	}
	_, err = fmt.Printf("%.1f\n", float64(opened)/time.Since(began).Seconds())
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
