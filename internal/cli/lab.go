package cli

import "github.com/spf13/cobra"

func (a *app) labCommand() *cobra.Command { return group("lab", "A playground") }
