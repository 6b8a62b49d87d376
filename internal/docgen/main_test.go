package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/internal/cli"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// TestCommitted checks that the generated documents in docs/ are up to date.
func TestCommitted(t *testing.T) {
	for what, file := range map[string]string{"drops": "drops.md", "openapi": "openapi.json"} {
		var made bytes.Buffer
		if err := run([]string{what}, &made); err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, made.Bytes()) {
			t.Errorf("docs/%s is not what the code says: make docs", file)
		}
	}
}

func TestDropsAreAllThere(t *testing.T) {
	var made bytes.Buffer
	if err := drops(&made); err != nil {
		t.Fatal(err)
	}
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		i := r.Info()
		if i.Meaning == "" || i.Remedy == "" || strings.Contains(i.Meaning+i.Remedy, "|") {
			t.Errorf("%s: %+v", r, i)
		}
		if strings.Count(made.String(), "| `"+i.Name+"` |") != 1 {
			t.Errorf("%s has not one row", r)
		}
	}
	if n := strings.Count(made.String(), "\n## "); n != int(frame.Egress)+1 {
		t.Errorf("%d sections, not one for each stage", n)
	}
}

// TestMan checks that every command has a man page that names each of its flags, and that mandoc reports no error in it.
func TestMan(t *testing.T) {
	dir := t.TempDir()
	if err := man(dir); err != nil {
		t.Fatal(err)
	}
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || !c.IsAvailableCommand() && c.HasParent() && !c.HasAvailableSubCommands() {
			return
		}
		n++
		page := filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".1")
		b, err := os.ReadFile(page)
		if err != nil {
			t.Errorf("%s has no page", c.CommandPath())
			return
		}
		text := strings.ReplaceAll(string(b), `\-`, "-")
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(text, "--"+f.Name) {
				t.Errorf("%s does not name --%s", page, f.Name)
			}
		})
		if _, err := exec.LookPath("mandoc"); err == nil {
			if out, err := exec.Command("mandoc", "-T", "lint", "-W", "error", page).CombinedOutput(); err != nil {
				t.Errorf("mandoc: %v\n%s", err, out)
			}
		} else if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(cli.Root())
	if n < 50 {
		t.Errorf("only %d pages", n)
	}
}

// TestCompletion checks that the shells accept their completion scripts. A shell that is not installed is skipped.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	if err := completion(dir); err != nil {
		t.Fatal(err)
	}
	for shell, file := range map[string]string{"bash": "uvswitch.bash", "zsh": "_uvswitch", "fish": "uvswitch.fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		if out, err := exec.Command(shell, "-n", filepath.Join(dir, file)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}
