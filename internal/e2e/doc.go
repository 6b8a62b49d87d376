// Package e2e tests the uvswitch command end to end. Namespaces represent the containers, the host and the outside network, and
// ping, iperf3, curl, tcpdump and tshark run in them. The tests change nothing outside these namespaces. Namespaces that a killed
// test left behind are removed by the next run.
//
// The tests need root and the tools. Without them they fail in CI; elsewhere they are skipped and say why.
package e2e
