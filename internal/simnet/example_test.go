package simnet_test

import (
	"fmt"

	"github.com/uvswitch/uvswitch/internal/simnet"
)

// A container sends a datagram out through NAT, and the answer comes back. Two hours later its flow has ended.
func ExampleRun() {
	_, err := simnet.Run(`
network 1 10.0.0.1/24
uplink 198.51.100.1
host a 10.0.0.2 port 1
outside o 203.0.113.8
a:20000 > o:53 "question"
o < 198.51.100.1:20000 "question"
o reply "answer"
a < o:53 "answer"
flows 1
advance 2h
flows 0
`)
	fmt.Println(err)
	// Output: <nil>
}

// The error of a scenario says which line failed, what happened instead, and what is possible.
func ExampleRun_error() {
	const bed = "network 1 10.0.0.1/24\nhost a 10.0.0.2 port 1\nhost b 10.0.0.3 port 2\n"
	_, err := simnet.Run(bed + `a > b "hello"` + "\n" + `b < a "goodbye"`)
	fmt.Println(err)
	_, err = simnet.Run(bed + "a pings b")
	fmt.Println(err)
	// Output:
	// line 5: b < a "goodbye": it received udp 10.0.0.2:1000 > 10.0.0.3:1000 "hello"
	// line 4: a pings b: "pings" is not a verb; the verbs are . < > arp error reply
}
