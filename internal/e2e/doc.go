// Package e2e tests the uvswitch command with real kernels: namespaces that play containers, host and
// outside, and ping, iperf3, curl, tcpdump and tshark in them. Nothing outside the namespaces it makes is touched,
// and they go also when a test dies.
//
// The tests need root and the tools. In CI they fail without; elsewhere they skip and say why.
package e2e
