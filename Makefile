# The commands of this repository. `make test` is all that a change has to pass.

GO ?= go
FUZZTIME ?= 10s

.PHONY: help build test test-real bench fuzz generate

help:
	@echo 'make test       everything that a change has to pass (installs what tests need, if it can)'
	@echo 'make test-real  tests against large real components, in nested modules below testdata/real'
	@echo 'make build      bin/sluice, static'
	@echo 'make generate   write generated code and reference pages again'
	@echo 'make bench      measure the budgets and write docs/performance.md'
	@echo 'make fuzz       every fuzz target for FUZZTIME=$(FUZZTIME)'

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/sluice ./cmd/sluice

test:
	@GO='$(GO)' sh scripts/test.sh

test-real:
	@GO='$(GO)' sh scripts/test-real.sh

bench:
	@sh scripts/prerequisites.sh bench
	$(GO) run ./internal/bench -full -o docs/performance.md

fuzz:
	@GO='$(GO)' sh scripts/fuzz.sh '$(FUZZTIME)'

generate:
	@GO='$(GO)' sh scripts/generate.sh
