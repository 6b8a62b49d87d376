// Package term writes to terminals: text without control characters, and colors.
package term

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Printable shows control characters as escapes: a name or a packet may come from a container, and terminals obey control characters.
func Printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strconv.Quote(s)
		s = s[1 : len(s)-1]
	}
	return s
}

// IsTerminal asks the kernel for the modes of a terminal.
func IsTerminal(f *os.File) bool {
	raw, err := f.SyscallConn() // Fd would change the file's mode
	if err != nil {
		return false
	}
	is := false
	err = raw.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		is = err == nil
	})
	return is && err == nil
}

// A Style is a parameter of SGR, the control sequence for colors (ECMA-48, 8.3.117).
type Style string

// The styles in use. The terminal's own palette decides how they look.
const (
	Plain   Style = ""
	Bold    Style = "1"
	Dim     Style = "2"
	Reverse Style = "7"
	Bad     Style = "31" // red
	Good    Style = "32" // green
	Warn    Style = "33" // yellow
	Key     Style = "36" // cyan
)

// Of returns s in this style.
func (y Style) Of(s string) string {
	if y == Plain || s == "" {
		return s
	}
	return "\x1b[" + string(y) + "m" + s + "\x1b[m"
}
