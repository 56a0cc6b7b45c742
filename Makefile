# Every command a person needs. `make` alone prints them.

PRECISION ?= w8a8
MODEL_NAME ?= smollm2-135m-instruct
MODEL_PATH ?= prepared/models/smollm2-135m-instruct-$(PRECISION)
PYTHON ?= python3
VENV_PYTHON = prepared/venv/bin/python
CARGO ?= cargo
# These tests wait most of the time: for watches, soaks and deadlines.
CLUSTER_TEST = $(CARGO) test --locked --features failpoints --test cluster -- --test-threads=6
# The program is the one that the Rust tests have built.
MONITORING_TEST = $(VENV_PYTHON) -m unittest discover --start-directory tests/monitoring

# For each target.
FUZZ_SECONDS ?= 60
# It needs the RustSec database: from GitHub, or a copy of it, as AUDIT_FLAGS="--db FOLDER --no-fetch" for a machine without network.
AUDIT_VERSION = 0.22.2
AUDIT_FLAGS ?=

CHART_TEST = $(VENV_PYTHON) -m unittest discover --start-directory tests/chart

# The image and the release: docs/release.md.
VERSION = $(shell $(PYTHON) scripts/release.py version)
IMAGE ?= ghcr.io/inference-gateway/inference-gateway:$(VERSION)
IMAGE_BUILDER ?= $(shell for tool in docker podman buildah; do $$tool info >/dev/null 2>&1 && echo $$tool && break; done)
THIS_ARCH = $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
IMAGE_ARCH ?= $(THIS_ARCH)
# More flags for the builder, as --build-arg ONNXRUNTIME=IMAGE.
IMAGE_BUILD_FLAGS ?=
# buildah keeps layers only when told; buildah 1.28 and podman 4.3 do not know the platform that they build on.
IMAGE_BUILD = $(or $(IMAGE_BUILDER),$(error docker, podman or buildah is needed to build the image)) build \
	--platform linux/$(IMAGE_ARCH) $(if $(filter buildah podman,$(IMAGE_BUILDER)),--layers \
	--build-arg BUILDPLATFORM=linux/$(THIS_ARCH)) $(IMAGE_BUILD_FLAGS)
IMAGE_LABEL = --label org.opencontainers.image
IMAGE_LABELS = $(IMAGE_LABEL).version=$(VERSION) $(IMAGE_LABEL).created=$$(git log -1 --format=%cI) \
	$(IMAGE_LABEL).revision=$$(git describe --always --abbrev=40 --dirty --exclude='*')
ARTIFACTS ?= target/artifacts
ARTIFACT = $(ARTIFACTS)/inference-gateway-$(VERSION)-$(IMAGE_ARCH)
HELM ?= prepared/tools/helm

.DEFAULT_GOAL := help
.PHONY: help prepare prepare-tests build run fmt lint doc test cluster-test monitoring-test bench bench-quick bench-overhead formats faults soak load \
	generate clean browser-test playground-image chart-test chat-fixtures openapi-test e2e image image-check chart-package sbom deny audit fuzz \
	release-check release

help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

prepare: ## Fetch ONNX Runtime, make the model (PRECISION=w8a8, int8 or fp32), build
	@$(PYTHON) scripts/prepare.py --precision $(PRECISION) library model
	@$(MAKE) --no-print-directory build

prepare-tests: ## Fetch and make everything the tests need
	@$(PYTHON) scripts/prepare.py --precision w8a8 --precision int8 --precision fp32 library model tiny python-tests kubernetes tools

build:
	@begin=$$(date +%s%3N); $(CARGO) build --release --locked --quiet \
		&& echo "==> build: inference-gateway --release ... $$(( $$(date +%s%3N) - begin )) ms"

run: prepare ## Prepare what is missing and serve a real model on port 3000
	@INFERENCE_DEFAULT_MODEL_NAME=$${INFERENCE_DEFAULT_MODEL_NAME:-$(MODEL_NAME)} \
	INFERENCE_DEFAULT_MODEL_PATH=$${INFERENCE_DEFAULT_MODEL_PATH:-$(MODEL_PATH)} \
	$(CARGO) run --release --locked --quiet

fmt: ## Format the code
	$(CARGO) fmt

lint: ## Check format, lints and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --profile test --features failpoints --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet

test: prepare-tests lint ## Run every test (this is what CI runs)
	$(VENV_PYTHON) -m unittest discover --start-directory tests/scripts
	$(CHART_TEST)
	$(CARGO) test --locked --features failpoints --lib --bins --test integration
	$(MONITORING_TEST)
	$(CLUSTER_TEST)

monitoring-test: ## Prove alerts and dashboard with promtool and a real Prometheus (part of `make test`)
	@$(PYTHON) scripts/prepare.py library tiny python-tests tools
	$(CARGO) build --locked --features failpoints --quiet
	$(MONITORING_TEST)

chart-test: ## Lint, render and validate the charts and manifests (part of `make test`)
	@$(PYTHON) scripts/prepare.py python-tests tools
	$(CHART_TEST)

cluster-test: ## Run the tests against a real etcd and kube-apiserver (part of `make test`)
	@$(PYTHON) scripts/prepare.py library tiny kubernetes python-tests tools
	$(CLUSTER_TEST)

openapi-test: ## Send requests made of the OpenAPI document to a tiny model (OPENAPI_EXAMPLES=500, OPENAPI_SEED=2 for others)
	@$(PYTHON) scripts/prepare.py library tiny python-tests
	OPENAPI_EXAMPLES=$${OPENAPI_EXAMPLES:-100} $(CARGO) test --locked --features failpoints --test integration openapi:: -- --nocapture

browser-test: ## Try the playground and the status page in a real Chromium (CHROMIUM=program; on Debian: apt-get install chromium)
	@$(PYTHON) scripts/prepare.py library model python-browser
	$(CARGO) build --locked --features failpoints --quiet
	$(VENV_PYTHON) -m unittest discover --start-directory tests/browser

playground-image: build ## Take the README's picture of the playground
	@$(PYTHON) scripts/prepare.py library model python-browser
	INFERENCE_GATEWAY_EXECUTABLE=target/release/inference-gateway $(VENV_PYTHON) tests/browser/image.py docs/images/playground.png

e2e: ## Try image and chart on a real node, as root (STEPS="env crd" for parts, STEPS=list names them; E2E_FLAGS)
	@$(PYTHON) scripts/prepare.py library tiny kubernetes node tools
	@PYTHONPATH=tests $(PYTHON) -m e2e $(E2E_FLAGS) $(STEPS)

bench: prepare ## Measure against other engines and write BENCHMARKS.md (about 40 minutes, idle machine)
	$(PYTHON) scripts/bench/suite.py

faults: prepare-tests ## Run the tests that docs/reliability.md names, and print row, test, result (ROWS=36-49 for some)
	@$(PYTHON) scripts/faults.py $(ROWS)

soak: build prepare-tests ## Swap two real models 500 times under load (SOAK_SWAPS=N for less; most of an hour)
	SOAK_EXECUTABLE=$(CURDIR)/target/release/inference-gateway \
	$(CARGO) test --locked --features failpoints --test integration soak:: -- --ignored --nocapture --test-threads=1

load: prepare ## Show what is kept when it ends, clients leave, too many come (LOAD_SECONDS=120, LOAD_PARTS="drain overload"; 8 minutes)
	@$(PYTHON) scripts/prepare.py load
	PYTHONPATH=scripts $(PYTHON) -m load --model $(MODEL_PATH) --seconds $${LOAD_SECONDS:-120} $(LOAD_PARTS)

bench-quick: prepare prepare-tests ## Measure one stream against the same loop written directly on ONNX Runtime
	$(VENV_PYTHON) scripts/bench/compare.py --model $(MODEL_PATH)

bench-overhead: prepare ## Measure scrapes, traces, keys, TLS and logs, all on against off (some minutes, idle machine)
	$(PYTHON) scripts/bench/overhead.py

formats: ## Check that answers of the real model hold to 49 JSON schemas, and measure what that costs (some minutes)
	@$(PYTHON) scripts/prepare.py library model python-formats
	@$(MAKE) --no-print-directory build
	$(VENV_PYTHON) scripts/bench/formats.py --model $(MODEL_PATH)

chat-fixtures: ## Write what transformers makes of chat templates, and compare with it (also templates that cannot be kept here)
	@$(PYTHON) scripts/prepare.py python-chat
	$(VENV_PYTHON) scripts/chat_fixtures.py --trl target/chat-fixtures
	$(CARGO) test --locked --lib text::template -- --include-ignored

generate: ## Write the files that are made from others (crd/, docs/settings.md, docs/metrics.md, docs/openapi.json, manifests/, charts/)
	@$(PYTHON) scripts/prepare.py python-tests tools
	$(CARGO) build --locked --quiet
	target/debug/inference-gateway crd models > crd/models.yaml
	target/debug/inference-gateway crd modelreplicas > crd/modelreplicas.yaml
	target/debug/inference-gateway config --markdown > docs/settings.md
	target/debug/inference-gateway metrics > docs/metrics.md
	target/debug/inference-gateway openapi > docs/openapi.json
	PYTHONPATH=scripts $(VENV_PYTHON) -m charts

image: ## Build the image with docker, podman or buildah (IMAGE, IMAGE_ARCH=arm64, IMAGE_BUILDER, IMAGE_BUILD_FLAGS)
	$(IMAGE_BUILD) $(IMAGE_LABELS) --tag $(IMAGE) .

image-check: ## Try the image alone with podman, as root
	$(PYTHON) tests/e2e/images/check.py $(IMAGE)

sbom: ## Write what the image is made of, as CycloneDX (builds what has changed)
	@mkdir -p $(ARTIFACTS) && rm -rf target/image-$(IMAGE_ARCH)
	$(IMAGE_BUILD) --target beside --output type=local,dest=target/image-$(IMAGE_ARCH) .
	$(PYTHON) scripts/sbom.py --arch $(IMAGE_ARCH) --records target/image-$(IMAGE_ARCH)/records > $(ARTIFACT).cdx.json
	cp target/image-$(IMAGE_ARCH)/inference-gateway.debug $(ARTIFACT).debug

chart-package: ## Pack both charts
	@mkdir -p $(ARTIFACTS)
	$(HELM) package --destination $(ARTIFACTS) charts/inference-gateway charts/inference-gateway-crds

deny: ## Check licences, sources and doubles of dependencies (cargo install --locked cargo-deny)
	$(CARGO) deny --locked --offline check licenses bans sources

audit: ## Look for known faults of dependencies (cargo-audit; AUDIT_FLAGS="--db FOLDER --no-fetch" without network)
	@$(CARGO) audit --version 2>/dev/null | grep -qF ' $(AUDIT_VERSION)' \
		|| { echo 'make audit: run: cargo install --locked cargo-audit@$(AUDIT_VERSION)' >&2; exit 1; }
	$(CARGO) audit --deny unsound --deny yanked $(AUDIT_FLAGS)
	$(CARGO) audit --deny unsound --deny yanked --file fuzz/Cargo.lock $(AUDIT_FLAGS)

fuzz: ## Feed parsers and writers with bytes that nobody chose (FUZZ_SECONDS=60 for each, FUZZ_TARGETS="native tgi")
	@$(PYTHON) scripts/fuzz.py --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

release-check: ## Compare the version wherever it is written
	@$(PYTHON) scripts/release.py check

release: release-check image sbom chart-package ## Make everything of a release, push nothing
	cd $(ARTIFACTS) && sha256sum *.tgz *.cdx.json *.debug > SHA256SUMS && cat SHA256SUMS

clean: ## Remove what was built and prepared (downloads stay in the user's cache)
	rm -rf target prepared
