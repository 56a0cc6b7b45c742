"""A control plane for the tests: etcd, kube-apiserver and kube-controller-manager, built from Go modules.

`go.mod` and `go.sum` in scripts/kubernetes name every module by its hash, and any Go proxy has them: no registry
of images and no download page is asked. Built once for all checkouts, in the user's cache folder:

    ~/.cache/inference-gateway/kubernetes/VERSION-HASH/   ←── prepared/kubernetes (a link)

A folder of that name is complete, because it gets its name when it is. Tests take the programs that
KUBEBUILDER_ASSETS names, if all three are there, so somebody who has them builds nothing.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from preparation.console import PrepareError, run_command, say, step
from preparation.folders import exclusive_lock, hash_of_inputs, remove_leftovers, require_free_space

PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}
"""Name of each program and the package it is built from."""

# What the three take, and what one of them takes while it is linked. Go's own caches are Go's matter.
NEEDED_BYTES = 700 * 2**20

Runner = Callable[[Sequence[str | Path], Mapping[str, str], Path], None]
"""Runs a command with these variables in this folder, or raises `PrepareError`. Tests need no Go."""


def assets_of_the_user(environment: Mapping[str, str]) -> Path | None:
    """The folder that KUBEBUILDER_ASSETS names, if it has all three programs."""
    named = environment.get("KUBEBUILDER_ASSETS")
    return Path(named) if named and has_programs(Path(named)) else None


def has_programs(folder: Path) -> bool:
    """Whether all three programs are in a folder and may be run."""
    return all((folder / name).is_file() and os.access(folder / name, os.X_OK) for name in PROGRAMS)


class ControlPlane:
    """The programs of the Kubernetes that `modules` (a folder with go.mod and go.sum) pins."""

    def __init__(self, modules: Path, cache: Path) -> None:
        self._modules = modules
        self._module_file = (modules / "go.mod").read_text()
        self.version = _find(r"^\s*(?:require )?k8s\.io/kubernetes (v\S+)", self._module_file)
        self._command = ["-ldflags", _linker_flags(self.version), "-trimpath", "-buildvcs=false"]
        inputs = hash_of_inputs([modules / "go.mod", modules / "go.sum"], *self._command)
        self.folder = cache / "kubernetes" / f"{self.version}-{inputs[:12]}"

    def prepare(self, prepared: Path, lock: int) -> None:
        """Build what is not in the cache yet, and link it as prepared/kubernetes.

        `lock` is the descriptor of the checkout's lock, which `go` inherits.
        """
        if assets := assets_of_the_user(os.environ):
            say(f"kubernetes: KUBEBUILDER_ASSETS is used: {assets}")
            return
        link = prepared / "kubernetes"
        if has_programs(self.folder) and link.is_symlink() and link.readlink() == self.folder:
            say("up to date: kubernetes")
            return

        def run(command: Sequence[str | Path], variables: Mapping[str, str], folder: Path) -> None:
            run_command(command, environment=dict(variables), keep_open=[lock, cache_lock], folder=folder)

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # Checkouts share the cache, so it has a lock of its own beside the lock of the prepared folder.
        with exclusive_lock(self.folder.with_name(self.folder.name + ".lock"), "Kubernetes") as cache_lock:
            self.build(run)
        _replace_link(link, self.folder)

    def build(self, run: Runner) -> None:
        """The programs into the cache folder, unless they are there. The caller holds its lock."""
        if has_programs(self.folder):
            return
        require_go(_find(r"^go (\S+)$", self._module_file), usable_go(self._modules))
        remove_leftovers(self.folder)
        require_free_space(self.folder, NEEDED_BYTES)
        say(
            f"kubernetes: building {', '.join(PROGRAMS)} {self.version} from Go modules, once for all "
            "checkouts (about ten minutes and 4 GB of Go's caches on two cores)"
        )
        partial = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.partial-", dir=self.folder.parent))
        partial.chmod(0o755)
        try:
            for name, package in PROGRAMS.items():
                with step(f"kubernetes: {name} built"):
                    # Nice: somebody works on this machine. A killed build goes on from Go's own cache.
                    command = ["nice", "-n", "5", "go", "build", *self._command, "-mod=readonly"]
                    run([*command, "-o", partial / name, package], go_variables(), self._modules)
            if self.folder.exists():
                self.folder.rename(partial.with_name(partial.name + "-old"))
            partial.rename(self.folder)
        finally:
            remove_leftovers(self.folder)


def usable_go(modules: Path) -> str | None:
    """The version of Go that would build these modules, as `go1.26.8`; None if there is none.

    A `go` since 1.21 fetches a newer one that the modules ask for, unless GOTOOLCHAIN forbids it; where it cannot,
    this is the version that is installed.
    """
    go = shutil.which("go")
    for variables in (go_variables(), go_variables() | {"GOTOOLCHAIN": "local"}) if go else ():
        done = subprocess.run(
            [go, "env", "GOVERSION"], cwd=modules, env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return go and "broken"


def require_go(needed: str, found: str | None) -> None:
    """Fail with what to install when Go is missing or older than `needed`."""
    numbers = re.search(r"go(\d+(?:\.\d+)*)", found or "")
    if numbers and _numbers(numbers[1]) >= _numbers(needed):
        return
    problem = "there is no program 'go'" if found is None else f"the installed Go is {found}"
    raise PrepareError(
        f"{problem}, and building Kubernetes for the tests needs Go {needed} or newer: "
        f"install it (https://go.dev/dl/), or set KUBEBUILDER_ASSETS to a folder with {', '.join(PROGRAMS)}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def go_variables() -> dict[str, str]:
    """The user's variables without those that would change what is built.

    GOPROXY, GOMODCACHE, GOTOOLCHAIN and the like stay the user's.
    """
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}


def _linker_flags(version: str) -> str:
    """Without symbols, and with the version that a release would say it has: clients look at it."""
    minor = _find(r"^v1\.(\d+)\.", version)
    flags = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        values = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor, "gitTreeState": "clean"}
        flags += [f"-X {package}.{name}={value}" for name, value in values.items()]
    return " ".join(flags)


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise PrepareError(f"scripts/kubernetes/go.mod does not have what is looked for: {pattern}")
    return found[1]


def _replace_link(link: Path, target: Path) -> None:
    """Let `link` lead to `target` in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{link.name}.partial-link")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
