"""Every image of the test, as archives that the node imports. What has not changed since the last run is kept."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from e2e.console import CheckFailed, say
from e2e.images.archive import write_image
from e2e.machine import CHECKOUT, program
from e2e.node.settings import PAUSE_IMAGE

KEPT = CHECKOUT / "target" / "e2e-images"
SOURCES = Path(__file__).parent

FILES_IMAGE = "localhost/e2e/files:1"
COREDNS_IMAGE = "localhost/e2e/coredns:1"
PROMETHEUS_IMAGE = "localhost/e2e/prometheus:1"
GATEWAY_REPOSITORY = "ghcr.io/inference-gateway/inference-gateway"


def small_images(models: Path) -> list[Path]:
    """Our own programs and those that are one file."""
    pause, files = _go_program("pause"), _go_program("files")
    return [
        _image(PAUSE_IMAGE, {"/pause": pause}, ["/pause"]),
        _image(FILES_IMAGE, {"/files": files, "/models": models}, ["/files", "/models"]),
        _image(COREDNS_IMAGE, {"/coredns": program("coredns")}, ["/coredns"]),
        _image(PROMETHEUS_IMAGE, {"/prometheus": program("prometheus")}, ["/prometheus"]),
    ]


def _go_program(name: str) -> Path:
    """A program of this folder, without anything of the system in it."""

    def build(target: Path) -> None:
        if shutil.which("go") is None:
            raise CheckFailed("there is no program 'go': install Go (https://go.dev/dl/)")
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", target, f"./{name}"]
        variables = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        subprocess.run(command, cwd=SOURCES, env=variables, check=True)

    return _kept(name, [SOURCES / "go.mod", SOURCES / name], [], "", build)


def _image(name: str, files: Mapping[str, Path], command: Sequence[str]) -> Path:
    short = name.rpartition("/")[2].partition(":")[0]
    inputs = [name, *files, *command]
    return _kept(short, files.values(), inputs, ".tar", lambda target: write_image(target, name, files, command))


def _kept(
    name: str, files: Sequence[Path], words: Sequence[str], suffix: str, build: Callable[[Path], None]
) -> Path:
    """The result of `build` for exactly these inputs, made now or by an earlier run."""
    total = hashlib.sha256("\0".join(words).encode())
    for file in files:
        for one in sorted(file.rglob("*")) if file.is_dir() else [file]:
            if one.is_file():
                total.update(f"{one.relative_to(file)}\0{_fingerprint(one)}\0".encode())
    result = KEPT / f"{name}-{total.hexdigest()[:12]}{suffix}"
    if not result.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as partial:
            say(f"     {result.name} is made")
            build(Path(partial) / result.name)
            (Path(partial) / result.name).replace(result)
        for older in KEPT.glob(f"{name}-????????????{suffix}"):
            if older != result:
                older.unlink()
    return result


def _fingerprint(file: Path) -> str:
    """Of small files their content; of large ones, which are built once, what would change with a new build."""
    status = file.stat()
    if status.st_size < 2**20:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def gateway_image(version: str) -> Path:
    """The project's own Dockerfile, built by buildah on the stand-ins for its base images."""
    raise CheckFailed("not yet")
