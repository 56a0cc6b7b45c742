"""The cgroup below which the kubelet puts every container, in both versions of cgroups."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def folders(name: str) -> list[Path]:
    """The folder of this cgroup in each hierarchy: one in version 2, one for each controller in version 1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT / name]
    return [hierarchy / name for hierarchy in sorted(ROOT.iterdir()) if (hierarchy / "tasks").exists()]


def make(name: str) -> None:
    """Make it. The kubelet makes those of pods below it, not this one."""
    for folder in folders(name):
        folder.mkdir(exist_ok=True)
        # A cpuset of version 1 begins without a processor.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            above = folder.parent / setting
            if above.exists() and (folder / "tasks").exists():
                (folder / setting).write_text(above.read_text())
    if (ROOT / "cgroup.controllers").exists():
        wanted = " ".join(f"+{one}" for one in (ROOT / "cgroup.controllers").read_text().split())
        for folder in (ROOT, ROOT / name):
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(wanted)


def remove(name: str) -> None:
    """Remove it with all below it, as soon as the kernel has let go of its last process."""
    deadline = time.monotonic() + 10
    # Where both versions are mounted, runc makes one in version 2 as well, which has no controllers there.
    everywhere = [ROOT / name, *(hierarchy / name for hierarchy in ROOT.iterdir() if hierarchy.is_dir())]
    while left := [folder for folder in everywhere if folder.exists()]:
        for folder in left:
            for below, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below)
        if any(folder.exists() for folder in left):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cgroup {left[0]} cannot be removed")
            time.sleep(0.1)


def kill(name: str) -> int:
    """Kill every process of every container; returns how many there were."""
    killed = 0
    for process in set(_processes(name)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            killed += 1
    return killed


def _processes(name: str) -> Iterator[int]:
    for folder in folders(name):
        for below, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                yield from (int(line) for line in (Path(below) / "cgroup.procs").read_text().split())


def of_container(name: str, container: str) -> Iterator[Path]:
    """The folders of a container by its id, one for each hierarchy."""
    for folder in folders(name):
        # Unlike a glob this minds no pod that ends meanwhile.
        for above, below, _ in os.walk(folder):
            if container in below:
                yield Path(above) / container


def memory(name: str, container: str) -> tuple[int, int]:
    """Bytes of a container by its id: all of it, and without pages of files that could be dropped at once."""
    for found in of_container(name, container):
        for usage, inactive in (
            ("memory.usage_in_bytes", "total_inactive_file"),
            ("memory.current", "inactive_file"),
        ):
            if (found / usage).exists():
                statistics = dict(line.split() for line in (found / "memory.stat").read_text().splitlines())
                used = int((found / usage).read_text())
                return used, used - int(statistics[inactive])
    raise LookupError(f"no cgroup of container {container}")
