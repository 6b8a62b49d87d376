// Package simnet is a network in memory: the real data plane on ports without devices, simulated hosts behind the ports, and virtual
// time. A scenario in testdata reads like a conversation between hosts, and Run checks every line. So a test of time-outs of hours takes
// no time, and gives the same result each time. docs/scenarios.md describes the language.
package simnet
