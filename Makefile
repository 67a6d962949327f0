# What people and CI run. `make help` lists it.

# dev compiles quickly, release runs quickly; `make dist` runs quickest and takes several times as long to compile.
PROFILE ?= release
# Tests have their own: debug assertions and overflow checks stay on.
TEST_PROFILE ?= dev
CARGO ?= cargo

target_dir := $(or $(CARGO_TARGET_DIR),target)
folder_of = $(target_dir)/$(if $(filter dev,$(1)),debug,$(1))
pointsman = $(call folder_of,$(PROFILE))/pointsman
demo_dir := $(target_dir)/demo

.DEFAULT_GOAL := help
.PHONY: help setup build dist demo test lint bench bench-instructions bench-baseline peers crash fuzz clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

setup: ## check for cargo and install the Wasm target where it is missing
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs, then run make again." >&2; exit 1; }
	@command -v cc >/dev/null || { echo "A C compiler is missing (the TLS library needs one): install gcc or clang, on Debian \`apt-get install gcc libc6-dev\`." >&2; exit 1; }
	@sh wasm-routers/setup.sh

# The whole workspace chooses features, as the tests do, so that nothing is compiled twice.
build: setup ## build the binary (PROFILE=dev or release)
	$(CARGO) build --workspace --bin pointsman --profile $(PROFILE)

dist: setup ## build the binary that is run in production, for what it does under load
	CARGO=$(CARGO) sh broker/dist.sh

demo: build ## route orders through a Wasm router, or INPUT=file.jsonl by its field KEY=name
	@rm -rf $(demo_dir)
	$(pointsman) demo --data-dir $(demo_dir) $(if $(INPUT),--input '$(INPUT)') $(if $(KEY),--key '$(KEY)')

test: setup ## run all tests
	$(CARGO) test --workspace --profile $(TEST_PROFILE)

lint: setup ## rustfmt and clippy, both without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --profile $(TEST_PROFILE) -- -D warnings

bench: setup ## measure every segment and the whole beside the raw limits of this machine
	$(CARGO) bench --workspace --bench segments
	$(CARGO) bench --workspace --bench bench

bench-instructions: setup ## count every segment's instructions and copies under valgrind too
	$(CARGO) bench --workspace --bench segments -- --count

bench-baseline: setup ## the same, and make it what later runs are compared with
	$(CARGO) bench --workspace --bench segments -- --count --store

# ZeroMQ is a library: its adapter is compiled where that is installed. The other brokers are only run.
zeromq = $(if $(shell pkg-config --exists libzmq 2>/dev/null && echo found),--features zeromq)

# Those were built to be run, and so is this one.
peers: ours = $(or $(POINTSMAN_BIN),$(call folder_of,dist)/pointsman)
peers: $(if $(POINTSMAN_BIN),setup,dist) ## other brokers and this one side by side (PEERS='--list' or '--quick --rows latency')
	$(ours) router build tests/peers/router
	cd tests/peers && POINTSMAN_BIN=$(abspath $(ours)) $(CARGO) run --release $(zeromq) -- $(PEERS)

crash: setup ## kill a broker ROUNDS times and check its ledger
	ROUNDS=$(or $(ROUNDS),500) $(CARGO) test --workspace --profile $(TEST_PROFILE) --test crash -- --nocapture

fuzz: setup ## feed mutated bytes to every decoder for FUZZ_SECONDS each
	FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) $(CARGO) test --workspace --profile $(TEST_PROFILE) --test fuzz

clean: ## remove everything that was built
	$(CARGO) clean
