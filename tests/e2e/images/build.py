"""Every image of the test, as archives that the node imports. What has not changed is kept."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from e2e.console import CheckFailed, say
from e2e.images import base
from e2e.images.archive import write_image
from e2e.machine import CHECKOUT, checkout_name, program
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
    return _kept(
        short, files.values(), inputs, ".tar", lambda target: write_image(target, name, files, command)
    )


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
    """Of small files their content; of large ones, which are built once, what a new build changes."""
    status = file.stat()
    if status.st_size < 2**20:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"


def gateway_image(version: str) -> Path:
    """The project's own Dockerfile, built by buildah on the stand-ins for its base images."""
    # Of this checkout: the store of images is the machine's.
    tag = f"localhost/e2e/gateway:{checkout_name()}"
    before = _image_id(tag)
    try:
        base.make_base_images()
        flags = " ".join(base.build_flags())
    except base.BaseImageError as error:
        raise CheckFailed(str(error)) from None
    command = ["make", "--no-print-directory", "image", "IMAGE_BUILDER=buildah", f"IMAGE={tag}"]
    log = KEPT / "gateway.log"
    KEPT.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(
            [*command, f"IMAGE_BUILD_FLAGS={flags}"], cwd=CHECKOUT, stdout=output, stderr=output, check=False
        )
    if done.returncode != 0:
        raise CheckFailed(f"the image could not be built; the end of {log} tells more")
    image = _image_id(tag)
    name = f"{GATEWAY_REPOSITORY}:{version}"

    def save(target: Path) -> None:
        command = ["buildah", "push", "--quiet", tag, f"docker-archive:{target}:{name}"]
        subprocess.run(command, check=True, capture_output=True)

    archive = _kept("gateway", [], [image, name], ".tar", save)
    if before not in ("", image):
        # What another tag still needs stays.
        subprocess.run(["buildah", "rmi", before], check=False, capture_output=True)
    return archive


def bytes_of(archive: Path) -> tuple[int, int]:
    """Of an image: its layers as a node unpacks them, and compressed as a registry keeps them."""
    unpacked = compressed = 0
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        for layer in manifest["Layers"]:
            content = tar.extractfile(layer).read()
            unpacked += len(content)
            compressed += len(gzip.compress(content, compresslevel=6))
    return unpacked, compressed


def _image_id(tag: str) -> str:
    done = subprocess.run(
        ["buildah", "images", "--quiet", "--no-trunc", tag], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
