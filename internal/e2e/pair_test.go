package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestPairs checks that every pair is the pair of several tests, and that the tests with a fixed pair exist.
func TestPairs(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
	}
	tests := map[Pair][]string{}
	for name := range names {
		tests[pairOf(name)] = append(tests[pairOf(name)], name)
	}
	for _, p := range pairs {
		if len(tests[p]) < 8 {
			t.Errorf("only %v run on %+v", tests[p], p)
		}
		delete(tests, p)
	}
	if len(tests) > 0 {
		t.Errorf("these tests run on no known pair: %v", tests)
	}
	for name := range fixed {
		if !names[name] {
			t.Errorf("%s has a fixed pair, but is no test", name)
		}
	}
}
