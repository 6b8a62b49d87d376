package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/model"
)

func (a *app) configCommand() *cobra.Command {
	var name string
	check := &cobra.Command{Use: "check FILE", Short: "Check a configuration file", Args: cobra.ExactArgs(1),
		Long: "Read FILE and check everything in it that does not depend on the host: keys, names, subnets, addresses, published ports.\nThe command needs no running switch.",
		RunE: func(c *cobra.Command, args []string) error {
			source := config.Source{Path: args[0]}
			source.ULA, source.Secret = ofSwitch(name)
			conf, err := source.Start()
			if err == nil {
				err = model.Check(conf)
			}
			if err != nil { // the file is wrong, not the command line: exit code 1
				return a.printFaults(args[0], source.Faults())
			}
			if a.json {
				return a.printJSON(map[string]any{"file": args[0], "ok": true})
			}
			_, err = fmt.Fprintf(a.out, "%s: all right (%s, %s, %s, %s)\n", args[0], count(len(conf.Networks)+1, "network"), count(len(conf.Ports), "port"), count(len(conf.Publishes), "published port"), count(len(conf.Routes), "route"))
			return err
		}}
	check.Flags().StringVar(&name, "name", defaultName, "the --name of the switch that will have the file: automatic IPv6 subnets depend on it")
	show := &cobra.Command{Use: "show", Short: "Print the running switch as a configuration file", Args: cobra.NoArgs,
		Long: "Print the configuration of the running switch, including what was added by hand, in the form of a configuration file.\n`uvswitch run -c FILE` then starts a switch with the same configuration.",
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := config.Running(c.Context(), a.client())
			if err != nil {
				return err
			}
			text, err := yaml.MarshalWithOptions(f, yaml.IndentSequence(true))
			if err == nil && a.json && a.output != "yaml" {
				text, err = yaml.YAMLToJSON(text) // keeps the keys of the file
			}
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		}}
	diff := &cobra.Command{Use: "diff [FILE]", Short: "Show what `uvswitch reload [FILE]` would change", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.reload(c, args, true) }}
	return group("config", "Check, print and compare configuration files", check, show, diff)
}

// printFaults prints what is wrong with a file.
func (a *app) printFaults(path string, faults []error) error {
	var texts []string
	for _, err := range faults {
		texts = append(texts, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "config: "), path+": "))
	}
	if a.json {
		return errors.Join(a.printJSON(map[string]any{"file": path, "ok": false, "errors": texts}), exitError{1})
	}
	if len(texts) == 1 {
		return fmt.Errorf("%s: %s", path, texts[0])
	}
	return fmt.Errorf("%s has %d errors:\n\n%s", path, len(texts), strings.Join(texts, "\n\n"))
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{Use: "reload [FILE]", Short: "Apply the configuration file to the running switch", Args: cobra.MaximumNArgs(1),
		Long: "Read the switch's configuration file again, or read FILE, and apply it. Either the whole file is applied, or nothing changes.\n" +
			"A reload adds what is new in the file, removes what only the previous file had, and keeps what was added by hand. Ports and\n" +
			"networks that do not change lose no packet. SIGHUP reloads the switch's own file. Some settings need a restart: the error\nnames them.",
		RunE: func(c *cobra.Command, args []string) error { return a.reload(c, args, false) }}
}

func (a *app) reload(c *cobra.Command, args []string, dry bool) error {
	q := api.ReloadRequest{Dry: dry}
	if len(args) > 0 {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		if q.File = string(text); strings.TrimSpace(q.File) == "" {
			return fmt.Errorf("%s is empty; nothing was changed", args[0])
		}
	}
	var done api.Reload
	if err := a.client().Do(c.Context(), "POST", "/reload", q, &done); err != nil {
		if len(args) > 0 {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		return err
	}
	if a.json {
		return a.printJSON(done)
	}
	for _, s := range done.Changes {
		fmt.Fprintln(a.out, s)
	}
	if len(done.Changes) == 0 {
		fmt.Fprintln(a.out, "nothing to change")
	}
	for _, s := range done.Notes {
		fmt.Fprintln(c.ErrOrStderr(), "note:", s)
	}
	return nil
}
