package api

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// DefaultSocket is the path of the control socket of root's switch, unless another path is set.
const DefaultSocket = "/run/uvswitch/uvswitch.sock"

// Socket is the path of the control socket that a client uses if it is told no other: $UVSWITCH_SOCKET, or else that of this user's own switch,
// or else that of root's switch if only that one is there.
func Socket() string {
	own := filepath.Join(UserFolder(), "uvswitch.sock")
	if UserFolder() == "" || !exists(own) && exists(DefaultSocket) {
		own = DefaultSocket
	}
	return cmp.Or(os.Getenv("UVSWITCH_SOCKET"), own)
}

// UserFolder is the folder of an ordinary user's switch, for its control socket and its state: $XDG_RUNTIME_DIR/uvswitch. Without that variable
// it is /run/user/UID/uvswitch, or /tmp/uvswitch-UID. It is empty for root. Root of a user namespace is an ordinary user.
func UserFolder() string {
	uid := os.Geteuid()
	if uid == 0 && !InUserNamespace() {
		return ""
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "uvswitch")
	}
	if dir := fmt.Sprintf("/run/user/%d", uid); exists(dir) {
		return filepath.Join(dir, "uvswitch")
	}
	return fmt.Sprintf("/tmp/uvswitch-%d", uid)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// InUserNamespace reports whether this process is in a user namespace other than the first one, which maps all users to themselves
// (user_namespaces(7)).
func InUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}
