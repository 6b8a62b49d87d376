package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/docker"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
	"github.com/uvswitch/uvswitch/internal/userns"
)

const driverCommand = "docker-driver"

// dockerDriverCommand is Docker's driver for the dockerd of an ordinary user. `run --docker` starts it.
func (a *app) dockerDriverCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{Use: driverCommand, Hidden: true, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		if !userns.IsThere() {
			pidfile := filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Geteuid())), "docker.pid") // as dockerd-rootless.sh has it
			docker.Follow(c.Context(), pidfile, func(err error) { fmt.Fprintln(a.err, "uvswitch:", err) })
			return nil
		}
		l, err := f.listenDocker(nil)
		if err != nil {
			return err
		}
		defer l.Close()
		if err := docker.Start(c.Context(), l, a.client(), tapmaker.Direct{}, f.dockerState(), f.logger(a)); err != nil {
			return err
		}
		return docker.AwaitEnd(c.Context())
	}}
	c.Flags().StringVar(&f.docker, "name", dockerName, "name of the driver")
	c.Flags().StringVar(&f.state, "state", "", "folder of the driver's state")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log events to stderr")
	return c
}

// startDockerDriver starts that command, which end ends. The driver's state is beside Docker's own, which outlives a session, unless --state was given.
func (a *app) startDockerDriver(ctx context.Context, f *runFlags, ownState bool) (end func(), err error) {
	state := f.state
	if !ownState {
		state = filepath.Join(cmp.Or(os.Getenv("XDG_STATE_HOME"), filepath.Join(os.Getenv("HOME"), ".local/state")), "uvswitch")
	}
	c := exec.Command("/proc/self/exe", "--socket", a.socket, driverCommand, "--name", f.docker, "--state", state, fmt.Sprintf("--verbose=%t", f.verbose))
	ending := make(chan struct{})
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the child ends with this thread
		defer close(ended)
		err := c.Start()
		if started <- err; err != nil {
			return
		}
		err = c.Wait()
		select {
		case <-ending:
		case <-ctx.Done(): // the same signal has ended both
		default:
			fmt.Fprintf(a.err, "uvswitch: the Docker driver has ended (%v): Docker gets no answers; start the switch again\n", err)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("--docker: cannot start the driver: %w", err)
	}
	return func() {
		close(ending)
		_ = c.Process.Signal(unix.SIGTERM)
		defer time.AfterFunc(2*time.Second, func() { _ = c.Process.Kill() }).Stop()
		<-ended
	}, nil
}
