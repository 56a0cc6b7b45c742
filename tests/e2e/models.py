"""The models that the cluster serves: tiny ones, each with the list of its files by sha256."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.machine import PREPARED

FIRST, SECOND, BROKEN = "first", "second", "broken"


@dataclass(frozen=True)
class Models:
    """A folder of models, and the digest of each."""

    folder: Path
    digests: dict[str, str]

    def source(self, name: str, server: str) -> dict:
        """The source of a model as a `Model` names it, at a server of files."""
        return {"url": f"{server}/{name}/manifest.json", "digest": self.digests[name]}


def make(folder: Path) -> Models:
    """Two models that answer differently, and one whose graph breaks off: its list of files is honest."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, tiny in ((FIRST, "llama"), (SECOND, "gpt2"), (BROKEN, "gpt2")):
        shutil.copytree(PREPARED / "tiny" / tiny, folder / name)
    graph = folder / BROKEN / "model.onnx"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    return Models(folder, {name: _pack(folder / name) for name in (FIRST, SECOND, BROKEN)})


def _pack(folder: Path) -> str:
    """Write manifest.json as `inference-gateway pack` does; returns its digest."""
    files = [
        {
            "name": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "size": file.stat().st_size,
        }
        for file in sorted(folder.iterdir())
    ]
    manifest = json.dumps(files, indent=2).encode()
    (folder / "manifest.json").write_bytes(manifest)
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"
