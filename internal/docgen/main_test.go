package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/internal/cli"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// TestCommitted checks that the generated documents in docs/ are up to date.
func TestCommitted(t *testing.T) {
	for what, file := range map[string]string{"drops": "drops.md", "openapi": "openapi.json", "config": "config.md", "config.schema": "config.schema.json"} {
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
	t.Setenv("SOURCE_DATE_EPOCH", "1764374400") // 29 November 2025
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
		for _, part := range []string{`.TH "` + strings.TrimSuffix(strings.ToUpper(filepath.Base(page)), ".1") + `" "1" "Nov 2025"`, ".SH EXIT STATUS\n", ".SH SEE ALSO\n"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no %q", page, part)
			}
		}
		if c.HasExample() != strings.Contains(text, ".SH EXAMPLES\n") {
			t.Errorf("%s: examples", page)
		}
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

// TestConfigSchema checks that the schema for editors takes the sample file, as the switch does, and refuses what the switch refuses.
func TestConfigSchema(t *testing.T) {
	_, made, err := readConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	var schema openapi3.Schema
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	bySchema := func(text string) error {
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(asJSON, &v); err != nil {
			t.Fatal(err)
		}
		return schema.VisitJSON(v)
	}
	sample, err := os.ReadFile("../packaging/uvswitch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for text, right := range map[string]bool{
		string(sample): true,
		"host: off":    true, "nat: {timers: linux}": true, "nat: {timers: {profile: linux, ports: {5060/udp: 600}}}": true, "publish: [{host: 8080, to: web:80}]": true,
		"ports: [{name: a, set: {rate: 10mbit, isolated: true, storm_bcast: 10}}]": true, "networks: [{name: a, subnet: 10.0.0.0/24, protocols: [gre], dnsServers: 1.1.1.1}]": true,
		"uplink: {kind: tun}": false, "prots: []": false, "ports: [{name: a, netn: b}]": false, "networks: {name: a}": false, "nat: {flows: many}": false, "nat: {timers: {udp: -1}}": false,
	} {
		_, err := config.Parse([]byte(text))
		if (err == nil) != right {
			t.Errorf("the switch says %v of %s", err, text)
		}
		if err := bySchema(text); (err == nil) != right {
			t.Errorf("the schema says %v of %s", err, text)
		}
	}
}
