#!/usr/bin/env python3
"""Stand-ins for the base images of the Dockerfile, where no registry of images is reached. Run it as root.

    python3 tests/e2e/images/base.py        make what is missing, print flags for buildah and podman build

The images get the public names that the Dockerfile asks for, so that it is built as it is:

    docker.io/library/debian:trixie-slim         a minimal Debian, made by mmdebstrap
    docker.io/library/rust:VERSION-slim-trixie   that and a C compiler; Rust is bind-mounted from this machine

What this machine has set up to reach packages (certificates, settings of pip and cargo, the mirror of apt) is
mounted or copied; nothing of it is in the image that is built. An image that is there already is used,
also a real one that was pulled; `buildah rmi NAME` and a new run make it anew. For the other processor this
machine's Rust needs that target (`rustup target add aarch64-unknown-linux-gnu`).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
SUITE = "trixie"
DEBIAN = f"docker.io/library/debian:{SUITE}-slim"
# Where the stand-in of the Rust image expects this machine's toolchain.
TOOLCHAIN = "/usr/local/toolchain"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# No bridge and no firewall rule is made on this machine, and nothing is asked of a registry.
BUILD_FLAGS = ["--pull=never", "--isolation=chroot"]
PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


class BaseImageError(Exception):
    """Something that the user can put right; its text is one line that says what to do."""


def rust_image() -> str:
    """The name that the Dockerfile gives to its base image."""
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    found = re.search(r"^ARG RUST_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    if found is None:
        raise BaseImageError("Dockerfile has no line 'ARG RUST_IMAGE=…'")
    return found[1]


def make_base_images() -> None:
    """Make the stand-ins that are not there yet."""
    for command, package in PACKAGES.items():
        if shutil.which(command) is None:
            raise BaseImageError(f"{command} is not installed: apt-get install {package}")
    rust = rust_image()
    if _is_there(rust):
        return
    with tempfile.TemporaryDirectory(prefix="base-images-") as work:
        if not _is_there(DEBIAN):
            _make_debian(Path(work))
        _make_rust(Path(work), rust)


def build_flags() -> list[str]:
    """What `buildah build` and `podman build` need on this machine to build on the stand-ins."""
    sysroot = _output(["rustc", "--print", "sysroot"], folder=CHECKOUT).strip()
    flags = [*BUILD_FLAGS, f"--volume={sysroot}:{TOOLCHAIN}:ro"]
    cargo_home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    # This machine's certificates count inside: a package index may be reached through a proxy with its own.
    for here, there in [
        (Path("/etc/ssl/certs"), "/etc/ssl/certs"),
        (Path("/etc/pip.conf"), "/etc/pip.conf"),
        (cargo_home / "config.toml", "/usr/local/cargo/config.toml"),
    ]:
        if here.exists():
            flags.append(f"--volume={here}:{there}:ro")
    return flags


def _make_debian(work: Path) -> None:
    archive = work / "debian.tar"
    _say(f"{DEBIAN}: making a minimal Debian {SUITE} (a minute or two)")
    _run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", SUITE, archive, _mirror()]
    )
    container = _output(["buildah", "from", "scratch"]).strip()
    try:
        _run(["buildah", "add", "--quiet", container, archive, "/"])
        _run(["buildah", "config", "--cmd", "/bin/bash", "--env", f"PATH={PATH}", container])
        _run(["buildah", "commit", "--quiet", container, DEBIAN])
    finally:
        _run(["buildah", "rm", container])


def _make_rust(work: Path, name: str) -> None:
    dockerfile = work / "Dockerfile"
    dockerfile.write_text(
        f"FROM {DEBIAN}\n"
        "RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \\\n"
        "    && rm -rf /var/lib/apt/lists/*\n"
        "ENV CARGO_HOME=/usr/local/cargo\n"
        f"ENV PATH={TOOLCHAIN}/bin:{PATH}\n"
    )
    _say(f"{name}: adding a C compiler")
    _run(["buildah", "build", "--quiet", *BUILD_FLAGS, "--tag", name, "--file", dockerfile, work])


def _mirror() -> str:
    """The mirror that apt uses on this machine."""
    folder = Path("/etc/apt")
    for file in [*sorted(folder.glob("sources.list.d/*.sources")), *sorted(folder.glob("**/*.list"))]:
        for line in file.read_text().splitlines():
            found = re.match(r"URIs:\s*(\S+/debian)/?\s*$", line) or re.match(
                r"deb\s+(?:\[.*\]\s+)?(\S+/debian)/?\s", line
            )
            if found:
                return found[1]
    raise BaseImageError("no Debian mirror in /etc/apt: the stand-ins can be made on Debian only")


def _is_there(image: str) -> bool:
    return subprocess.run(["buildah", "inspect", "--type=image", image], capture_output=True).returncode == 0


def _run(command: list[str | Path]) -> None:
    _output(command)


def _output(command: list[str | Path], folder: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        raise BaseImageError(f"'{' '.join(str(part) for part in command[:3])} …' failed: {lines[-1]}")
    return done.stdout


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) > 1:
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    try:
        make_base_images()
        print(" ".join(build_flags()))
    except BaseImageError as error:
        print(f"base.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
