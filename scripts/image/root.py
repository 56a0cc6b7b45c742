#!/usr/bin/env python3
"""The files of the final image: the program, ONNX Runtime, and what the two need of the system, nothing else.

    python3 scripts/image/root.py --triplet x86_64-linux-gnu PROGRAM ONNXRUNTIME_FOLDER ROOT

Which libraries are needed is read from the ELF files with readelf, which works for another processor too. The
record of each Debian package that a file comes from, and its licence, go along: scanners of images look for known
problems by them, in the place where other images without a package manager have them.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

USER_AND_GROUP = 65532
PROGRAM = Path("usr/local/bin/inference-gateway")
LIBRARIES = Path("usr/local/lib")
# The driver of a GPU must fit the kernel of the node: the node's container runtime mounts it.
MOUNTED_AT_RUN_TIME = re.compile(r"lib(cuda|nvidia-ml)\.so\.1")
SMALL_FILES = {
    "etc/passwd": f"nonroot:x:{USER_AND_GROUP}:{USER_AND_GROUP}:nonroot:/tmp:/sbin/nologin\n",
    "etc/group": f"nonroot:x:{USER_AND_GROUP}:\n",
    # Without it, glibc looks a name up in the DNS before it looks into /etc/hosts.
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class RootError(Exception):
    """What the image would lack; its text is one line."""


def needed_libraries(elf: Path) -> list[str]:
    """The libraries that a file names itself, and the loader that it asks for."""
    output = _output(["readelf", "--wide", "--dynamic", "--program-headers", elf])
    return re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", output) + loader_of(output)


def loader_of(readelf_output: str) -> list[str]:
    """The absolute path of the loader, in a list of one; a library has none."""
    return re.findall(r"Requesting program interpreter: (.+)\]", readelf_output)


def collect(
    elves: list[Path],
    own: set[str],
    system: list[Path],
    needed: Callable[[Path], list[str]] = needed_libraries,
) -> dict[str, Path]:
    """Every library of the system that `elves` need, directly or not: by its name (the loader: its path) its file.

    `own` are names of libraries that come along with the program.
    """
    found: dict[str, Path] = {}
    waiting = list(elves)
    while waiting:
        elf = waiting.pop()
        for name in needed(elf):
            if name in found or name in own or MOUNTED_AT_RUN_TIME.fullmatch(name):
                continue
            places = [Path(name)] if name.startswith("/") else [folder / name for folder in system]
            file = next((place for place in places if place.exists()), None)
            if file is None:
                raise RootError(f"{elf.name} needs {name}, which is not in {', '.join(map(str, places))}")
            found[name] = file.resolve()
            waiting.append(found[name])
    return found


def make_root(root: Path, program: Path, onnxruntime: Path, triplet: str) -> None:
    """Fill the folder `root`."""
    _copy(program, root / PROGRAM)
    (root / PROGRAM).chmod(0o755)
    own = sorted(file for file in onnxruntime.iterdir() if ".so" in file.name)
    if not any(file.name == "libonnxruntime.so" for file in own):
        raise RootError("there is no /onnxruntime/libonnxruntime.so in the image ONNXRUNTIME")
    for file in own:
        _copy(file, root / LIBRARIES / file.name)
    for file in sorted(set(onnxruntime.iterdir()) - set(own)):
        if file.is_file():
            _copy(file, root / "usr/share/doc/onnxruntime" / file.name)

    system = [Path("/usr/lib") / triplet, Path("/lib") / triplet]
    found = collect([program, *own], {file.name for file in own}, system)
    loaders = {Path(name).name for name in found if name.startswith("/")}
    for name, file in found.items():
        if (
            name not in loaders
        ):  # it is named by libraries as well, by its path it is where the kernel looks for it
            _copy(
                file, root / name.lstrip("/") if name.startswith("/") else root / "usr/lib" / triplet / name
            )
    packages: dict[str, list[str]] = {"ca-certificates": ["etc/ssl/certs/ca-certificates.crt"]}
    for name, file in found.items():
        packages.setdefault(_package_of(file), []).append(name)
    for package, names in sorted(packages.items()):
        _record(package, root)
        print(f"from {package}: {', '.join(names)}")

    _copy(Path("/etc/os-release").resolve(), root / "etc/os-release")
    for name, text in SMALL_FILES.items():
        (root / name).write_text(text)
    (root / "var/cache").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)


def _package_of(file: Path) -> str:
    """The Debian package that owns a file, with its architecture."""
    return _output(["dpkg-query", "--search", file]).split(": ")[0]


def _record(package: str, root: Path) -> None:
    """The package's entry in Debian's data base, and its licence."""
    name = package.split(":")[0]
    status = root / "var/lib/dpkg/status.d" / name
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text(_output(["dpkg-query", "--status", package]))
    _copy(Path("/usr/share/doc") / name / "copyright", root / "usr/share/doc" / name / "copyright")


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its mode; a link to a file beside it stays a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(
        source, target, follow_symlinks=not (source.is_symlink() and "/" not in str(source.readlink()))
    )


def _output(command: list[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RootError(f"'{' '.join(str(part) for part in command)}' failed: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--triplet", required=True, help="Debian's name of the processor, x86_64-linux-gnu")
    parser.add_argument("program", type=Path)
    parser.add_argument("onnxruntime", type=Path)
    parser.add_argument("root", type=Path)
    wanted = parser.parse_args()
    try:
        make_root(wanted.root, wanted.program, wanted.onnxruntime, wanted.triplet)
    except RootError as error:
        print(f"root.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
