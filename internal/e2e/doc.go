// Package e2e tests the uvswitch command end to end. Namespaces represent the containers, the host and the outside network, and
// ping, iperf3, curl, tcpdump and tshark run in them. The tests change nothing outside these namespaces. Namespaces that a killed
// test left behind are removed by the next run.
//
// Tests run side by side: NewHost makes a test parallel. A test that measures a rate uses AloneHost instead. Each test runs on one
// pair of uplink and I/O backend, and the pairs spread over the tests; UVSWITCH_IO, UVSWITCH_UPLINK and UVSWITCH_ALL_PAIRS change
// this.
//
// The tests need root and the tools. Without them they fail in CI; elsewhere they are skipped and say why.
package e2e
