package repotest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/go/packages"
)

const module = "github.com/uvswitch/uvswitch"

const root = "../.."

// loaded loads the packages of the repository once: types of other modules come from export data.
var loaded = sync.OnceValues(func() ([]*packages.Package, error) {
	mode := packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedExportFile
	return packages.Load(&packages.Config{Mode: mode, Dir: root}, "./...")
})

func load(t *testing.T) []*packages.Package {
	t.Helper()
	pkgs, err := loaded()
	if err != nil {
		t.Fatal(err)
	}
	if packages.PrintErrors(pkgs) > 0 {
		t.Fatal("packages with errors")
	}
	return pkgs
}

// imports lists, for each package, what it may import besides the standard library.
var imports = map[string][]string{
	// The data plane.
	"internal/frame":           {},
	"internal/frame/frametest": {"internal/frame"},
	"internal/ring":            {"internal/frame", "internal/share"},
	"internal/uring":           {"golang.org/x/sys"},
	"switch":                   {"internal/frame"},
	"internal/atomic":          {},
	"internal/share":           {"internal/atomic", "internal/frame"},
	"internal/policy":          {"internal/atomic", "internal/frame", "github.com/gaissmai/bart"},
	"nat":                      {"internal/atomic", "internal/frame", "internal/policy", "internal/share"},
	"router":                   {"internal/frame", "internal/share", "github.com/gaissmai/bart", "github.com/mdlayher/arp", "github.com/mdlayher/ethernet", "github.com/mdlayher/ndp", "github.com/google/gopacket"},
	"internal/dataplane":       {"internal/frame", "internal/ring", "internal/share", "switch", "nat", "router"},
	"internal/filter":          {},
	"internal/capture":         {"internal/filter", "internal/frame", "internal/ring", "internal/dataplane"},

	// The host.
	"internal/netns":       {"golang.org/x/sys"},
	"internal/link":        {"internal/frame", "internal/netns", "github.com/vishvananda/netlink", "golang.org/x/sys"},
	"tap":                  {"internal/frame", "internal/link", "internal/netns", "internal/ring", "internal/uring", "github.com/songgao/water", "golang.org/x/sys"},
	"tap/vm":               {"internal/frame", "internal/rights", "tap", "golang.org/x/sys"},
	"internal/tapmaker":    {"cmd/uvswitch/api", "internal/frame", "internal/link", "internal/netns", "tap", "golang.org/x/sys"},
	"internal/sockets":     {"internal/frame", "internal/share", "golang.org/x/sys"},
	"internal/userns":      {"cmd/uvswitch/api", "internal/attach", "internal/link", "internal/netns", "internal/rights", "golang.org/x/sys"},
	"internal/ndproxy":     {"internal/bpf", "internal/frame", "router", "github.com/cilium/ebpf", "github.com/mdlayher/packet", "golang.org/x/net", "golang.org/x/sys"},
	"internal/usedports":   {"github.com/vishvananda/netlink", "golang.org/x/sys"},
	"internal/natports":    {"internal/model", "internal/usedports", "nat"},
	"internal/changelock":  {"cmd/uvswitch/api"},
	"internal/rights":      {"golang.org/x/sys"},
	"internal/hugepages":   {"golang.org/x/sys"},
	"internal/sandbox":     {"internal/rights", "github.com/elastic/go-seccomp-bpf", "github.com/landlock-lsm/go-landlock", "golang.org/x/net", "golang.org/x/sys", "kernel.org/pub/linux/libs/security/libcap/psx"},
	"internal/bpf":         {"github.com/cilium/ebpf", "golang.org/x/sys"},
	"internal/uplink":      {"internal/bpf", "internal/frame", "internal/link", "internal/netns", "nat", "tap", "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "golang.org/x/sys"},
	"internal/hostclients": {"internal/bpf", "github.com/cilium/ebpf", "golang.org/x/sys"},
	"internal/relay":       {"internal/rights", "github.com/vishvananda/netlink", "golang.org/x/sys"},
	"internal/dhcp":        {"github.com/google/gopacket"},
	"internal/gateway":     {"internal/events", "internal/policy", "cmd/uvswitch/api", "internal/dhcp", "internal/dns", "internal/dnstcp", "internal/frame", "internal/model", "router"},
	"internal/dnstcp":      {"internal/frame", "gvisor.dev/gvisor"},
	"internal/connlimit":   {},
	"internal/dns":         {"internal/frame", "internal/rights", "internal/share", "golang.org/x/net"},
	"internal/fdstore":     {"cmd/uvswitch/api", "golang.org/x/sys"},

	// The control plane, from values to the host.
	"cmd/uvswitch/api":   {},
	"internal/model":     {"internal/policy", "cmd/uvswitch/api", "internal/dataplane", "internal/frame", "internal/link", "nat", "router", "switch"},
	"internal/policies":  {"cmd/uvswitch/api", "internal/atomic", "internal/frame", "internal/model", "internal/policy", "internal/statefile"},
	"internal/plan":      {"cmd/uvswitch/api", "internal/model", "nat", "router"},
	"internal/config":    {"internal/policy", "cmd/uvswitch/api", "internal/frame", "internal/model", "nat", "router", "github.com/goccy/go-yaml"},
	"internal/events":    {"cmd/uvswitch/api", "internal/model"},
	"internal/statefile": {},
	"internal/explain":   {"cmd/uvswitch/api", "internal/dhcp", "golang.org/x/net", "internal/dataplane", "internal/frame", "internal/model", "router", "switch", "github.com/google/gopacket"},
	"internal/daemon": {"internal/statefile", "internal/events", "internal/policies", "internal/policy", "cmd/uvswitch/api", "internal/changelock", "internal/dns", "internal/gateway", "internal/natports", "internal/dataplane", "internal/fdstore", "internal/frame", "internal/hostclients", "internal/hugepages", "internal/usedports", "internal/link", "internal/model", "internal/ndproxy", "internal/netns",
		"internal/plan", "internal/relay", "internal/rights", "internal/sockets", "internal/tapmaker", "internal/uplink", "nat", "router", "switch", "tap", "tap/vm", "github.com/vishvananda/netlink", "golang.org/x/sys"},
	"internal/web":      {},
	"internal/history":  {"cmd/uvswitch/api"},
	"internal/problems": {"cmd/uvswitch/api", "internal/frame"},
	"internal/apiserver": {"internal/connlimit", "internal/events", "internal/policies", "internal/policy", "cmd/uvswitch/api", "internal/capture", "internal/config", "internal/daemon", "internal/dataplane", "internal/explain", "internal/filter", "internal/frame", "internal/history",
		"internal/model", "internal/problems", "internal/gateway", "internal/rights", "internal/uplink", "internal/web", "nat", "router", "switch", "tap", "github.com/prometheus/client_golang", "golang.org/x/sys"},

	// Clients of the control API, and the command.
	"internal/attach": {"cmd/uvswitch/api", "internal/frame", "internal/link", "internal/model", "internal/netns", "tap"},
	"internal/cni":    {"cmd/uvswitch/api", "internal/attach", "internal/link", "internal/netns", "github.com/containernetworking/cni"},
	"internal/docker": {"internal/statefile", "cmd/uvswitch/api", "internal/attach", "internal/frame", "internal/link", "internal/netns", "internal/tapmaker", "internal/userns", "golang.org/x/sys"},
	"internal/doctor": {"internal/problems", "cmd/uvswitch/api", "internal/userns", "internal/frame", "internal/usedports", "internal/model", "internal/netns", "internal/rights", "internal/uplink", "tap", "github.com/vishvananda/netlink", "golang.org/x/sys"},
	"internal/term":   {"golang.org/x/sys"},
	"internal/top":    {"cmd/uvswitch/api", "internal/frame", "internal/term", "charm.land/bubbletea/v2"},
	"internal/lab":    {"cmd/uvswitch/api", "internal/frame", "internal/link", "internal/netns", "tap", "github.com/vishvananda/netlink", "github.com/vishvananda/netns", "golang.org/x/sys"},
	"internal/cli": {"nat", "internal/policy", "cmd/uvswitch/api", "internal/apiserver", "internal/attach", "internal/capture", "internal/cni", "internal/config", "internal/daemon", "internal/docker", "internal/doctor",
		"internal/explain", "internal/fdstore", "internal/filter", "internal/frame", "internal/lab", "internal/model", "internal/netns", "internal/rights", "internal/sandbox", "internal/tapmaker", "internal/term", "internal/top", "internal/usedports", "internal/userns",
		"github.com/coreos/go-systemd/v22", "github.com/goccy/go-yaml", "github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys", "github.com/google/gopacket"},
	"cmd/uvswitch":    {"internal/cli"},
	"internal/docgen": {"cmd/uvswitch/api", "internal/apiserver", "internal/cli", "internal/config", "internal/frame", "internal/model", "github.com/spf13/cobra"},

	// Tests and measurements.
	"internal/simnet":     {"internal/dataplane", "internal/explain", "internal/frame", "internal/frame/frametest", "internal/policy", "internal/sockets", "nat", "router", "switch", "golang.org/x/sys"},
	"internal/e2e":        {"cmd/uvswitch/api", "internal/netns", "github.com/containernetworking/cni", "github.com/vishvananda/netns", "golang.org/x/sys"},
	"internal/repotest":   {},
	"internal/compliance": {"internal/simnet"},
	"bench/hostile":       {"internal/frame", "internal/frame/frametest", "golang.org/x/sys"},
	"bench": {"bench/hostile", "cmd/uvswitch/api", "internal/capture", "internal/dataplane", "internal/filter", "internal/frame", "internal/frame/frametest", "nat", "router", "switch",
		"golang.org/x/sys", "gonum.org/v1/plot"},
}

// forbidden lists the standard packages that the stages may not import: they get time and I/O as arguments.
var forbidden = map[string][]string{
	"switch": {"time", "os", "net"},
	"nat":    {"time", "os", "net"},
	"router": {"time", "os", "net"},
}

func TestImports(t *testing.T) {
	for _, p := range load(t) {
		name := strings.TrimPrefix(p.PkgPath, module+"/")
		allowed, known := imports[name]
		if !known {
			t.Errorf("%s is not in the table of imports: add it there and in ARCHITECTURE.md", name)
		}
		for path := range p.Imports {
			first, _, _ := strings.Cut(path, "/")
			switch {
			case slices.Contains(forbidden[name], path):
				t.Errorf("%s imports %s", name, path)
			case !strings.Contains(first, "."): // standard library
			case !slices.ContainsFunc(allowed, func(a string) bool {
				return path == module+"/"+a || path == a || strings.HasPrefix(path, a+"/")
			}):
				t.Errorf("%s imports %s, which its row in the table does not allow", name, path)
			}
		}
	}
}

// TestHotFunctions checks every function marked //uvswitch:hot. It must have no lock, map, channel, closure, goroutine or defer,
// must not call fmt, time or log, and must not allocate directly.
func TestHotFunctions(t *testing.T) {
	hot := 0
	for _, p := range load(t) {
		for _, f := range p.Syntax {
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || !isHot(fn.Doc) {
					continue
				}
				hot++
				ast.Inspect(fn.Body, func(n ast.Node) bool {
					if what := offence(p.TypesInfo, n); what != "" {
						t.Errorf("%s: %s is hot, and has %s", p.Fset.Position(n.Pos()), fn.Name.Name, what)
					}
					return true
				})
			}
		}
	}
	if hot < 50 {
		t.Errorf("only %d hot functions found: is the mark still //uvswitch:hot?", hot)
	}
}

func isHot(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return c.Text == "//uvswitch:hot" })
}

func offence(info *types.Info, n ast.Node) string {
	switch n := n.(type) {
	case *ast.FuncLit:
		return "a closure"
	case *ast.GoStmt:
		return "a go statement"
	case *ast.DeferStmt:
		return "a defer"
	case *ast.SelectStmt, *ast.SendStmt:
		return "a channel"
	case *ast.UnaryExpr:
		if _, lit := n.X.(*ast.CompositeLit); n.Op == token.AND && lit {
			return "an allocation"
		}
		if n.Op == token.ARROW {
			return "a channel"
		}
	case *ast.IndexExpr:
		if isMap(info, n.X) {
			return "a map"
		}
	case *ast.RangeStmt:
		if isMap(info, n.X) {
			return "a map"
		}
	case *ast.CallExpr:
		return callOffence(info, n)
	}
	return ""
}

func isMap(info *types.Info, e ast.Expr) bool {
	tv, ok := info.Types[e]
	if !ok {
		return false
	}
	_, is := tv.Type.Underlying().(*types.Map)
	return is
}

func callOffence(info *types.Info, c *ast.CallExpr) string {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		if b, ok := info.Uses[f].(*types.Builtin); ok && (b.Name() == "make" || b.Name() == "new") {
			return "an allocation"
		}
	case *ast.SelectorExpr:
		fn, ok := info.Uses[f.Sel].(*types.Func)
		if !ok || fn.Pkg() == nil {
			return ""
		}
		switch fn.Pkg().Path() {
		case "fmt", "time", "log", "log/slog", "errors", "reflect":
			return "package " + fn.Pkg().Path()
		case "sync":
			return "a lock"
		}
	}
	return ""
}

// TestHotFunctionsFinds checks that offence finds each forbidden construct.
func TestHotFunctionsFinds(t *testing.T) {
	dir := t.TempDir()
	src := `package x
import ("fmt"; "sync")
var m map[int]int
var mu sync.Mutex
var c chan int
//uvswitch:hot
func f() { mu.Lock(); defer mu.Unlock(); _ = m[1]; for range m {}; c <- 1; <-c; fmt.Println(); _ = make([]int, 9); _ = &struct{}{}; go func(){}() }
`
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	mode := packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedExportFile | packages.NeedImports | packages.NeedName
	pkgs, err := packages.Load(&packages.Config{Mode: mode, Dir: dir}, ".")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range pkgs[0].Syntax {
		ast.Inspect(f, func(n ast.Node) bool {
			if what := offence(pkgs[0].TypesInfo, n); n != nil && what != "" {
				found[what] = true
			}
			return true
		})
	}
	for _, want := range []string{"a lock", "a defer", "a map", "a channel", "package fmt", "an allocation", "a go statement", "a closure"} {
		if !found[want] {
			t.Errorf("did not find %s; found %v", want, found)
		}
	}
}

// TestPackageDocs checks that every package has a package comment, including main packages.
func TestPackageDocs(t *testing.T) {
	for _, p := range load(t) {
		if !slices.ContainsFunc(p.Syntax, func(f *ast.File) bool { return f.Doc != nil }) {
			t.Errorf("%s has no package comment", p.PkgPath)
		}
	}
}

var machinePath = regexp.MustCompile(`(^|[^a-zA-Z.])/(work|farm|root)/`)

// TestDocuments checks that links and make targets in the documents exist, that no document has a path of a build machine, and
// that ARCHITECTURE.md names every package.
func TestDocuments(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md", "docs/compliance.md", "docs/nat.md", "docs/README.md", "docs/drops.md", "docs/publish-a-port.md",
		"docs/plug-a-vm.md", "docs/docker.md", "docs/namespaces.md", "docs/limit-a-rate.md", "docs/firecracker.md", "docs/libvirt.md", "docs/systemd.md", "docs/podman.md", "docs/kubernetes.md", "docs/capture-a-flow.md", "docs/find-a-drop.md", "docs/configure.md", "docs/control-api.md", "docs/monitoring/README.md"} {
		text := read(t, doc)
		if machinePath.MatchString(text) {
			t.Errorf("%s has a path of some machine", doc)
		}
		for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).MatchString(makefile) {
				t.Errorf("%s names `make %s`, which there is not", doc, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which there is not", doc, m[1])
			}
		}
		for _, m := range regexp.MustCompile("`((?:internal|switch|router|nat|tap|cmd|bench|docs)/[a-z0-9_/.-]+)`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s, which there is not", doc, m[1])
			}
		}
	}
	for name := range imports {
		if !strings.Contains(read(t, "ARCHITECTURE.md"), name) {
			t.Errorf("ARCHITECTURE.md does not mention %s", name)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestLockedSuffix: a function whose name ends in Locked is called with a lock held. So its caller is …Locked, too, or takes a lock
// itself: by a method Lock, TryLock or RLock, or by a function marked //uvswitch:locks, which runs its argument with a lock held.
func TestLockedSuffix(t *testing.T) {
	found := 0
	for _, p := range load(t) {
		locks := lockers(p)
		for _, f := range p.Syntax {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
					for _, call := range unlockedCalls(fn, locks, p.TypesInfo) {
						t.Errorf("%s: %s uses %s without a lock; rename it …Locked, or take the lock", p.Fset.Position(call.Pos()), fn.Name.Name, call.Name)
					}
					if strings.HasSuffix(fn.Name.Name, "Locked") {
						found++
					}
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d functions …Locked found: is that still the suffix?", found)
	}
}

// lockers are the functions of a package that run their argument with a lock held.
func lockers(p *packages.Package) map[string]bool {
	out := map[string]bool{"Lock": true, "TryLock": true, "RLock": true}
	for _, f := range p.Syntax {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Doc != nil && slices.ContainsFunc(fn.Doc.List, func(c *ast.Comment) bool { return c.Text == "//uvswitch:locks" }) {
				out[fn.Name.Name] = true
			}
		}
	}
	return out
}

// unlockedCalls lists the uses of …Locked functions in a function that holds no lock. Such a function may also be passed as a value.
// Types, where known, tell functions from other names.
func unlockedCalls(fn *ast.FuncDecl, locks map[string]bool, info *types.Info) (out []*ast.Ident) {
	if strings.HasSuffix(fn.Name.Name, "Locked") {
		return nil
	}
	holds := fn.Doc != nil && slices.ContainsFunc(fn.Doc.List, func(c *ast.Comment) bool { return c.Text == "//uvswitch:locks" })
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && locks[s.Sel.Name] {
				holds = true
			}
		case *ast.SelectorExpr:
			if !strings.HasSuffix(n.Sel.Name, "Locked") {
				return true
			}
			if info != nil {
				if _, function := info.Uses[n.Sel].(*types.Func); !function {
					return true
				}
			}
			out = append(out, n.Sel)
		}
		return true
	})
	if holds {
		return nil
	}
	return out
}

// A rule that cannot fail proves nothing.
func TestLockedSuffixFinds(t *testing.T) {
	src := `package x
import "sync"
type d struct{ mu sync.Mutex }
func (x *d) setLocked() {}
func (x *d) good() { x.mu.Lock(); defer x.mu.Unlock(); x.setLocked() }
//uvswitch:locks
func (x *d) change(fn func()) { x.mu.Lock(); defer x.mu.Unlock(); fn() }
func (x *d) alsoGood() { x.change(x.setLocked) }
func (x *d) moreLocked() { x.setLocked() }
func (x *d) bad() { x.setLocked() }
func (x *d) worse() { f := x.setLocked; f() }
`
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	locks := lockers(&packages.Package{Syntax: []*ast.File{f}})
	var bad []string
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && len(unlockedCalls(fn, locks, nil)) > 0 {
			bad = append(bad, fn.Name.Name)
		}
	}
	if want := []string{"bad", "worse"}; !slices.Equal(bad, want) {
		t.Errorf("found %v, want %v", bad, want)
	}
}

var lockRank = regexp.MustCompile(`\bLock (\d+)\b`)

// TestLockOrder: every lock of the product has a comment with its rank, "Lock N". A goroutine that holds a lock takes only locks of a
// higher rank; ARCHITECTURE.md lists them all.
func TestLockOrder(t *testing.T) {
	architecture := read(t, "ARCHITECTURE.md")
	for _, p := range load(t) {
		name := strings.TrimPrefix(p.PkgPath, module+"/")
		if name == "internal/e2e" || name == "internal/simnet" || name == "bench" || strings.HasPrefix(name, "internal/repotest") || strings.HasSuffix(p.ID, ".test]") {
			continue
		}
		for _, f := range p.Syntax {
			ast.Inspect(f, func(n ast.Node) bool {
				st, ok := n.(*ast.TypeSpec)
				if !ok {
					return true
				}
				s, ok := st.Type.(*ast.StructType)
				if !ok {
					return true
				}
				for _, field := range s.Fields.List {
					if text := types.ExprString(field.Type); !strings.Contains(text, "sync.Mutex") && !strings.Contains(text, "sync.RWMutex") && text != "changelock.Lock" {
						continue
					}
					if m := lockRank.FindStringSubmatch(field.Comment.Text() + field.Doc.Text()); m == nil {
						t.Errorf("%s: the lock of %s has no rank (// Lock N: ...)", p.Fset.Position(field.Pos()), st.Name.Name)
					} else if row := st.Name.Name + "." + field.Names[0].Name; !strings.Contains(architecture, "`"+row+"`") {
						t.Errorf("ARCHITECTURE.md does not list the lock %s (rank %s)", row, m[1])
					}
				}
				return true
			})
		}
	}
}

// TestSizes: a package is a room, not a hall; a line can be read without scrolling.
func TestSizes(t *testing.T) {
	largest := map[string]int{"nat": 5700, "internal/frame": 3100, "router": 3200, "internal/daemon": 4800, "internal/sockets": 3200, "internal/simnet": 2550, "internal/dataplane": 3400, "internal/uplink": 4400, "internal/cli": 4500, "internal/apiserver": 3150, "internal/model": 2900, "tap": 2750, "bench": 3250} // one concern each: see docs/adr/0007-package-sizes.md
	for _, p := range load(t) {
		name, lines := strings.TrimPrefix(p.PkgPath, module+"/"), 0
		for _, file := range p.GoFiles {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			lines += strings.Count(string(b), "\n")
		}
		most := 2200
		if n, ok := largest[name]; ok {
			most = n
		}
		if lines > most {
			t.Errorf("%s has %d lines, more than %d: does it have one concern?", name, lines, most)
		}
	}
}
