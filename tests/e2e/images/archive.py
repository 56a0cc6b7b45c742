"""Image archives of a few files and nothing else, written here: `FROM scratch` needs no builder."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_image(
    target: Path, name: str, files: Mapping[str, Path], command: Sequence[str], user: str = "65532:65532"
) -> None:
    """An archive as `docker save` makes it, of files and folders by their absolute paths in the image."""
    partial = target.with_suffix(".partial")
    layer = partial.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        for place, source in sorted(files.items()):
            tar.add(source.resolve(), place.lstrip("/"), filter=_anybody_may_read)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": list(command), "User": user},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(partial, "w") as tar:
        tar.add(layer, "layer.tar")
        for file_name, content in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(file_name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    layer.unlink()
    partial.replace(target)


def _anybody_may_read(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
