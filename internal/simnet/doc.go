// Package wire is a network in memory: the real dataplane on ports without devices, fake hosts behind them, and
// time that moves by hand. Scenario files in testdata read like a conversation and are checked line by line; so
// behaviour that takes minutes in the world takes none here, and is the same each time.
package simnet
