# The commands of this project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TOOLS := $(if $(KUIK_TOOLS),$(KUIK_TOOLS),$(HOME)/.cache/kuik/tools)
export PATH := $(TOOLS)/bin:$(PATH)

.PHONY: help run check test test-tools images chart chart-update crds cluster-up cluster-down bench audit fmt clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

run: ## build the agent and run it on 127.0.0.1:7439 and [::1]:7439, with its data in ./data
	$(CARGO) build --locked --release -p kuik-agent
	./target/release/kuik-agent serve --data-dir ./data $(ARGS)

test-tools: ## install what the tests need (root, Debian)
	scripts/install-test-tools cluster

test: images ## every test: unit, integration, conformance, real clients, a real Kubernetes (root)
	$(CARGO) test --locked --workspace

images: test-tools ## build target/images/{agent,webhook}.tar without a container engine (root, Debian)
	scripts/build-images

cluster-up: images ## start a Kubernetes of three nodes with the images in it (root, Debian)
	$(CARGO) run --locked --quiet -p kuik-e2e --bin cluster -- up target/images/agent.tar target/images/webhook.tar

cluster-down: ## end what cluster-up started
	$(CARGO) run --locked --quiet -p kuik-e2e --bin cluster -- down

chart: ## check the chart: lint, unit tests, schemas of four Kubernetes versions, generated files
	scripts/chart check

chart-update: ## write the chart's README and rendered manifests anew
	scripts/chart update

crds: ## write chart/crds anew from crd/src
	$(CARGO) run --locked --quiet -p kuik-crd --features objects --bin crdgen -- --write chart/crds

check: ## format, clippy, dependencies, documentation, chart
	scripts/install-test-tools check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	cargo-deny --locked check bans licenses sources
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	scripts/chart check

audit: ## known vulnerabilities of dependencies (needs the network that the advisory database is on)
	scripts/install-test-tools check
	cargo-deny --locked check advisories

bench: ## measure against nginx, docker-registry and distribution, and write BENCHMARKS.md (root)
	scripts/install-test-tools cluster bench
	$(CARGO) build --locked --release -p kuik-agent -p kuik-webhook -p kuik-e2e
	./target/release/bench

fmt: ## format the code
	$(CARGO) fmt --all

clean: ## delete what was built, and ./data
	$(CARGO) clean
	rm -rf ./data
