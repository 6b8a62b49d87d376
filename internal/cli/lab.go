package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/uvswitch/uvswitch/internal/lab"
	"github.com/uvswitch/uvswitch/internal/userns"
)

func (a *app) labCommand() *cobra.Command {
	var name string
	with := func(do func(c *cobra.Command, l *lab.Lab, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			l, err := lab.New(name, false)
			if err != nil {
				return err
			}
			return do(c, l, args)
		}
	}
	sides := map[string]*string{"web": new(string), "metrics": new(string)}
	up := &cobra.Command{Use: "up", Short: "Start a lab: network namespaces, a switch and web servers", Args: cobra.NoArgs,
		RunE: with(func(c *cobra.Command, l *lab.Lab, _ []string) error {
			for flag, addr := range sides {
				if *addr != "" {
					l.Args = append(l.Args, "--"+flag, *addr)
				}
			}
			if err := l.Up(c.Context(), true); err != nil {
				return err
			}
			return a.showLab(l)
		})}
	up.Flags().StringVar(sides["web"], "web", "", "serve the web page with live counters on this loopback address of namespace host, as --web of run does (read it with: uvswitch lab exec host curl ...)")
	up.Flags().StringVar(sides["metrics"], "metrics", "", "serve Prometheus metrics on this loopback address of namespace host, as --metrics of run does")
	down := &cobra.Command{Use: "down", Short: "Stop the lab and remove its namespaces", Args: cobra.NoArgs,
		RunE: with(func(_ *cobra.Command, l *lab.Lab, _ []string) error { return l.Down() })}
	show := &cobra.Command{Use: "show", Short: "Draw the lab, and list commands to try", Args: cobra.NoArgs,
		RunE: with(func(_ *cobra.Command, l *lab.Lab, _ []string) error {
			if err := l.Check("host"); err != nil {
				return err
			}
			return a.showLab(l)
		})}
	run := &cobra.Command{
		Use: "exec NAMESPACE COMMAND [ARG...]", Short: "Run a command in a namespace of the lab: web or db (containers), host (the switch's host) or out (a machine outside)", Args: cobra.MinimumNArgs(2),
		RunE: with(func(c *cobra.Command, l *lab.Lab, args []string) error {
			if err := l.Check(args[0]); err != nil {
				return err
			}
			return a.labExec(c, l, args)
		}),
	}
	run.Flags().SetInterspersed(false)
	tool := &cobra.Command{Use: "tool NAME", Hidden: true, DisableFlagParsing: true, RunE: func(c *cobra.Command, args []string) error {
		return lab.Tool(c.Context(), args, a.out)
	}}
	lab := group("lab", "A lab to try the switch in, and a guided tour", up, down, show, run, a.tourCommand(&name), tool)
	lab.PersistentFlags().StringVar(&name, "name", "lab", "name of the lab (tour: its default is tour); its namespaces are called NAME-web and so on")
	return lab
}

func (a *app) tourCommand(name *string) *cobra.Command {
	var pause, inside bool
	c := &cobra.Command{Use: "tour", Short: "Show container networking step by step, in a lab of its own, as root or as an ordinary user", Args: cobra.NoArgs}
	c.Flags().BoolVar(&pause, "pause", false, "wait for Enter after each step")
	c.Flags().BoolVar(&inside, "rootless", false, "")
	_ = c.Flags().MarkHidden("rootless") // for the process that is root of a user namespace
	c.RunE = func(c *cobra.Command, _ []string) error {
		if os.Geteuid() != 0 && !inside {
			return a.rootlessTour(c)
		}
		if !c.Flags().Changed("name") {
			*name = "tour"
		}
		var in io.Reader
		if pause {
			in = a.in
		}
		return lab.Tour(c.Context(), *name, inside, in, a.out)
	}
	return c
}

// rootlessTour runs the tour in a user namespace of its own.
func (a *app) rootlessTour(c *cobra.Command) error {
	args := []string{"lab", "tour", "--rootless"}
	c.Flags().Visit(func(f *pflag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
	return a.exited(userns.Run(args, a.in, a.out, a.err))
}

func (a *app) labExec(c *cobra.Command, l *lab.Lab, args []string) error {
	cmd, err := l.Program(c.Context(), args[1], args[2:]...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	err = l.Run(args[0], cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError{exit.ExitCode()}
	}
	return err
}

func (a *app) showLab(l *lab.Lab) error {
	lab := "lab"
	if l.Name != lab {
		lab += " --name " + l.Name
	}
	_, err := fmt.Fprintf(a.out, "%s\nTry:\n%s\n", l.Picture(), strings.Join([]string{
		"  uvswitch " + lab + " exec web ping -c 3 172.29.0.3",
		"  uvswitch " + lab + " exec web ping -c 3 203.0.113.8",
		"  uvswitch " + lab + " exec web ping -c 3 2001:db8:113::8",
		"  uvswitch --socket " + l.Socket() + " flow ls",
		"  uvswitch --socket " + l.Socket() + " publish add 8080:80 --port web",
		"  uvswitch " + lab + " exec out curl -s http://198.51.100.1:8080/",
		"  uvswitch " + lab + " down",
	}, "\n"))
	return err
}
