//go:build race

package simnet

// underRace is true under the race detector, where everything takes ten times as long.
const underRace = true
