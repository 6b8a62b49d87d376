package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/userns"
)

func (a *app) execCommand() *cobra.Command {
	o := userns.Room{}
	c := &cobra.Command{
		Use: "exec [flags] -- COMMAND [ARGUMENT ...]", Short: "Run a command in namespaces of its own, plugged into the switch",
		Long: "Run a command in a network namespace of its own, with a port of the switch as its only device. An ordinary user needs no rights for this:\n" +
			"the command runs in a user namespace, too, as root of that namespace.\n" +
			"The command has its own /etc/resolv.conf, which names the gateway. The port and what is published end with the command.\n" +
			"Only the network is the command's own: it has the files of its user. docs/sandbox.md says how to run a program that nobody trusts.\n" +
			"If the switch ends, the command's connections end. When a switch runs again, the command is plugged in again.\n" +
			"The exit status is that of the command; 127 if there is no such command, 126 if it cannot be run.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if o.Internal && o.Port.Network != "" {
				return usagef("--internal is a network of its own; leave out --network")
			}
			o.Socket = a.socket
			if o.Port.Name == "" {
				o.Port.Name = fmt.Sprintf("exec-%d", os.Getpid())
			}
			return a.exited(o.Run(args, a.in, a.out, a.err))
		},
	}
	f := c.Flags()
	f.StringVar(&o.Port.Name, "port", "", "name of the port (default: exec- and a number)")
	f.StringVar(&o.Port.Network, "network", "", "name of the network (default: the network default)")
	f.StringVar(&o.Port.IP, "ip", "", "an address of the network (default: a free one)")
	f.StringSliceVar(&o.Publish, "publish", nil, "publish `[HOST_ADDR:]HOST_PORT:PORT[/udp]` on the host, as publish add does; several times, or separated by commas")
	f.StringVar((*string)(&o.Port.Policies), "policy", "", "which flows may begin at the port and with it: names of policies, separated by commas; sandbox is built in")
	f.BoolVar(&o.Internal, "internal", false, "without a way out: the command reaches others of the network "+userns.InternalNetwork+" ("+userns.InternalSubnet+") only")
	return c
}

// roomChildCommand is the command of the child of `exec`; see package userns.
func roomChildCommand() *cobra.Command {
	return &cobra.Command{Use: userns.ChildCommand, Hidden: true, Args: cobra.MinimumNArgs(2), RunE: func(c *cobra.Command, args []string) error {
		err := userns.Become(c.Context(), args[0], args[1:])
		var missing userns.NoCommandError
		if errors.As(err, &missing) {
			fmt.Fprintln(c.ErrOrStderr(), "uvswitch:", err)
			return exitError{missing.Status()}
		}
		return err
	}}
}

// roomPlugCommand runs beside the command of `exec` when the switch has ended; see package userns.
func roomPlugCommand() *cobra.Command {
	return &cobra.Command{Use: userns.PlugCommand, Hidden: true, Args: cobra.ExactArgs(2), RunE: func(c *cobra.Command, args []string) error {
		return userns.StayPlugged(c.Context(), args[0], args[1])
	}}
}

// exited passes the exit status of another program on.
func (a *app) exited(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError{userns.Status(exit)}
	}
	return err
}

// inOwnersNamespace runs this very command again in the user namespace that owns a network namespace, if this user may create devices there only.
func (a *app) inOwnersNamespace(ns string) (ran bool, err error) {
	path, err := netns.Path(ns)
	if err != nil {
		return false, nil // it is said where the namespace is opened
	}
	ran, err = userns.RunInOwners(path, "UVSWITCH_SOCKET="+a.socket)
	return ran, a.exited(err)
}
