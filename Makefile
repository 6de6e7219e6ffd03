# One line for each thing a contributor does. The environment lives in .venv; nothing else is touched but Debian packages.
.PHONY: setup check fix test fuzz kill bench mutants kernels demo probes proto
.DELETE_ON_ERROR:
.NOTPARALLEL:
PY := .venv/bin/python
# protoc looks for its plugins there, npm and buf for their node.
VENV_PATH = PATH="$(CURDIR)/.venv/bin:$$PATH"
BUF = $(VENV_PATH) "$(CURDIR)/.venv/buf/node_modules/.bin/buf"
# Every protobuf stub goes below here: `make check` generates a second set to compare.
OUT := proto
BUF_VERSION := 1.75.0
LOCALSTRIPE_VERSION := 1.15.10
MITMPROXY_VERSION := 11.0.2

setup: .venv/.ready .venv/buf/.ready

# Links into a folder that is on everybody's path, also under sudo; the clone stays where it is.
PREFIX := /usr/local
COMMANDS := understudy understudy-agent understudy-engine
install: .venv/.ready probes
	install -d "$(PREFIX)/bin" && for name in $(COMMANDS); do ln -sf "$(CURDIR)/.venv/bin/$$name" "$(PREFIX)/bin/$$name"; done

uninstall:
	for name in $(COMMANDS); do rm -f "$(PREFIX)/bin/$$name"; done

check: setup probes
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	cd proto && $(BUF) lint && $(BUF) format --diff --exit-code
	rm -rf build/proto && mkdir -p build/proto
	$(MAKE) --no-print-directory proto OUT=build/proto
	diff -r -x '*.proto' -x '__*__*' -x buf.yaml build/proto proto

fix: setup
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	cd proto && $(BUF) format --write

# In a process for each processor, up to four: most of the time goes into starting programs and waiting for them.
PYTEST := $(PY) -m pytest -n logical --maxprocesses 4 --dist worksteal

# What needs root runs by sudo, where that is to be had, and leaves none of root's files here.
test: .venv/.ready build/.e2e probes
ifeq ($(shell id -u),0)
	$(PYTEST)
else ifeq ($(shell command -v sudo),)
	$(PYTEST)
else
	$(PYTEST) -m "not kernel"
	sudo env PATH="$$PATH" PYTHONDONTWRITEBYTECODE=1 $(PYTEST) -p no:cacheprovider -m kernel
endif

# Guided by coverage, SECONDS each; `make fuzz TARGETS="http1 elf" SECONDS=600`. What it learns is kept in build/fuzz.
SECONDS := 60
fuzz: .venv/.ready probes
	$(PY) -m tests.fuzz --seconds $(SECONDS) $(TARGETS)

# Parts of ours are killed at 100 random moments: 15 minutes.
kill: .venv/.ready build/.e2e probes
	UNDERSTUDY_KILLS=100 $(PY) -m pytest tests/e2e/test_kill.py -k random

bench: .venv/.ready build/.bench build/mitmproxy/.ready probes
	set -e; for file in tests/bench/[a-z]*.py; do $(PY) -m tests.bench.$$(basename $$file .py); done

# Breaks one promised rule of the probes at a time, and sees that a test turns red: a quarter of an hour.
mutants: .venv/.ready build/.e2e probes
	$(PY) -m tests.kernel.mutants

# The kernel tests on the kernels of Debian 12 and its backports, in an emulated machine: an hour each.
kernels: build/.emulator
	python3 -m tests.vm $(KERNELS)

demo: .venv/.ready build/.stage .demo/localstripe/.ready probes
	$(PY) -m deploy.demo.run

proto: .venv/.ready
	$(VENV_PATH) $(PY) -m grpc_tools.protoc -Iproto --python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) proto/understudy/v1/*.proto

# --- What the lines above stand on -----------------------------------------------------------------------------------
PROBES := $(patsubst %.bpf.c,%,$(wildcard probes/*.bpf.c))
# No vmlinux.h: the types that the probes need of the kernel are written out, only asm/types.h comes from the system.
CLANG_BPF = clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -I/usr/include/$(shell gcc -print-multiarch)

probes: $(PROBES:=.x86_64.o) $(PROBES:=.arm64.o)

probes/%.x86_64.o: probes/%.bpf.c $(wildcard probes/*.[ch]) build/.toolchain
	$(CLANG_BPF) -D__TARGET_ARCH_x86 -c $< -o $@ && llvm-strip -g $@

probes/%.arm64.o: probes/%.bpf.c $(wildcard probes/*.[ch]) build/.toolchain
	$(CLANG_BPF) -D__TARGET_ARCH_arm64 -c $< -o $@ && llvm-strip -g $@

# A stamp that is missing, or older than what it stands for: the thing is made again.
build/.toolchain: .ci/need
	.ci/need clang llvm-strip=llvm gcc /usr/include/bpf/bpf_helpers.h=libbpf-dev
	mkdir -p build && touch $@

build/.e2e: .ci/need
	.ci/need bpftool curl g++ ip=iproute2 openssl runc sudo psql=postgresql wget
	mkdir -p build && touch $@

build/.stage: .ci/need
	.ci/need ip=iproute2 nginx=nginx-light sudo
	mkdir -p build && touch $@

build/.bench: .ci/need
	.ci/need wrk nginx=nginx-light
	mkdir -p build && touch $@

build/.emulator: .ci/need
	.ci/need debootstrap mke2fs=e2fsprogs qemu-system-x86_64=qemu-system-x86
	mkdir -p build && touch $@

# In an environment of its own: it pins much of what we use, too.
build/mitmproxy/.ready: Makefile .ci/need
	.ci/venv build/mitmproxy
	build/mitmproxy/bin/pip install --quiet mitmproxy==$(MITMPROXY_VERSION)
	touch $@

.venv/.ready: pyproject.toml .ci/need
	.ci/venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@

.venv/buf/.ready: Makefile .venv/.ready
	$(VENV_PATH) .venv/bin/npm install --silent --no-fund --no-audit --prefix .venv/buf @bufbuild/buf@$(BUF_VERSION)
	touch $@

.demo/localstripe/.ready: Makefile .ci/need
	.ci/venv .demo/localstripe
	.demo/localstripe/bin/pip install --quiet localstripe==$(LOCALSTRIPE_VERSION)
	touch $@
