// Package policy says which flows may begin. A policy is a list of rules without an order. A port has the rules of all policies that are
// attached to it:
//
//   - A port without any rule for a direction may begin everything in this direction (egress), or be reached by everybody (ingress).
//   - Otherwise nothing passes that no rule allows.
//   - Of several rules that fit, one that drops wins over one that rejects, and that one wins over one that allows.
//
// The package opens no file and reads no clock.
package policy
