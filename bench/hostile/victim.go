package hostile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ports of Serve.
const (
	greetPort = "7000"
	echoPort  = "7001"
	sinkPort  = "7002"
)

const requestBytes = 64

// A Result is what the victim measures.
type Result struct {
	Connections float64 `json:"connections"` // opened in a second, one after another
	Failed      int     `json:"failed"`      // connections
	ConnectP99  float64 `json:"connect_p99"` // ms, to the first byte of the server
	RequestP99  float64 `json:"request_p99"` // ms, from a request to its answer
	Bulk        float64 `json:"bulk"`        // bytes in a second, over one connection
	Waited      float64 `json:"waited"`      // part of the time that this process was ready and waited for a CPU
}

// Serve is the outside end of Measure.
func Serve(addr string) error {
	errs := make(chan error, 3)
	for port, serve := range map[string]func(net.Conn){
		greetPort: func(c net.Conn) { _, _ = c.Write([]byte{1}) },
		echoPort: func(c net.Conn) {
			b := make([]byte, requestBytes)
			for err := error(nil); err == nil; {
				if _, err = io.ReadFull(c, b); err == nil {
					_, err = c.Write(b)
				}
			}
		},
		sinkPort: func(c net.Conn) {
			b := make([]byte, 256<<10)
			for err := error(nil); err == nil; {
				_, err = c.Read(b)
			}
		},
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					errs <- err
					return
				}
				go func() {
					defer c.Close()
					serve(c)
					_, _ = io.Copy(io.Discard, c)
				}()
			}
		}()
	}
	fmt.Println("listening")
	return <-errs
}

// Measure prints a Result as JSON: connections for some time, then requests for half of it, then one stream for half of it.
func Measure(addr, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	began, waited := time.Now(), runDelay()
	var r Result
	err = errors.Join(r.connect(addr, time.Duration(n)*time.Second), r.request(addr, time.Duration(n)*time.Second/2), r.stream(addr, time.Duration(n)*time.Second/2))
	r.Waited = float64(runDelay()-waited) / float64(time.Since(began))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (r *Result) connect(addr string, d time.Duration) error {
	var times []time.Duration
	began := time.Now()
	for time.Since(began) < d {
		at := time.Now()
		c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, greetPort), 3*time.Second)
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if err != nil {
			r.Failed++
			continue
		}
		times = append(times, time.Since(at))
	}
	r.Connections, r.ConnectP99 = float64(len(times))/time.Since(began).Seconds(), p99(times)
	return nil
}

func (r *Result) request(addr string, d time.Duration) error {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, echoPort), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	var times []time.Duration
	b := make([]byte, requestBytes)
	for began := time.Now(); time.Since(began) < d; {
		at := time.Now()
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		times = append(times, time.Since(at))
	}
	r.RequestP99 = p99(times)
	return nil
}

func (r *Result) stream(addr string, d time.Duration) error {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, sinkPort), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 128<<10)
	sent, began := 0, time.Now()
	_ = c.SetWriteDeadline(began.Add(d))
	for time.Since(began) < d {
		n, err := c.Write(b)
		if sent += n; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	r.Bulk = float64(sent) / time.Since(began).Seconds()
	return nil
}

// p99 is the 99th percentile in ms; 0 of nothing.
func p99(times []time.Duration) float64 {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return float64(times[len(times)*99/100].Microseconds()) / 1000
}

// runDelay is how long the threads of this process have been ready and have waited for a CPU.
func runDelay() (waited time.Duration) {
	for _, t := range Threads("self") {
		waited += t.Waited
	}
	return waited
}

// A Thread is what the scheduler counts of one.
type Thread struct{ Ran, Waited time.Duration }

// Threads returns the threads of a process, by thread ID (linux Documentation/scheduler/sched-stats.rst).
func Threads(pid string) map[string]Thread {
	files, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	threads := map[string]Thread{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		f := strings.Fields(string(b))
		if err != nil || len(f) < 2 { // the thread has ended
			continue
		}
		ran, _ := strconv.ParseInt(f[0], 10, 64)
		waited, _ := strconv.ParseInt(f[1], 10, 64)
		threads[filepath.Base(filepath.Dir(file))] = Thread{time.Duration(ran), time.Duration(waited)}
	}
	return threads
}
