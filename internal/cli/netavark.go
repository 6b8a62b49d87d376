package cli

import (
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/internal/cni"
)

// netavarkCommands returns the commands with which netavark calls its plugins. They are hidden: only netavark calls them.
func (a *app) netavarkCommands() (out []*cobra.Command) {
	for _, name := range cni.NetavarkCommands {
		out = append(out, &cobra.Command{Use: name, Hidden: true, Args: cobra.MaximumNArgs(1), RunE: func(c *cobra.Command, args []string) error {
			netns := ""
			if len(args) > 0 {
				netns = args[0]
			}
			return cni.Netavark(c.Context(), name, netns, Version, a.in, a.out)
		}})
	}
	return out
}
