package cli

import (
	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/internal/cni"
)

// netavarkCommands are what netavark calls its plugins with: hidden, since nobody types them.
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
