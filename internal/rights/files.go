package rights

import (
	"sync"

	"golang.org/x/sys/unix"
)

// OpenFiles is how many files this process may open. It is read when it is first needed: `run` raises the limit at its start.
var OpenFiles = sync.OnceValue(func() int {
	var files unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return 1024 // what a process has as a rule
	}
	return int(min(files.Cur, 1<<20))
})
