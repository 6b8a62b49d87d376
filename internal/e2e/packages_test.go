package e2e

import (
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

	run("dpkg", "--root="+root, "--force-depends", "-P", "uvswitch")
	left := run("find", root, "-name", "*uvswitch*")
	if left != "" {
		t.Errorf("left:\n%s", left)
	}
}
