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

// The limit is divided, so that what others can make the switch open leaves a quarter of it to ports, published ports and root. These are the parts of
// clients that are relayed, of questions to name servers, and of clients of the control API, metrics and the page, for each of these.
func RelayFiles() int  { return OpenFiles() / 2 }
func NameFiles() int   { return min(OpenFiles()/8, 3<<10) }
func ReaderFiles() int { return min(OpenFiles()/32, 1<<7) }

// SocketFiles is how many sockets containers may have without root: then there are no clients to relay.
func SocketFiles() int {
	const others = 256 // ports, namespaces, published ports, root
	return min(max(OpenFiles()-others-NameFiles()-3*ReaderFiles(), OpenFiles()/4), 1<<20)
}
