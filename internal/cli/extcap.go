package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/filter"
)

// Wireshark's extcap interface: Wireshark asks a program for its interfaces, and has the program write a capture into a FIFO.
// Sources: doc/extcap_example.py and the user's guide of Wireshark.

const (
	extcapName   = "uvswitch-extcap" // name of the script in Wireshark's folder
	extcapPrefix = "uvswitch-"       // prefix of the interfaces' names
)

func (a *app) extcapCommand() *cobra.Command {
	var dir string
	install := &cobra.Command{Use: "install", Short: "Add the ports of the switch to Wireshark's interfaces", Args: cobra.NoArgs,
		Long: "Write a small script into Wireshark's personal extcap folders: ~/.local/lib/wireshark/extcap, and\n" +
			"~/.config/wireshark/extcap for versions before 4.2. With the script, Wireshark and tshark list the ports of the switch\nand capture from them. --socket selects the switch.",
		RunE: func(*cobra.Command, []string) error { return a.installExtcap(dir) }}
	remove := &cobra.Command{Use: "remove", Short: "Remove the ports of the switch from Wireshark's interfaces", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		dirs, err := extcapDirs(dir)
		found := false
		for _, d := range dirs {
			found = os.Remove(filepath.Join(d, extcapName)) == nil || found
		}
		if err == nil && !found {
			err = fmt.Errorf("%s is not installed in %s", extcapName, strings.Join(dirs, " or "))
		}
		return err
	}}
	for _, c := range []*cobra.Command{install, remove} {
		c.Flags().StringVar(&dir, "dir", "", "folder of the script (default: Wireshark's personal extcap folders)")
	}
	run := &cobra.Command{Use: "run", Hidden: true, DisableFlagParsing: true, RunE: func(c *cobra.Command, args []string) error {
		return a.extcap(c.Context(), args)
	}}
	return group("extcap", "Capture from Wireshark", install, remove, run)
}

// extcapDirs returns dir, or, if dir is empty, Wireshark's personal extcap folders: the one since 4.2, and the one before.
func extcapDirs(dir string) ([]string, error) {
	if dir != "" {
		return []string{dir}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	return []string{filepath.Join(home, ".local/lib/wireshark/extcap"), filepath.Join(home, ".config/wireshark/extcap")}, nil
}

func (a *app) installExtcap(dir string) error {
	dirs, err := extcapDirs(dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	script := fmt.Sprintf("#!/bin/sh\nexport UVSWITCH_SOCKET=%s\nexec %s extcap run \"$@\"\n", quote(a.socket), quote(self)) // by environment: `extcap run` parses no flags
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d, extcapName), []byte(script), 0o755); err != nil {
			return err
		}
		fmt.Fprintln(a.out, filepath.Join(d, extcapName))
	}
	fmt.Fprintf(a.out, "Wireshark now lists the ports of the switch at %s as %sNAME; check with `tshark -D`\n", a.socket, extcapPrefix)
	return nil
}

// extcap answers a call from Wireshark. Wireshark defines the arguments, and different versions send different sets.
func (a *app) extcap(ctx context.Context, args []string) error {
	flags := map[string]string{}
	for i := 0; i < len(args); i++ {
		key, value, ok := strings.Cut(args[i], "=")
		if !ok && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
			i++
			value = args[i]
		}
		flags[key] = value
	}
	has := func(k string) bool { _, ok := flags[k]; return ok }
	switch {
	case has("--extcap-interfaces"):
		return a.extcapInterfaces(ctx)
	case has("--extcap-dlts"):
		fmt.Fprintln(a.out, "dlt {number=1}{name=EN10MB}{display=Ethernet}")
		return nil
	case has("--extcap-config"):
		fmt.Fprintln(a.out, "arg {number=0}{call=--drops}{display=Only dropped frames}{type=boolflag}{default=false}")
		fmt.Fprintln(a.out, "arg {number=1}{call=--split}{display=Split super-frames}{tooltip=Show the frames that a wire would carry}{type=boolflag}{default=false}")
		return nil
	case !has("--capture") && has("--extcap-capture-filter"):
		if _, err := filter.Compile(flags["--extcap-capture-filter"]); err != nil { // Wireshark shows the output as the error in the filter
			fmt.Fprintln(a.out, err)
		}
		return nil
	case has("--capture"):
		port, ok := strings.CutPrefix(flags["--extcap-interface"], extcapPrefix)
		if !ok || flags["--fifo"] == "" {
			return usagef("extcap: --extcap-interface %sNAME and --fifo FILE are required", extcapPrefix)
		}
		on := func(k string) bool { return has(k) && flags[k] != "false" }
		f := dumpFlags{ports: []string{port}, file: flags["--fifo"], dir: "both", precision: "micro", drops: on("--drops"), split: on("--split"), quiet: true}
		err := a.dump(ctx, &f, flags["--extcap-capture-filter"])
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		return err
	}
	return usagef("`uvswitch extcap run` is only for Wireshark to call; `uvswitch extcap install` adds it to Wireshark")
}

func (a *app) extcapInterfaces(ctx context.Context) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "extcap {version=%s}{display=uvswitch}\n", Version)
	var ports []api.Port
	if err := a.client().Do(ctx, "GET", "/ports", nil, &ports); err == nil { // without a switch there are no interfaces, which is no error
		fmt.Fprintf(&out, "interface {value=%sany}{display=uvswitch: every port}\n", extcapPrefix)
		for _, p := range ports {
			fmt.Fprintf(&out, "interface {value=%s%s}{display=uvswitch port %s}\n", extcapPrefix, p.Name, p.Name)
		}
	}
	_, err := a.out.Write(out.Bytes())
	return err
}
