# Ringraft: `make` lists what there is. Checks never change the tree; only `make fmt` does.

# Outside the tree, so that several checkouts share the one long build of RocksDB.
CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ringraft/target
export CARGO_TARGET_DIR
# Where rustup puts cargo, for shells that have not read ~/.cargo/env yet.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Arguments for `ringraft dev`, for example DEV_ARGS='--nodes 5 --port 8400'.
DEV_ARGS ?=
# The ports of the default cluster; with other ports or nodes, `ringraft dev` itself says which one is taken.
DEV_PORTS := $(if $(findstring --port,$(DEV_ARGS))$(findstring --nodes,$(DEV_ARGS)),,7401 7402 7403 7501 7502 7503)

.DEFAULT_GOAL := help
FAULT_TOTALS ?= fault-totals
OPERATION_TOTALS ?= operation-totals

.PHONY: help dev build test try faults fault-totals operation-totals lint fmt check-fast clean-data shows build-shows show-fresh-debian check-deploy check-monitoring

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

dev: ## set up, build, run a 3-node cluster on http://127.0.0.1:7401..7403 until Ctrl-C
	@scripts/setup $(if $(DEV_PORTS),--ports $(DEV_PORTS))
	cargo build --release --locked
	@exec "$$CARGO_TARGET_DIR/release/ringraft" dev $(DEV_ARGS)

build: ## set up and build the ringraft program
	@scripts/setup
	cargo build --release --locked

test: ## set up and run everything CI runs
	@scripts/setup --lint --faults
	@scripts/run-tests

try: ## three real nodes, a minute of faults, a verdict and a report in ./try-N (as root with more faults)
	@scripts/setup $(if $(filter 0,$(shell id -u)),--faults)
	cargo build --release --locked --workspace --bins
	@"$$CARGO_TARGET_DIR/release/raft-tests" try $(TRY_ARGS)

faults: ## the fault tests as CI runs them: at most 20 minutes on two cores
	@scripts/setup --lint --faults
	@scripts/run-tests --faults

fault-totals: ## what a release must have survived: two hours of faults on this commit, into ./fault-totals
	@scripts/setup --faults
	@scripts/fault-totals $(FAULT_TOTALS)

operation-totals: ## 300 splits, moves and transfers under standing faults on this commit, into ./operation-totals
	@scripts/setup --faults
	@scripts/operation-totals $(OPERATION_TOTALS)

lint: ## formatting and clippy, warnings denied
	cargo fmt --all --check
	cargo lint

fmt: ## format the tree
	cargo fmt --all

check-fast: ## formatting, clippy and the unit tests: the loop while writing code
	cargo fmt --all --check
	cargo lint
	cargo unit --lib

# Arguments for one show, for example `make show-failover SHOW_ARGS='--short --seed 7'`.
SHOW_ARGS ?=
SHOWS := real-input import-kill kill-each majority-down rolling-stop full-disks dead-node spread left-overs grow overload failover idle steady

build-shows:
	@scripts/setup
	cargo build --release --locked --workspace --bins

shows: build-shows ## show at full length what the README promises: figures of each statement; an hour and more
	@failed=; for show in $(SHOWS); do \
	  "$$CARGO_TARGET_DIR/release/raft-tests" show $$show || failed="$$failed $$show"; echo; \
	done; \
	scripts/shows/fresh-debian || { [ $$? -eq 77 ] && echo "fresh-debian: skipped"; } || failed="$$failed fresh-debian"; \
	if [ -n "$$failed" ]; then echo "false:$$failed"; exit 1; fi

check-monitoring: ## hold the alert rules, their tests and the dashboard to a running cluster: six minutes
	@scripts/setup --lint
	cargo build --release --locked
	@scripts/check-monitoring

check-deploy: ## run the Dockerfile, compose.yaml and systemd unit of deploy/ without a container engine (as root)
	@scripts/setup
	cargo build --release --locked
	@scripts/check-deploy $(CHECK_ARGS)

show-fresh-debian:
	@scripts/shows/fresh-debian $(SHOW_ARGS)

show-%: build-shows
	@"$$CARGO_TARGET_DIR/release/raft-tests" show $* $(SHOW_ARGS)

clean-data: ## delete the data of the local cluster (./data); refused while one of its nodes runs
	@scripts/clean-data data
