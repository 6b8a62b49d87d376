package api_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFromAnotherModule checks that another module can use the client: it needs no internal package.
func TestFromAnotherModule(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.org/other\n\ngo 1.26\n\nrequire github.com/uvswitch/uvswitch v0.0.0\n\nreplace github.com/uvswitch/uvswitch => " + root + "\n",
		"main.go": `package main

import (
	"context"
	"fmt"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

func main() {
	ports, err := api.NewClient("/nowhere/uvs.sock").Ports(context.Background())
	fmt.Println(ports, err)
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("go", "run", "-mod=mod", ".")
	c.Dir, c.Env = dir, append(os.Environ(), "GOFLAGS=")
	out, err := c.CombinedOutput()
	if err != nil || string(out) != "[] no switch listens on /nowhere/uvs.sock; start a switch with `uvswitch run`, or name another socket (--socket, UVSWITCH_SOCKET)\n" {
		t.Errorf("%v\n%s", err, out)
	}
}
