# Every target that people call has a "##" line; `make help` shows them.
SHELL       := /bin/bash
.DEFAULT_GOAL := help

VERSION     ?= $(shell git describe --tags --dirty --always 2>/dev/null | sed 's/^\([0-9a-f]*\(-dirty\)\?\)$$/v0.0.0-\1/' || echo v0.0.0)
# All times in what is built: the last commit's.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1)
GOARCH      ?= $(shell go env GOARCH 2>/dev/null)
ARCHES      := amd64 arm64
DISTS       := el7,el8,el9,el10
RPMARCH_amd64 := x86_64
RPMARCH_arm64 := aarch64

export CGO_ENABLED := 0
export SOURCE_DATE_EPOCH
GOBUILD     := go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
# A tenth smaller: the drain program waits for the API server, whatever its speed.
SMALL       := -gcflags=all=-l

# An operator's machine runs the installer; what of it needs Linux says so.
DESKTOPS    := darwin-arm64 darwin-amd64 windows-amd64

define build-linux
GOOS=linux GOARCH=$(1) $(GOBUILD) -o bin/linux-$(1)/ ./cmd/tectonic-worker ./cmd/tectonic-installer ./cmd/tectonic-machine && GOOS=linux GOARCH=$(1) $(GOBUILD) $(SMALL) -o bin/linux-$(1)/ ./cmd/tectonic-worker-drain
endef

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: go-present
go-present:
	@command -v go >/dev/null || { echo "Installing Go"; \
	  if command -v dnf >/dev/null; then dnf install -y golang; else apt-get update && apt-get install -y golang-go; fi; }

.PHONY: build
build: go-present ## build the binaries for this machine into bin/
	$(call build-linux,$(GOARCH))

.PHONY: build-all
build-all: go-present ## build the binaries for every system and architecture into bin/
	$(foreach a,$(ARCHES),$(call build-linux,$(a)) &&) true
	for s in $(DESKTOPS); do GOOS=$${s%-*} GOARCH=$${s#*-} $(GOBUILD) -o bin/$$s/ ./cmd/tectonic-installer || exit 1; done

.PHONY: completions
completions: build
	mkdir -p dist/completions
	for p in tectonic-worker tectonic-installer; do for s in bash zsh fish; do \
	  bin/linux-$(GOARCH)/$$p completion $$s > dist/completions/$$p.$$s || exit 1; done; done

.PHONY: rpm
rpm: build-all completions ## build the packages for RHEL 7 to 10, x86_64 and aarch64, into dist/
	$(foreach p,tectonic-worker tectonic-installer,$(foreach a,$(ARCHES),go run ./packaging/rpm --package $(p) --binary bin/linux-$(a)/$(p) --version $(VERSION) --arch $(RPMARCH_$(a)) --dist $(DISTS) --out dist &&)) true

# The package for a lab's hosts alone: this architecture, EL 9, built quickly.
.PHONY: rpm-lab
rpm-lab: build completions
	go run ./packaging/rpm --quick --binary bin/linux-$(GOARCH)/tectonic-worker --version $(VERSION) --arch $(RPMARCH_$(GOARCH)) --dist el9 --out dist/lab

.PHONY: tools
tools: go-present
	go run ./test/lab/cmd/lab tools

.PHONY: lab
lab: tools ## build the test lab's caches: worker root, Kubernetes, images (minutes, once)
	go run ./test/lab/cmd/lab build

.PHONY: fmt
fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

.PHONY: lint
lint: tools ## gofmt, vet, staticcheck, shellcheck and the import rules
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not formatted (make fmt):"; echo "$$out"; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	shellcheck --shell=sh $$(git ls-files '*.sh')
	shellcheck .ci/run
	go test -count=1 -run '^TestImports|^TestPackage' ./test

.PHONY: test
test: lint lab ## run all the tests (as root: with real machines; else without them)
	@# The two that take longest begin first.
	go test -timeout 60m -parallel 3 ./test/e2e ./test/metal ./...

.PHONY: demo
demo: lab rpm-lab ## show it: boot a RHEL-like host and a control plane, install the RPM, join, clean up
	go run ./test/demo --rpm dist/lab

.PHONY: demo-metal
demo-metal: lab ## show the installer: PXE, install once, boot from disk, report; BIOS and UEFI
	go run ./test/demo/metal

.PHONY: bench
bench: lab build completions ## measure: firewall, join, agent, matchbox, a boot storm (ratios of one run)
	go run ./packaging/rpm --binary bin/linux-$(GOARCH)/tectonic-worker --version $(VERSION) --arch $(RPMARCH_$(GOARCH)) --dist el9 --out dist
	go run ./test/bench --rpm dist
	go run ./test/bench/matchbox
	go run ./test/bench/storm
	go test -run '^$$' -bench Apply1000 -benchtime 5x ./installer

.PHONY: soak
soak: lab rpm-lab ## inject faults at random (SOAK="-duration 30m -seed N"); prints its seed; not part of the tests
	go run ./test/faults/cmd/soak --rpm dist/lab $(SOAK)

.PHONY: clean
clean: ## remove what was built here (not the lab's caches)
	rm -rf bin dist
