# Everything about Rempart starts here. `make help` lists the verbs.

# The toolchain is part of what makes masters byte-identical: go.mod names it, go fetches it where it is missing.
export CGO_ENABLED := 0
export GOAMD64     := v1
export GOFLAGS     := -trimpath -buildvcs=false
LDFLAGS := -s -w -buildid=

# Architectures whose guests this rempart can build.
ARCHES   ?= amd64
EMBEDDED := builder/embedded/files
MIRROR   ?=
export REMPART_MIRROR := $(MIRROR)

.DEFAULT_GOAL := build
.PHONY: help build setup run test test-xen test-lvm bench lint fuzz clean guest

help:
	@echo 'make        build bin/rempart with the guest programs inside'
	@echo 'make run    build the firewall of profiles/home-firewall.yaml, boot it, show packets passing and blocked'
	@echo 'make test   run every test'
	@echo 'make test-xen  the tests on a real Xen, in software; with ALL=1 those that take long too'
	@echo 'make test-lvm  the tests on real volumes of LVM, in software, with a power cut after every step'
	@echo 'make setup  install what run and test need (the two call it themselves)'
	@echo 'make bench  measure: build seconds, image sizes, boot seconds, smallest RAM'
	@echo 'make lint   gofmt, vet, staticcheck, govulncheck where its database can be reached'
	@echo 'make fuzz   run every fuzz target for FUZZTIME (10s)'
	@echo 'MIRROR=URL  take Debian packages from URL, where the machine has no Debian apt configuration'

# The guest's programs first: they are embedded in rempart.
guest:
	@for arch in $(ARCHES); do \
	  export GOOS=linux GOARCH=$$arch; \
	  go build -tags guest -ldflags '$(LDFLAGS)' -o $(EMBEDDED)/bootstage-$$arch ./firstboot/boot && \
	  go build -tags guest -ldflags '$(LDFLAGS)' -o $(EMBEDDED)/firstboot-$$arch ./firstboot && \
	  go build -tags guest -ldflags '$(LDFLAGS)' -o $(EMBEDDED)/shell-$$arch ./firstboot/shell || exit 1; \
	done

build: guest
	@go build -ldflags '$(LDFLAGS)' -o bin/rempart ./builder

setup:
	@test/setup run test

run: build
	@test/setup run
	@test/demo

test: build
	@test/setup run test
	@test/all

test-lvm: build
	@test/setup run test
	@LVM=all GOFLAGS=-buildvcs=false go test -count=1 -v -timeout 2h ./test/lvm

test-xen: build
	@test/setup run test
	@XEN=$(if $(ALL),all,more) GOFLAGS=-buildvcs=false go test -count=1 -v -timeout 2h ./test/xen

bench: build
	@test/setup run test bench
	@test/bench/run

lint:
	@out=$$(gofmt -l builder firstboot overlays profiles test); \
	  [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	@go vet ./...
	@GOARCH=arm64 go vet ./...
	@go tool staticcheck ./...
	@test/vulncheck

FUZZTIME ?= 10s
fuzz:
	@test/fuzz $(FUZZTIME)

clean:
	@rm -rf bin
	@find $(EMBEDDED) -type f ! -name README -delete
