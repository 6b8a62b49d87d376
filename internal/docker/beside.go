package docker

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/userns"
)

// The dockerd of an ordinary user runs in namespaces that RootlessKit has made. There it looks for the driver's socket, and from there it takes the
// devices. So the driver is a process there, beside dockerd, and the switch gets its TAPs as file descriptors.

// dockerdVariable is the environment variable that has dockerd's process ID, for the program beside it.
const dockerdVariable = "UVSWITCH_DOCKERD"

// lookTime is how often a dockerd is looked for.
const lookTime = 500 * time.Millisecond

// Follow runs this program again beside each dockerd whose process ID stands in file pidfile, one after another, until ctx is done. It calls tell
// when that program fails.
func Follow(ctx context.Context, pidfile string, tell func(error)) {
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	told := ""
	for ; ctx.Err() == nil; waitFor(ctx, tick) {
		pid := dockerdIn(pidfile)
		if pid == 0 {
			continue
		}
		switch err := userns.RunBeside(ctx, pid, os.Args, fmt.Sprintf("%s=%d", dockerdVariable, pid)); {
		case err == nil || ctx.Err() != nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			tell(fmt.Errorf("the driver beside dockerd (process %d) has failed: %w", pid, err))
		}
	}
}

func waitFor(ctx context.Context, tick *time.Ticker) {
	select {
	case <-tick.C:
	case <-ctx.Done():
	}
}

// dockerdIn is the dockerd whose process ID stands in a file; 0 if there is none.
func dockerdIn(file string) int {
	text, _ := os.ReadFile(file)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || strings.TrimSpace(string(name)) != "dockerd" {
		return 0 // it has ended, and another process has the number
	}
	return pid
}

// AwaitEnd returns when the dockerd has ended beside which Follow has started this program, or when ctx is done.
func AwaitEnd(ctx context.Context) error {
	pid, err := strconv.Atoi(os.Getenv(dockerdVariable))
	if err != nil {
		return fmt.Errorf("%s: %w", dockerdVariable, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("dockerd: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		defer unix.Close(fd)
		ended <- userns.AwaitExit(fd)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
