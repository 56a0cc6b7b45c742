"""Programs that are built from pinned Go modules, in the user's cache folder, once for all checkouts.

A folder with `go.mod` and `go.sum` names every module by its hash, and any Go proxy has them: no registry of
images and no download page is asked.

    ~/.cache/inference-gateway/NAME/VERSION-HASH/   ←── links in prepared/

A folder of that name is complete, because it gets its name when it is.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preparation.console import PrepareError, run_command, say, step
from preparation.folders import exclusive_lock, fill_folder, hash_of_inputs, replace_link, require_free_space

Runner = Callable[[Sequence[str | Path], Mapping[str, str], Path], None]
"""Runs a command with these variables in this folder, or raises `PrepareError`. Tests need no Go."""


@dataclass(frozen=True)
class GoPrograms:
    """What is built together from one folder of pinned modules."""

    name: str
    """Of its folder in the cache."""
    modules: Path
    """The folder with go.mod, go.sum and, for a program of our own, its source files."""
    versioned_by: str
    """The module in go.mod whose version names the result."""
    packages: Mapping[str, str]
    """Name of each program and the package it is built from."""
    needed_mebibytes: int
    """What the programs take, and what one of them takes while it is linked. Go's caches are Go's matter."""
    cost: str
    """What a first build takes on two cores, for the user who waits for it."""
    version_variables: Callable[[str], Mapping[str, str]] = field(default=lambda version: {})
    """From a version to the variables, as `package.name`, that tell it to the programs themselves."""
    tags: Sequence[str] = ()
    instead: str = ""
    """What a user without Go may do instead; follows "install it"."""

    @property
    def version(self) -> str:
        """Of the main module, as go.mod pins it."""
        return module_version(self.modules / "go.mod", self.versioned_by)

    @property
    def folder(self) -> Path:
        """Where in the cache the programs are, relative to it."""
        sources = [self.modules / "go.mod", self.modules / "go.sum", *self.modules.glob("*.go")]
        return Path(self.name) / f"{self.version}-{hash_of_inputs(sources, *self._options())[:12]}"

    def prepare(self, cache: Path, lock: int) -> Path:
        """The folder with the programs: built unless the cache has it.

        `lock` is the descriptor of the checkout's lock, which `go` inherits.
        """
        folder = cache / self.folder
        if has_programs(folder, self.packages):
            return folder

        def run(command: Sequence[str | Path], variables: Mapping[str, str], where: Path) -> None:
            run_command(command, environment=dict(variables), keep_open=[lock, cache_lock], folder=where)

        # Checkouts share the cache, so it has a lock of its own beside the lock of the prepared folder.
        with exclusive_lock(folder.with_name(folder.name + ".lock"), self.name) as cache_lock:
            self.build(folder, run)
        return folder

    def build(self, folder: Path, run: Runner) -> None:
        """The programs into their folder of the cache, unless they are there. The caller holds its lock."""
        if has_programs(folder, self.packages):
            return
        require_go(self.modules, f"building {self.name}", self.instead)
        say(
            f"{self.name}: building {', '.join(self.packages)} {self.version} from Go modules, once for all "
            f"checkouts ({self.cost})"
        )

        def build(partial: Path) -> None:
            require_free_space(partial, self.needed_mebibytes * 2**20)
            for program, package in self.packages.items():
                with step(f"{self.name}: {program} built"):
                    # Nice: somebody works on this machine. A killed build goes on from Go's own cache.
                    command = ["nice", "-n", "5", "go", "build", *self._options(), "-mod=readonly"]
                    run([*command, "-o", partial / program, package], go_variables(), self.modules)

        fill_folder(folder, build)

    def _options(self) -> list[str]:
        """Options of `go build`: no symbols, no paths of this machine, so that machines build the same."""
        variables = self.version_variables(self.version)
        flags = ["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())]
        tags = [f"-tags={','.join(self.tags)}"] if self.tags else []
        return ["-ldflags", " ".join(flags), "-trimpath", "-buildvcs=false", *tags]


def link_programs(links: Path, folder: Path, names: Iterable[str]) -> bool:
    """Link each of these programs of `folder` in the folder `links`; whether one was not linked before."""
    return any([replace_link(links / name, folder / name) for name in names])


def has_programs(folder: Path, names: Iterable[str]) -> bool:
    """Whether all these programs are in a folder and may be run."""
    return all((folder / name).is_file() and os.access(folder / name, os.X_OK) for name in names)


def module_version(go_mod: Path, module: str) -> str:
    """The version of a module that a go.mod requires, as `v1.37.2`."""
    return _find(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod)


def module_hash(go_sum: Path, module: str, version: str) -> str:
    """The hash of a module's content that a go.sum has, as `h1:...=`."""
    return _find(rf"^{re.escape(f'{module} {version}')} (h1:\S+)$", go_sum)


def usable_go(modules: Path) -> str | None:
    """The version of Go that would build these modules, as `go1.26.8`; None if there is none.

    A `go` since 1.21 fetches a newer one that the modules ask for, unless GOTOOLCHAIN forbids it; where it
    cannot, this is the version that is installed.
    """
    go = shutil.which("go")
    for variables in (go_variables(), go_variables() | {"GOTOOLCHAIN": "local"}) if go else ():
        done = subprocess.run(
            [go, "env", "GOVERSION"], cwd=modules, env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return go and "broken"


def require_go(modules: Path, purpose: str, instead: str = "") -> None:
    """Fail with what to install when Go is missing or older than these modules need."""
    needed, found = _find(r"^go (\S+)$", modules / "go.mod"), usable_go(modules)
    numbers = re.search(r"go(\d+(?:\.\d+)*)", found or "")
    if numbers and _numbers(numbers[1]) >= _numbers(needed):
        return
    problem = "there is no program 'go'" if found is None else f"the installed Go is {found}"
    raise PrepareError(
        f"{problem}, and {purpose} for the tests needs Go {needed} or newer: "
        f"install it (https://go.dev/dl/){instead}"
    )


def go_variables() -> dict[str, str]:
    """The user's variables without those that would change what is built.

    GOPROXY, GOMODCACHE, GOTOOLCHAIN and the like stay the user's.
    """
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _find(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    if found is None:
        raise PrepareError(f"{file} does not have what is looked for: {pattern}")
    return found[1]
