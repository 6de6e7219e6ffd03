"""Kernel tests on other kernels: python -m tests.vm [KERNEL...] [-- PYTEST ARGUMENT...]

Each KERNEL is a suite of Debian. A Debian 12 with its kernel and this work tree becomes the disk of an emulated machine
(QEMU, without KVM: some ten times as slow as here), whose only process is pytest. Needs root, for debootstrap and chroot.
What was built stays in build/vm and is used again; `make kernels` runs it for all.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "vm"
SYSTEM = BUILD / "system"
SHARE = BUILD / "share"
TREE = SYSTEM / "understudy"

KERNELS = {"bookworm": "Linux 6.1", "bookworm-backports": "Linux 6.12"}
PACKAGES = (
    "python3.11,python3-venv,gcc,libc6-dev,git,make,ca-certificates,curl,kmod,procps,udev,iproute2,openssl,sudo,postgresql,bpftool,"
    "clang,llvm,libbpf-dev,initramfs-tools,wget"
)
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
OWN_SETTINGS = (
    "/etc/resolv.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pip.conf",
    "/etc/npmrc",
    "/root/.npmrc",
    "/root/.config/pip/pip.conf",
)
"""Of this machine, for the way to Debian and PyPI; where they are."""
DISK = "6G"
MEMORY_MIB = 6144
HOURS = 2.0
"""How long one kernel may take."""


def main() -> int:
    """Run; 1 where a test failed on one of the kernels."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    kernels, tests = words[:at] or list(KERNELS), words[at + 1 :] or ["tests/kernel"]
    if unknown := set(kernels) - set(KERNELS):
        sys.exit(f"{', '.join(unknown)}: the kernels are " + ", ".join(f"{suite} ({what})" for suite, what in KERNELS.items()))
    SHARE.mkdir(parents=True, exist_ok=True)
    _make_system()
    failed = [kernel for kernel in kernels if _run(kernel, tests) != 0]
    print(f"failed on: {', '.join(failed)}" if failed else f"passed on: {', '.join(kernels)}")
    return bool(failed)


# -- the system ----------------------------------------------------------------------------------------------------------


def _make_system() -> None:
    """A Debian 12 with this work tree, its environment and its probes."""
    if not (SYSTEM / "usr/bin/bpftool").exists() and not (SYSTEM / "usr/sbin/bpftool").exists():
        shutil.rmtree(SYSTEM, ignore_errors=True)
        _do("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(SYSTEM), MIRROR)
    for name in OWN_SETTINGS:
        if Path(name).exists():
            (SYSTEM / name[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, SYSTEM / name[1:])
    shutil.copy(Path(__file__).with_name("init"), SYSTEM / "init-tests")
    _copy_tree()
    with _entered():
        # The stamps keep make from installing what is there.
        _inside("mkdir -p build && touch build/.toolchain build/.e2e && make --no-print-directory .venv/.ready probes")


def _copy_tree() -> None:
    """What git knows, as it is now; what the last run built stays."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, TREE / name
        if source.exists() and not (target.exists() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


@contextmanager
def _entered() -> Iterator[None]:
    """With this machine's /proc, /sys and /dev in the system."""
    with ExitStack() as undo:
        for name in ("proc", "sys", "dev"):
            _do("mount", "--bind", f"/{name}", str(SYSTEM / name))
            undo.callback(_do, "umount", str(SYSTEM / name))
        yield


def _inside(script: str) -> None:
    _do("chroot", str(SYSTEM), "bash", "-ec", f"cd /understudy && export PATH=/usr/sbin:/usr/bin:/sbin:/bin && {script}")


def _kernel_of(suite: str) -> str:
    """The release of a suite's kernel, which is installed."""
    stamp = BUILD / f"{suite}.kernel"
    if not stamp.exists() or not (SYSTEM / "boot" / f"initrd.img-{stamp.read_text()}").exists():
        (SYSTEM / "etc/apt/sources.list.d" / f"{suite}.list").write_text(f"deb {MIRROR} {suite} main\n")
        package = f"$(apt-cache depends -t {suite} linux-image-amd64 | sed -n 's/.*Depends: \\(linux-image-.*\\)/\\1/p' | head -1)"
        with _entered():
            _inside(f"apt-get update -qq && echo {package} >/kernel && {INSTALL} -t {suite} $(cat /kernel)")
        stamp.write_text((SYSTEM / "kernel").read_text().strip().removeprefix("linux-image-"))
    return stamp.read_text()


# -- the machine ---------------------------------------------------------------------------------------------------------


def _run(suite: str, tests: Sequence[str]) -> int:
    """Boot a kernel and run the tests; their exit status."""
    release = _kernel_of(suite)
    disk = BUILD / "disk.img"
    disk.unlink(missing_ok=True)
    _do("mke2fs", "-q", "-t", "ext4", "-d", str(SYSTEM), str(disk), DISK)
    words = ["python", "-m", "pytest", "-o", "addopts=", "-v", "-p", "no:cacheprovider", "--timeout", "1800", *tests]
    (SHARE / "command").write_text(shlex.join(words) + "\n")
    console = "console=ttyS0 root=/dev/vda rw init=/init-tests panic=-1 quiet"
    machine = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)]
    machine += ["-kernel", str(SYSTEM / f"boot/vmlinuz-{release}"), "-initrd", str(SYSTEM / f"boot/initrd.img-{release}")]
    machine += ["-append", console, "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe", "-no-reboot", "-nographic"]
    machine += ["-nic", "none", "-virtfs", f"local,path={SHARE},mount_tag=share,security_model=none"]
    print(f"-- {suite}: Linux {release}", flush=True)
    status = 1
    with subprocess.Popen(
        ["timeout", str(int(HOURS * 3600)), *machine], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            print(text, flush=True)
            if found := re.match(r"status: (\d+)", text):
                status = int(found[1])
    disk.unlink()
    return status


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.exit(main())
