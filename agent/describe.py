"""What can be captured on this node, what is missing, and which processes speak a TLS that is seen or not."""

from __future__ import annotations

import contextlib
import ctypes.util
import itertools
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import copies, workloads
from agent.attach import not_capturable
from agent.examiner import Examiner
from agent.kernel.fanotify import Group
from agent.kernel.planner import Plan
from agent.kernel.probes import kernel_version, multi_supported, object_path, sessions_supported
from agent.kernel.seccomp import returns_are_dangerous
from agent.opens import may_hold
from agent.workloads import Workload

_CAPABILITIES = {"BPF": 39, "PERFMON": 38, "SYS_PTRACE": 19, "CHECKPOINT_RESTORE": 40}
"""Bits of the capabilities that capture needs (include/uapi/linux/capability.h)."""


_TAKEOVER_CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21}
"""The same, for what takeover needs besides: to attach to cgroups and answer for a network; to enter mount namespaces."""


@dataclass(frozen=True, slots=True)
class Check:
    """One need, and how to mend it where it is not met."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = True

    def require(self) -> None:
        """OSError where it is not met."""
        if not self.ok:
            raise OSError(f"{self.name}: {self.detail}: {self.remedy}")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that speaks TLS: paths of its implementations and what they are."""

    workload: Workload
    libraries: tuple[tuple[str, Plan], ...]


def checks() -> Iterator[Check]:
    """Everything that capture needs."""
    release = platform.release()
    yield Check("kernel", kernel_version(release) >= (5, 15), release, "run Linux 5.15 or later")
    machine = platform.machine()
    yield Check("machine", machine in ("x86_64", "aarch64"), machine, "run on x86_64 or arm64")
    btf = Path("/sys/kernel/btf/vmlinux")
    yield Check(
        "BTF", btf.exists(), str(btf) if btf.exists() else f"{btf} is missing", "run a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )
    mount = workloads.cgroup_mount()
    yield Check("cgroup v2", mount is not None, str(mount or "not mounted"), "mount it: mount -t cgroup2 none /sys/fs/cgroup")
    yield pid_namespace_check()
    library = ctypes.util.find_library("bpf")
    yield Check("libbpf", library is not None, library or "not found", "install libbpf1 (Debian) or libbpf (others)")
    yield _object_check()
    yield _capability_check()
    yield _hold_check()
    yield _takeover_check()
    yield seccomp_check(release)
    yield _bystander_check()
    yield _copies_check()
    yield Check(
        "unix sockets",
        False,
        "HTTP over unix sockets is not captured",
        "let the server listen on a TCP port of the loopback, and its clients call that",
        required=False,
    )
    yield Check(
        "uprobe_multi",
        multi_supported(),
        "Linux 6.6 or later" if multi_supported() else "older: perf uprobes are used, which need CAP_SYS_ADMIN",
        "" if multi_supported() else "run Linux 6.6 or later to do without CAP_SYS_ADMIN",
        required=False,
    )


def pid_namespace_check() -> Check:
    """Whether the agent and the kernel mean the same process by a number: else another one would be captured or cut off."""
    if workloads.in_initial_pid_namespace():
        return Check("PID namespace", True, "the machine's")
    return Check(
        "PID namespace",
        False,
        "this is one of a container's own, where processes have other numbers than in the kernel",
        "run in the machine's: docker run --pid=host, or hostPID: true in the pod's spec",
    )


def seccomp_check(release: str) -> Check:
    """Whether probes are safe for processes under a seccomp filter."""
    if not returns_are_dangerous():
        return Check("seccomp", True, "return probes pass seccomp filters", required=False)
    return Check(
        "seccomp",
        False,
        f"on Linux {release} a return probe may end a process under a seccomp filter: libraries of such processes are not probed",
        "run Linux 6.12.14, 6.13.3, 6.14 or later",
        required=False,
    )


def _bystander_check() -> Check:
    """Whether return probes are kept out of programs that nobody records."""
    if sessions_supported():
        return Check("bystanders", True, "return probes are in the calls of recorded programs only", required=False)
    return Check(
        "bystanders",
        False,
        "return probes are in every program that uses a probed library: while anything is recorded, one breaks that throws C++ "
        "exceptions through TLS calls, cancels threads in them or switches stacks there",
        "run Linux 6.13 or later",
        required=False,
    )


SHOWN_MAX = 10
"""Processes that are named in one line."""


def _copies_check() -> Check:
    """Which programs probes would end, by running copies of code in which there are some."""
    found = list(itertools.islice(copies.processes(), SHOWN_MAX + 1))
    names = [f"{command} ({pid})" for pid, command in found[:SHOWN_MAX]] + ["others"] * (len(found) > SHOWN_MAX)
    running = f"; running now: {', '.join(names)}" if names else ""
    return Check(
        "copied code",
        False,
        "a program that runs a copy or translation of code that is probed is ended by SIGTRAP, though nobody records it: under "
        "valgrind, DynamoRIO or Pin, node with large pages, or where hooks move a function's beginning (Frida); and what is copied "
        f"from a private mapping of a probed file, as git and LLVM's tools read files, has breakpoints in it{running}",
        "run no such program that uses OpenSSL's functions, and strip or commit no such library, while something is recorded that "
        "uses the same files",
        required=False,
    )


def _takeover_check() -> Check:
    held = effective_capabilities()
    missing = [name for name, bit in _TAKEOVER_CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        return Check("takeover", False, "missing CAP_" + ", CAP_".join(missing), "run as root", required=False)
    try:
        return Check("takeover", True, str(object_path("takeover")), required=False)
    except FileNotFoundError as error:
        return Check("takeover", False, str(error), "make probes", required=False)


def _hold_check() -> Check:
    if not may_hold(effective_capabilities()):
        return Check("hold", False, "missing CAP_SYS_ADMIN or CAP_DAC_READ_SEARCH", "run as root", required=False)
    try:
        Group().close()
    except OSError as error:
        remedy = "run a kernel built with CONFIG_FANOTIFY_ACCESS_PERMISSIONS=y to miss nothing of what a command loads later"
        return Check("hold", False, str(error), remedy, required=False)
    return Check("hold", True, "what a command loads is probed before it is used", required=False)


def _object_check() -> Check:
    try:
        return Check("probes", True, str(object_path()))
    except FileNotFoundError as error:
        return Check("probes", False, str(error), "make probes")


def _capability_check() -> Check:
    held = effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    detail = "all held" if not missing else "missing CAP_" + ", CAP_".join(missing)
    return Check("privilege", not missing, detail, "run as root")


def effective_capabilities() -> int:
    """Of this process, as a bit mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def processes(examiner: Examiner, only: Iterable[int] = ()) -> Iterator[Process]:
    """The processes that speak TLS, among those given or all that can be seen."""
    plans: dict[tuple[int, int], Plan] = {}
    ours = set(workloads.descendants(os.getppid())) if not only else set()  # whoever asks, and what it started
    for pid in sorted(set(only or workloads.pids()) - ours):
        libraries = tuple(_libraries(pid, examiner, plans))
        if libraries:
            yield Process(workloads.look_up(pid), libraries)


def _libraries(pid: int, examiner: Examiner, plans: dict[tuple[int, int], Plan]) -> Iterator[tuple[str, Plan]]:
    for mapping in workloads.executable_mappings(pid):
        key = (mapping.device, mapping.inode)
        if key not in plans:
            plans[key] = Plan()
            with contextlib.suppress(OSError):
                fd = workloads.open_mapping(pid, mapping)
                try:
                    plans[key] = examiner.plan(fd)
                finally:
                    os.close(fd)
        found = not_capturable(mapping.path, plans[key]) or plans[key]
        if found.kind:
            yield mapping.path, found
