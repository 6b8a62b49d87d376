package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPackages installs the .deb in a root of its own, uses it there, and removes it. The .rpm and the tarball must have the same
// files.
func TestPackages(t *testing.T) {
	Need(t, "dpkg", "rpm", "busybox", "make", "chroot")
	b := NewHost(t)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	repoBin.Lock()
	func() {
		defer repoBin.Unlock()
		run("make", "-C", "../..", "packages", "VERSION=9.8.7")
	}()
	made := func(pattern string) string {
		t.Helper()
		list, _ := filepath.Glob("../../bin/packages/" + pattern)
		if len(list) != 1 {
			t.Fatalf("%s: %v", pattern, list)
		}
		return list[0]
	}
	deb, rpm, tarball := made("*_9.8.7_amd64.deb"), made("*-9.8.7-1.x86_64.rpm"), made("*-9.8.7-linux-amd64.tar.gz")

	root := t.TempDir()
	for _, dir := range []string{"bin", "var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"var/lib/dpkg/status", "etc/group"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("sh", "-c", `cp "$(command -v busybox)" "$0/bin/busybox" && ln -s busybox "$0/bin/sh" && ln -s busybox "$0/bin/addgroup"`, root)
	run("dpkg", "--root="+root, "--force-depends", "-i", deb)
	contains(t, run("dpkg", "--root="+root, "-s", "uvswitch"), "Status: install ok installed", "Version: 9.8.7")
	contains(t, run("chroot", root, "/usr/bin/uvswitch", "version"), "9.8.7")
	contains(t, run("chroot", root, "/bin/busybox", "env", "CNI_COMMAND=VERSION", "/opt/cni/bin/uvswitch"), `"supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]`)
	contains(t, run("chroot", root, "/usr/libexec/netavark/uvswitch", "info"), `"version":"9.8.7"`)
	contains(t, run("chroot", root, "/usr/lib/x86_64-linux-gnu/wireshark/extcap/uvswitch", "--extcap-interfaces"), "extcap {version=9.8.7}")
	if static := run("sh", "-c", "head -c 4096 "+root+"/usr/bin/uvswitch | grep -c ld-linux || true"); strings.TrimSpace(static) != "0" {
		t.Error("the command wants a dynamic loader")
	}

	b.exe = filepath.Join(root, "usr/bin/uvswitch")
	b.Start()
	containers(b)
	ping(b, "web", "172.29.0.3")
	ping(b, "web", "10.1.0.2")
	if err := b.Stop(); err != nil {
		t.Error(err)
	}

	// The same files, apart from paths that differ between distributions.
	place := regexp.MustCompile(`^\.?/usr/(lib64|lib/x86_64-linux-gnu)/wireshark|^\.?/usr/share/zsh/[a-z-]+|^\.?/usr/(lib|libexec)/cni`)
	files := func(list string) (out string) {
		for line := range strings.Lines(list) {
			if line = strings.TrimPrefix(strings.TrimSpace(line), "."); line != "" && !strings.HasSuffix(line, "/") {
				out += place.ReplaceAllString(line, "") + "\n"
			}
		}
		return out
	}
	sorted := func(list string) string { return run("sh", "-c", `printf %s "$0" | LC_ALL=C sort`, files(list)) }
	inTar := sorted(run("tar", "-tzf", tarball))
	if inRPM := sorted(run("rpm", "-qlp", "--nosignature", rpm)); inTar != inRPM {
		t.Errorf("tarball:\n%s\nrpm:\n%s", inTar, inRPM)
	}
	contains(t, inTar, "/usr/bin/uvswitch\n", "/usr/lib/systemd/system/uvswitch.service\n", "/usr/share/man/man1/uvswitch-run.1\n", "/usr/share/bash-completion/completions/uvswitch\n", "/opt/cni/bin/uvswitch\n", "/usr/libexec/netavark/uvswitch\n")
	if strings.Contains(inTar, "\n/lib/") {
		t.Error("the tarball has /lib, which would replace a link")
	}

	installScript(t, run, tarball)

	run("dpkg", "--root="+root, "--force-depends", "-P", "uvswitch")
	left := run("find", root, "-name", "*uvswitch*")
	if left != "" {
		t.Errorf("left:\n%s", left)
	}
}

// installScript checks install.sh: as root of a system that has busybox only, below a folder, over HTTP, with a wrong checksum; an upgrade, and
// the removal.
func installScript(t *testing.T, run func(...string) string, tarball string) {
	t.Helper()
	root, release := t.TempDir(), t.TempDir()
	for _, dir := range []string{"bin", "etc", "proc", "dev", "tmp", "release", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run("sh", "-c", `cp "$(command -v busybox)" "$0/bin/busybox" && touch "$0/etc/group" "$0/etc/passwd" && chroot "$0" /bin/busybox --install -s /bin`, root)
	run("sh", "-c", `cp "$0" "$1" && cp ../packaging/install.sh "$1" && cd "$1" && sha256sum * > SHA256SUMS`, tarball, release)
	run("sh", "-c", `cp "$0"/* "$1/release"`, release, root)
	script := filepath.Join(release, "install.sh")
	installed := func(where string) string { return run("find", where, "-name", "*uvswitch*", "-not", "-type", "d") }

	before := installed(filepath.Join(root, "usr"))
	contains(t, run("chroot", root, "/bin/sh", "/release/install.sh", "--from", "/release"), "uvswitch 9.8.7: installed as /usr/bin/uvswitch", "uvswitch lab tour")
	contains(t, run("chroot", root, "/usr/bin/uvswitch", "version"), "9.8.7")
	contains(t, installed(root), "/usr/lib/systemd/system/uvswitch.service", "/opt/cni/bin/uvswitch", "/usr/share/doc/uvswitch/uvswitch.yaml")
	stale := filepath.Join(root, "usr/share/doc/uvswitch/old")
	run("sh", "-c", `touch "$0" && echo /usr/share/doc/uvswitch/old >> "$1" && sort -o "$1" "$1"`, stale, filepath.Join(root, "usr/share/uvswitch/files"))
	run("chroot", root, "/bin/sh", "/release/install.sh", "--from", "/release", "--version", "9.8.7") // an upgrade
	if _, err := os.Stat(stale); err == nil {
		t.Error("an upgrade leaves a file that the new version does not have")
	}
	contains(t, run("chroot", root, "/bin/sh", "/release/install.sh", "--uninstall"), "was removed")
	if after := installed(filepath.Join(root, "usr")); after != before {
		t.Errorf("left by install.sh:\n%s", after)
	}

	web := httptest.NewServer(http.FileServer(http.Dir(release)))
	defer web.Close()
	prefix := filepath.Join(t.TempDir(), `a b&c|d\e`)
	contains(t, run("sh", script, "--from", web.URL, "--prefix", prefix), "installed as "+prefix+"/bin/uvswitch", `export PATH="`+prefix+"/bin")
	contains(t, run(prefix+"/bin/uvswitch", "version"), "9.8.7")
	if units := run("find", prefix, "-name", "*.service"); units != "" {
		t.Errorf("units below a folder: %s", units)
	}
	run("sh", script, "--prefix", prefix, "--uninstall")
	if left := strings.TrimSpace(run("find", prefix)); left != prefix {
		t.Error("--uninstall leaves", left)
	}

	relative := exec.Command("sh", script, "--from="+release, "--prefix=below/") // a folder of the present one
	relative.Dir = t.TempDir()
	if out, err := relative.CombinedOutput(); err != nil || !strings.Contains(string(out), relative.Dir+"/below/bin/uvswitch") {
		t.Errorf("%v %s", err, out)
	}
	contains(t, run(relative.Dir+"/below/bin/uvswitch", "version"), "9.8.7")

	run("sh", "-c", `for f in "$0"/*.tar.gz; do echo >> "$f"; done`, release)
	prefix = t.TempDir()
	for args, want := range map[string]string{
		"--from " + release + " --prefix " + prefix:                  "the checksum of uvswitch-9.8.7-linux-amd64.tar.gz is not that of SHA256SUMS. Nothing was installed",
		"--from " + release + " --version 1.0.0 --prefix " + release: "does not name one file",
		"--from " + web.URL + "/none --prefix " + release:            "cannot be downloaded",
		"--from /nowhere --prefix " + release:                        "/nowhere has no file SHA256SUMS",
		"--uninstall --root " + release:                              "this script has installed nothing there",
		"--prefix":                                                   "--prefix needs a value",
		"--from x --prefix " + prefix + " --root " + prefix:          "exclude each other",
		"install": "unknown option install",
	} {
		out, err := exec.Command("sh", append([]string{script}, strings.Fields(args)...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("install.sh %s: %v %s", args, err, out)
		}
	}
	if left := strings.TrimSpace(run("find", prefix)); left != prefix {
		t.Error("a wrong checksum leaves", left)
	}
}
