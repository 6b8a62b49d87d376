package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is the release. Everything else that needs the version reads this line; only a build of packages with another VERSION sets it.
var Version = "0.2.0"

// build is what `uvswitch version` prints.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"` // the commit; "" when the build did not know it
	Date     string `json:"date"`     // the commit's, RFC 3339
	Modified bool   `json:"modified"` // the build had changes that were not committed
	Go       string `json:"go"`
}

func thisBuild() build {
	v := build{Version: Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Date = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (v build) String() string {
	commit := "unknown commit"
	if v.Revision != "" {
		commit = fmt.Sprintf("commit %.12s of %s", v.Revision, v.Date)
	}
	if v.Modified {
		commit += ", with changes"
	}
	return fmt.Sprintf("uvswitch %s (%s, %s)", v.Version, commit, v.Go)
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version, the commit and its date", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		if a.json {
			return a.printJSON(thisBuild())
		}
		_, err := fmt.Fprintln(a.out, thisBuild())
		return err
	}}
}
