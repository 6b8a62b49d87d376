# Every target works on a machine with Go and, to install the tools that it needs, apt.
# Targets that need root say so.

GO       ?= go
FUZZ     ?= 1
PACKAGES  = iproute2 iputils-ping iputils-tracepath iperf3 tcpdump tshark iptables nftables ethtool arping socat curl procps bridge-utils \
            coturn traceroute bind9-dnsutils dnsmasq-base musl-tools isc-dhcp-client ndisc6 radvdump ipv6toolkit thc-ipv6 dsniff yersinia hping3 openssl mandoc chromium fonts-dejavu-core qemu-system-x86 vde2 docker.io busybox-static dhcpcd-base dnsperf podman runc uidmap rootlesskit slirp4netns util-linux systemd rpm dpkg make
TOOLS     = ip ping tracepath iperf3 tcpdump tshark iptables nft ethtool arping socat curl sysctl turnserver traceroute dig dnsmasq musl-gcc dhclient dhcpcd dnsperf rdisc6 radvdump na6 atk6-fake_router26 arpspoof yersinia hping3 openssl mandoc chromium qemu-system-x86_64 vde_plug2tap dockerd busybox podman runc newuidmap rootlesskit slirp4netns setpriv systemd-socket-activate rpm dpkg
PEERS     = openvswitch-switch vde2 passt slirp4netns gcc libc6-dev util-linux patchelf
GVISOR    = v0.8.9
NFPM      = v2.43.0
VERSION  ?= $(shell sed -n 's/^var Version = "\(.*\)"/\1/p' internal/cli/version.go)
CYCLONEDX = v1.9.0
VULNCHECK = v1.1.4
# -buildvcs: `uvswitch version` says the commit, also where GOFLAGS turns that off.
BUILD     = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto
# Fuzzers, as package:function:inputs; the inputs take 4 to 27 seconds on two CPUs.
FUZZERS   = internal/frame:FuzzParse:80000 nat:FuzzNAT:80000 router:FuzzPunted:30000 router:FuzzRoute:80000 switch:FuzzGuard:80000 tap/vm:FuzzStream:20000 internal/simnet:FuzzDataplane:3000 internal/simnet:FuzzHistory:1500 internal/simnet:FuzzTranslation:1200 internal/simnet:FuzzFragments:1200 internal/sockets:FuzzWrite:8000 internal/config:FuzzParse:30000 \
            internal/filter:FuzzCompile:120000 internal/capture:FuzzReader:70000 internal/apiserver:FuzzBody:25000 internal/explain:FuzzSpec:80000 internal/docker:FuzzDocker:8000 internal/dns:FuzzAsk:120000 internal/dns:FuzzQuick:200000 internal/dnstcp:FuzzParse:120000 internal/dhcp:FuzzAnswer:200000 internal/policy:FuzzRule:120000

.PHONY: bench-scale docs man packages release vulncheck screenshots compliance compliance-check build install uninstall test test-all test-containers unit race fuzz e2e e2e-all bench bench-micro lint demo check deps clean bench-quick bench-hostile bench-rootless bench-deps bench-pasta pgo

# Build the static command bin/uvswitch.
build:
	$(BUILD) -o bin/uvswitch ./cmd/uvswitch

# Build bin/packages: .deb, .rpm, and a tarball to unpack in /. Later versions of nfpm have dependencies that Go's module proxy
# lacks.
packages: man
	$(BUILD) -ldflags '-s -w -X github.com/uvswitch/uvswitch/internal/cli.Version=$(VERSION)' -o bin/uvswitch ./cmd/uvswitch
	rm -rf bin/packages && mkdir -p bin/packages
	for p in deb rpm; do VERSION=$(VERSION) $(GO) run github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM) package -f internal/packaging/nfpm.yaml -p $$p -t bin/packages/ || exit 1; done
	dpkg-deb --fsys-tarfile bin/packages/uvswitch_$(VERSION)_amd64.deb | gzip -9 > bin/packages/uvswitch-$(VERSION)-linux-amd64.tar.gz

# Build bin/release: the packages, the script that installs the tarball, their checksums, and a software bill of materials (SBOM, CycloneDX).
release: packages
	rm -rf bin/release && mkdir -p bin/release && cp bin/packages/* internal/packaging/install.sh bin/release/
	$(GO) run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX) app -json -licenses -main cmd/uvswitch -output bin/release/uvswitch-$(VERSION).cdx.json .
	cd bin/release && sha256sum * > SHA256SUMS

# Look for known vulnerabilities in the code that the command uses. It needs the Go vulnerability database, vuln.go.dev.
vulncheck:
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@$(VULNCHECK) ./... || { s=$$?; \
		echo "vulncheck failed. If the message above is about fetching, this machine does not reach https://vuln.go.dev; the public workflow runs this check."; exit $$s; }

# Install the command, man pages and completion below PREFIX, /usr/local by default. Only the copying runs as root.
PREFIX ?= /usr/local
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo)
install: build man
	$(AS_ROOT) install -D -m 0755 bin/uvswitch $(DESTDIR)$(PREFIX)/bin/uvswitch
	$(AS_ROOT) install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/man/man1 bin/man/*.1
	$(AS_ROOT) install -D -m 0644 bin/completion/uvswitch.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/uvswitch
	$(AS_ROOT) install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/zsh/site-functions bin/completion/_uvswitch
	$(AS_ROOT) install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d bin/completion/uvswitch.fish
	$(AS_ROOT) install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/uvswitch internal/packaging/uvswitch.yaml docs/config.schema.json docs/config.md

# Remove what `make install` has installed. Give the same PREFIX and DESTDIR.
uninstall:
	$(AS_ROOT) rm -f $(DESTDIR)$(PREFIX)/bin/uvswitch $(DESTDIR)$(PREFIX)/share/man/man1/uvswitch.1 $(DESTDIR)$(PREFIX)/share/man/man1/uvswitch-*.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/uvswitch $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_uvswitch \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/uvswitch.fish
	$(AS_ROOT) rm -rf $(DESTDIR)$(PREFIX)/share/doc/uvswitch

# End-to-end tests run side by side. They mostly wait, so more of them run at once than there are CPUs.
E2E = $(GO) test -count=1 -timeout 30m -parallel 6

# Run everything that CI runs. Needs root for the tests in namespaces.
test: deps lint unit compliance-check race fuzz e2e

# The same with the end-to-end tests on every pair. Needs root.
test-all: deps lint unit compliance-check race fuzz e2e-all

# Generate docs/compliance.md from the tests' names, comments and results.
compliance:
	$(GO) run ./internal/compliance > docs/compliance.md.new && mv docs/compliance.md.new docs/compliance.md

# Generate the documents that come from the code.
docs:
	@for d in drops.md openapi.json config.md config.schema.json; do $(GO) run ./internal/docgen $${d%.*} > docs/$$d.new && mv docs/$$d.new docs/$$d; done

# Generate man pages in bin/man and completion scripts in bin/completion.
man:
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null)} $(GO) run ./internal/docgen man bin/man
	$(GO) run ./internal/docgen completion bin/completion

# Make screenshots of the live page and of top, in docs/images. Needs root and chromium.
screenshots:
	UVSWITCH_SCREENSHOTS=$(CURDIR)/docs/images $(GO) test -count=1 -run 'TestWebPage|TestTop' ./internal/e2e

compliance-check:
	@$(GO) run ./internal/compliance | diff -u docs/compliance.md - || { echo "docs/compliance.md is not what the tests say: make compliance"; exit 1; }

# Tests that need no root: units, properties, scenarios in virtual time, and the rules of the repository.
unit:
	$(GO) test $$($(GO) list ./... | grep -v /e2e)

# Tests under the race detector: packages, and the whole command in namespaces. Needs root. And the lock-free tables in every order of the
# atomic operations of two or three threads. In most tests of the simulated network there is one thread only: of these, the tests with several.
race:
	$(GO) test -race -timeout 30m ./internal/frame ./internal/ring ./internal/uring ./switch ./router ./nat ./internal/dataplane ./internal/capture ./internal/daemon ./tap
	$(GO) test -race -timeout 30m -run 'TwoQuestionsAtOnce|conntrack_clash|FuzzWorkers|FuzzDataplane' ./internal/simnet
	$(GO) test -tags interleave -run Interleave ./nat ./internal/share
	UVSWITCH_RACE=1 $(E2E) -run 'TestContainersReachEachOther|TestNamespaceDies|TestDump$$|TestMonitor|TestReloadOddOrders|TestChangesDuringReload|TestWorkers|TestPublish' ./internal/e2e

# Run each fuzzer for FUZZ times its inputs. The limit is a number of inputs: before Go 1.27 the end of a time limit can be
# reported as a failure (golang/go#75804). An input that reaches new code is made smaller in ten tries, not in a time: with 5 s for each,
# 6,000 inputs of FuzzDataplane took 150 s instead of 47.
fuzz:
	@for f in $(FUZZERS); do pkg=$${f%%:*} inputs=$${f##*:} name=$${f#*:}; name=$${name%:*}; \
		echo "$$name in $$pkg, $$((inputs * $(FUZZ))) inputs"; \
		$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $$((inputs * $(FUZZ)))x -fuzzminimizetime 10x ./$$pkg || exit 1; \
	done

# Tests that do not depend on the I/O backend: e2e-all runs them once.
ANY_IO = TestWebPage|TestTop|TestDocs|TestReadme|TestDoctor|TestOpenAPI|TestMetrics|TestCompletionOfNames|TestReloadAllOrNothing|TestExtcap|TestDocker|TestCNI|TestNetavark|TestPodman|TestSystemd|TestPackages

# End-to-end tests with namespaces, TAPs, iperf3 and tshark. Each test runs once, on its pair of uplink (tcx or clsact) and I/O
# backend (io_uring or read-write). Needs root. The build comes first: TestReadme builds in its time limit, beside other tests.
e2e: build
	$(E2E) ./internal/e2e

# The same on each I/O backend, and the tests of the uplink on every pair. Needs root.
e2e-all:
	UVSWITCH_ALL_PAIRS=1 UVSWITCH_IO=io_uring $(E2E) ./internal/e2e
	UVSWITCH_ALL_PAIRS=1 UVSWITCH_IO=read-write $(E2E) -skip '$(ANY_IO)' ./internal/e2e

# Only the tests with containers and virtual machines, which `make e2e` runs, too. Needs root.
test-containers: deps
	$(E2E) -v -run 'TestDocker|TestCNI|TestNetavark|TestPodman|TestMachines' ./internal/e2e

# Compare uvswitch with the kernel's path and with the installed peers (bench-deps); print ratios. Needs root.
bench: deps
	$(GO) run ./bench

# Measure what a container keeps beside floods of its neighbor, and beside the kernel's path. Needs root.
bench-hostile: deps
	$(GO) run ./bench -hostile -nice -5 -rounds 5 -seconds 1 -out bench/results/hostile

bench-scale: deps
	$(GO) run ./bench -scale -rounds 3 -seconds 1

bench-quick: deps
	$(GO) run ./bench -quick

# uvswitch of an ordinary user beside what else such a user has; after `make bench-pasta`, also beside a pasta of today.
bench-rootless: deps
	$(GO) run ./bench -rootless

# The pasta of Debian's unstable, from the mirror of this machine. The C library that it needs is put beside it.
bench-pasta: bench-deps
	rm -rf bin/peers/pasta bin/peers/sid && mkdir -p bin/peers/sid/lists/partial && cd bin/peers/sid && \
		echo "deb $$(apt-get indextargets --format '$$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -1) sid main" > sources && \
		sid="apt-get -qq -o Dir::Etc::SourceList=$$PWD/sources -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$$PWD/lists -o APT::Sandbox::User=root" && \
		$$sid update && $$sid download passt libc6 && for p in *.deb; do dpkg -x $$p . || exit 1; done && \
		cp -L usr/bin/pasta .. && cp -L usr/bin/passt.avx2 ../pasta.avx2 && lib=$$PWD/usr/lib/x86_64-linux-gnu && \
		patchelf --set-interpreter $$lib/ld-linux-x86-64.so.2 --set-rpath $$lib ../pasta ../pasta.avx2

# Install the systems to compare with: Debian packages, and gvisor-tap-vsock, built in bin/peers. Needs root.
bench-deps: deps
	@command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || { echo "bench-deps installs Debian packages, as root; elsewhere install $(PEERS) yourself"; exit 1; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PEERS) >/dev/null
	mkdir -p bin/peers && d=$$(mktemp -d) && cd $$d && $(GO) mod init peers 2>/dev/null && \
		$(GO) get github.com/containers/gvisor-tap-vsock/cmd/gvproxy@$(GVISOR) github.com/containers/gvisor-tap-vsock/cmd/vm@$(GVISOR) && \
		$(GO) build -o $(CURDIR)/bin/peers/gvproxy github.com/containers/gvisor-tap-vsock/cmd/gvproxy && \
		$(GO) build -o $(CURDIR)/bin/peers/gvforwarder github.com/containers/gvisor-tap-vsock/cmd/vm; s=$$?; rm -rf $$d; exit $$s

# Record the profile for profile-guided optimization (PGO) from the micro benchmarks.
pgo:
	$(GO) test -run '^$$' -bench Pipeline -benchtime 3s -cpuprofile $(CURDIR)/cmd/uvswitch/default.pgo -o /dev/null ./bench

bench-micro:
	$(GO) test -run '^$$' -bench . ./bench ./nat

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these files"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Run the guided tour. Needs root.
demo: build
	@test "$$(id -u)" = 0 || { echo "make demo makes network namespaces and TAP devices, which needs root: sudo make demo"; exit 1; }
	@test -e /dev/net/tun || { echo "make demo needs /dev/net/tun: modprobe tun"; exit 1; }
	bin/uvswitch lab tour

# Checks before a commit: they need no root and little time.
check: lint unit

# Install the tools of the tests and benchmarks with apt, if any is missing. Services of these packages are not started: the tests
# run their own.
deps:
	@missing=""; for t in $(TOOLS); do command -v $$t >/dev/null || missing="$$missing $$t"; done; \
	if [ -n "$$missing" ]; then \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			echo "installing what is missing:$$missing"; \
			policy=/usr/sbin/policy-rc.d; \
			if [ -e $$policy ]; then policy=; else printf '#!/bin/sh\nexit 101\n' > $$policy; chmod +x $$policy; fi; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; s=$$?; \
			[ -z "$$policy" ] || rm -f $$policy; exit $$s; \
		else \
			echo "missing:$$missing; as root on Debian: apt-get install $(PACKAGES). Tests that need them are skipped."; \
		fi; \
	fi

clean:
	rm -rf bin
