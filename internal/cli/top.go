package cli

import (
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvswitch/uvswitch/internal/term"
	"github.com/uvswitch/uvswitch/internal/top"
)

func (a *app) topCommand() *cobra.Command {
	every := time.Second
	var frames int
	var batch bool
	c := &cobra.Command{Use: "top", Short: "Watch ports, rates, drops and tables live", Args: cobra.NoArgs,
		Long: "A live screen: ports, flows, the last drops, drops by reason, published ports, problems, and how full each table is. Enter opens a page\n" +
			"about the chosen line. The pages of drops and of problems say what to do. The key t asks for a packet, and traces it. The key ? lists\nthe keys. Without a terminal, and with -b, top prints screens as plain text.",
		RunE: func(c *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond || every > time.Minute {
				return usagef("--interval %s is out of range; use 100ms to 1m", every)
			}
			o := top.Options{Client: a.client(), Out: a.out, Every: every, Updates: frames}
			switch in, ok := a.in.(*os.File); {
			case a.json:
				return usagef("top has no JSON output; use `uvswitch -j stats` or `uvswitch -j port ls`")
			case batch || !ok || !term.IsTerminal(in) || !isTerminalOut(a.out):
				return top.Print(c.Context(), o)
			default:
				o.In = in
			}
			return top.Run(c.Context(), o)
		}}
	c.Flags().VarP((*seconds)(&every), "interval", "d", "time between two updates: a number of seconds, or a duration such as 500ms")
	c.Flags().IntVarP(&frames, "count", "n", 0, "exit after this many updates")
	c.Flags().BoolVarP(&batch, "batch", "b", false, "print screens as plain text, one after the other, for a file or another program")
	return c
}

func isTerminalOut(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f)
}

// seconds is a flag value: a duration, which may be given as a plain number of seconds.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }
func (s *seconds) Type() string   { return "time" }

// Set implements pflag.Value.
func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil && n > 0 && n < 3600 {
		*s = seconds(n * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(text)
	*s = seconds(d)
	return err
}
