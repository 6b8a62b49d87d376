package term

import (
	"strings"
	"testing"
)

func TestWrapper(t *testing.T) {
	for line, want := range map[string]string{
		"short":                                   "short",
		"name   one two three four five":          "name   one two three\n       four five",
		"  ->  one two three four five":           "  ->  one two three\n      four five",
		"no columns at all here to see":           "no columns at all\nhere to see",
		"a  b  c  d  e  f  a long last column":    "a  b  c  d  e  f  a long last column",
		"\x1b[31mFAIL\x1b[m  words in red before": "\x1b[31mFAIL\x1b[m  words in red\n      before",
		"x  averylongwordthatdoesnotfit and more": "x  averylongwordthatdoesnotfit\n   and more",
	} {
		var out strings.Builder
		w := NewWrapper(&out, 20)
		for _, c := range []byte(line + "\n") { // whatever the pieces
			if n, err := w.Write([]byte{c}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if out.String() != want+"\n" {
			t.Errorf("%q became\n%s\nwant\n%s", line, out.String(), want)
		}
	}
}
