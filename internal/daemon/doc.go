// Package daemon owns what a running switch has on its host: the data plane, devices and sockets, the uplink, listeners. It
// creates and removes networks, ports and published ports, and it applies the steps of a reload. What may be asked for is decided
// by package model.
//
// daemon.go starts and ends a switch, lock.go says who may change it when; each other file is about one kind of object.
package daemon
