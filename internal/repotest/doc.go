// Package repotest holds the rules of ARCHITECTURE.md as tests: who may import whom, what a hot function may do,
// that every package says what it is, and that the documents name commands that exist.
package repotest
