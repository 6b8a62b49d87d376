// Package control is the switch as its user sees it: networks, ports with names, published ports, the uplink and
// the host port, and the HTTP API on the control socket that shows and changes them. It puts what it is told into
// the dataplane; it touches no frame.
package control
