// Package repotest tests the rules of ARCHITECTURE.md: which imports a package may have, what a hot function may do, that every
// package has a comment, and that the documents name only things that exist.
package repotest
