"""Results that are either complete or absent, however often `prepare.py` is killed and run again.

lock    one prepare at a time in a folder; the children of a killed one hold it until they end
build   work in  .NAME.partial-XXXX  →  rename to  NAME  →  write the stamp
stamp   the hash of what a result was made from, and its files with their sizes
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from preparation.console import PrepareError, say


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str) -> Iterator[int]:
    """Hold the lock file `path`; says so when another process has it. Yields its file descriptor.

    Pass the descriptor on to child processes: after `kill -9` of the parent they still hold the lock, so that
    the next run does not start to write where they write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another prepare.py that works on {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def hash_of_inputs(files: Iterable[Path], *options: str) -> str:
    """sha256 over the names and contents of small files and over option words."""
    total = hashlib.sha256()
    for part in options:
        total.update(f"{len(part)}:{part}".encode())
    for file in sorted(files):
        content = file.read_bytes()
        total.update(f"{len(file.name)}:{file.name}:{len(content)}:".encode() + content)
    return total.hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Stamps:
    """The stamps of a `prepared` folder, one small JSON file for each result, in `.stamps`."""

    def __init__(self, prepared: Path) -> None:
        self._prepared = prepared
        self._folder = prepared / ".stamps"

    def is_current(self, result: str, inputs_hash: str) -> bool:
        """Whether `result` was made from exactly these inputs and still has all its files in their full size."""
        try:
            stamp = json.loads(self._path(result).read_text())
            sizes = {name: (self._prepared / result / name).stat().st_size for name in stamp["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return stamp["inputs"] == inputs_hash and sizes == stamp["files"]

    def write(self, result: str, inputs_hash: str) -> None:
        """Declare `result` complete. Call it last."""
        root = self._prepared / result
        files = {
            str(file.relative_to(root)): file.stat().st_size
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }
        self._folder.mkdir(exist_ok=True)
        partial = self._path(result).with_suffix(".partial")
        partial.write_text(json.dumps({"inputs": inputs_hash, "files": files}, indent=1))
        partial.replace(self._path(result))

    def _path(self, result: str) -> Path:
        return self._folder / (result.replace("/", "-") + ".json")


def build_folder(prepared: Path, result: str, inputs_hash: str, build: Callable[[Path], None]) -> None:
    """Let `build` fill `prepared/result` as `fill_folder` does, and stamp it.

    The caller holds the lock of `prepared`. Readers see the old folder or the new one, never a half of one
    (for the moment between two renames they see none).
    """
    fill_folder(prepared / result, build)
    Stamps(prepared).write(result, inputs_hash)


def fill_folder(final: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill a temporary folder, then put it in place of `final`. The caller holds its lock."""
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(final)
    # A fresh name each time: an orphan of a killed run may still write into the old one.
    partial = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    partial.chmod(0o755)
    try:
        build(partial)
        if final.exists():
            final.rename(partial.with_name(partial.name + "-old"))
        partial.rename(final)
    finally:
        remove_leftovers(final)


def replace_link(link: Path, target: Path) -> bool:
    """Let `link` lead to `target` in one step; whether it did not before."""
    if link.is_symlink() and link.readlink() == target:
        return False
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{link.name}.partial-link")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
    return True


def remove_leftovers(final: Path) -> None:
    """Delete what killed or failed runs left beside `final`."""
    for leftover in final.parent.glob(f".{final.name}.partial-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Fail before a long step rather than in the middle of it when the disk is too small."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise PrepareError(
            f"not enough disk space for {folder}: {needed_bytes // 2**20} MiB needed, "
            f"{free // 2**20} MiB free"
        )


def default_cache_folder() -> Path:
    """Where downloads are kept for all checkouts of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-gateway"
