// Package top is the screen of `uvswitch top`: ports, flows, drops and their reasons, live, and a page for each one of them.
//
// top.go runs it, sample.go asks the switch, screen.go has the keys and the frame of the screen, lists.go and pages.go what is in it, and
// table.go lays it out.
package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
)

// Options say what to show, and where.
type Options struct {
	Client  *api.Client
	In      *os.File // a terminal; for Run
	Out     io.Writer
	Every   time.Duration // between two updates
	Updates int           // end after so many; 0: no end
}

// Run shows the live screen until the user quits, or ctx is done.
func Run(ctx context.Context, o Options) error {
	m := newScreen(o, func(v view) (sample, error) { return take(ctx, o.Client, v) })
	if _, err := m.ask(m.view()); err != nil { // before the program takes over the terminal
		return err
	}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(o.Out), tea.WithInput(o.In)).Run()
	if err == nil {
		err = m.err
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Print prints screens as plain text, the first after two samples, when rates are known.
func Print(ctx context.Context, o Options) error {
	m := newScreen(o, func(v view) (sample, error) { return take(ctx, o.Client, v) })
	m.width, m.height, m.plain = 100, 30, true
	for n := 0; m.left == 0 || n <= m.left; n++ {
		s, err := m.ask(m.view())
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if m.take(s); n > 0 {
			if _, err := fmt.Fprintf(o.Out, "%s\n%s\n\n", s.at.Format(time.RFC3339), m.screen()); err != nil {
				return err
			}
		}
		if m.left > 0 && n == m.left {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.every):
		}
	}
	return nil
}
