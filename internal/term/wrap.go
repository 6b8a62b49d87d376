package term

import (
	"bytes"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Width is the number of columns of a terminal; 0 if it is not known.
func Width(f *os.File) (columns int) {
	raw, err := f.SyscallConn() // Fd would change the file's mode
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if size, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil {
			columns = int(size.Col)
		}
	})
	return columns
}

// A Wrapper breaks lines that are longer than a terminal is wide, between words. What follows a break stands below the last column of the line:
// below what comes after its last gap of two or more spaces. A line whose last column begins behind the middle stays as it is.
type Wrapper struct {
	to    io.Writer
	width int
	rest  []byte // a line that has no end yet
}

// NewWrapper writes to a terminal of so many columns.
func NewWrapper(to io.Writer, width int) *Wrapper { return &Wrapper{to: to, width: width} }

// Write implements io.Writer.
func (w *Wrapper) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if _, err := io.WriteString(w.to, wrap(string(line), w.width)+"\n"); err != nil {
			return 0, err
		}
		w.rest = rest
	}
}

func wrap(line string, width int) string {
	if columns(line) <= width {
		return line
	}
	begin := strings.LastIndex(line, "  ") + 2 // of the last column
	if begin < 2 {
		begin = len(line) - len(strings.TrimLeft(line, " "))
	}
	indent := columns(line[:begin])
	if indent > width/2 {
		return line
	}
	out, at := line[:begin], indent
	for i, word := range strings.Split(line[begin:], " ") {
		n := columns(word)
		switch {
		case i == 0:
		case at+1+n > width:
			out, at = out+"\n"+strings.Repeat(" ", indent), indent
		default:
			out, at = out+" ", at+1
		}
		out, at = out+word, at+n
	}
	return out
}

// columns is how many columns a text takes, without its styles.
func columns(s string) (n int) {
	for {
		before, after, styled := strings.Cut(s, "\x1b[")
		n += utf8.RuneCountInString(before)
		if !styled {
			return n
		}
		_, s, _ = strings.Cut(after, "m")
	}
}
