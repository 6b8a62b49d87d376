// Package hostile has the two sides of the hostile matrix, which `go run ./bench -hostile` runs in namespaces: floods of many kinds, and a
// victim, which measures what is left for it.
package hostile
