"""JSON schemas of everything that manifests of this project hold, made from pinned Go modules and from crd/.

    module in Go's cache (checked by its hash)  →  swagger.json, definitions of custom resources
    scripts/schemas.py  →  ~/.cache/inference-gateway/schemas/HASH/   ←── prepared/schemas (a link)
                               KIND-GROUP-VERSION.json      for kubeconform
                               crds/*.yaml                  the definitions of others, for an apiserver

Go does the download, because it knows the user's proxy. Nothing of these modules is built.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from preparation.console import PrepareError, explain_failure, run_command, say, step
from preparation.folders import exclusive_lock, fill_folder, hash_of_inputs, replace_link
from preparation.go_programs import go_variables, module_hash, module_version, require_go


@dataclass(frozen=True)
class Module:
    """Files of a Go module. To move a pin: `go mod download -json PATH@VERSION` prints the hash as `Sum`."""

    path: str
    version: str
    content_hash: str
    files: Sequence[str]


OTHERS = (
    # The newest that is in the module proxy whole; the kinds that a chart uses are older and do not change.
    Module(
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        [
            f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
            for kind in ("podmonitors", "prometheusrules", "servicemonitors")
        ],
    ),
    Module(
        "sigs.k8s.io/gateway-api",
        "v1.6.3",
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        [
            f"config/crd/standard/gateway.networking.k8s.io_{kind}.yaml"
            for kind in ("gatewayclasses", "gateways", "httproutes", "referencegrants")
        ],
    ),
    Module(
        "sigs.k8s.io/gateway-api-inference-extension",
        "v1.3.0",
        "h1:Ng2Qs1Oum4WycuWyi3rOkAC7pZ2aDqgN2ku6Lr/mryQ=",
        ["config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"],
    ),
    Module(
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        [f"config/crd/bases/keda.sh_{kind}.yaml" for kind in ("scaledobjects", "triggerauthentications")],
    ),
)
"""Custom resources that a manifest of ours may hold, defined by others."""


def kubernetes_module(modules: Path) -> Module:
    """The Kubernetes that scripts/kubernetes pins, whose apiserver the tests run too."""
    version = module_version(modules / "go.mod", "k8s.io/kubernetes")
    content_hash = module_hash(modules / "go.sum", "k8s.io/kubernetes", version)
    return Module("k8s.io/kubernetes", version, content_hash, ["api/openapi-spec/swagger.json"])


Downloader = Callable[[Module], Path]
"""The folder with a module's files, or `PrepareError`. Tests need no Go."""


def prepare_schemas(checkout: Path, cache: Path, prepared: Path, python: Path, lock: int) -> None:
    """Make what the cache lacks with `python`, which has a YAML reader, and link it as prepared/schemas."""
    scripts = checkout / "scripts"
    kubernetes = kubernetes_module(scripts / "kubernetes")
    own = sorted((checkout / "crd").glob("*.yaml"))
    inputs = hash_of_inputs([scripts / "schemas.py", *own], repr((kubernetes, OTHERS)))
    final = cache / "schemas" / inputs[:12]
    with exclusive_lock(final.with_name(final.name + ".lock"), "schemas") as cache_lock:
        if not final.is_dir():

            def download(module: Module) -> Path:
                return downloaded(module, scripts / "kubernetes", [lock, cache_lock])

            def convert(folder: Path, swagger: Path, definitions: Sequence[Path]) -> None:
                command = [python, scripts / "schemas.py", folder, swagger, *definitions]
                run_command(command, keep_open=[lock, cache_lock])

            with step("schemas: made for manifests"):
                fill_folder(final, lambda folder: make(folder, kubernetes, own, download, convert))
    if not replace_link(prepared / "schemas", final):
        say("up to date: schemas")


def make(
    folder: Path,
    kubernetes: Module,
    own: Sequence[Path],
    download: Downloader,
    convert: Callable[[Path, Path, Sequence[Path]], None],
) -> None:
    """Fill a folder with the definitions of others, and with the schemas of all."""
    definitions = folder / "crds"
    definitions.mkdir()
    for module in OTHERS:
        source = download(module)
        for name in module.files:
            shutil.copyfile(source / name, definitions / Path(name).name)
    convert(folder, download(kubernetes) / kubernetes.files[0], [*sorted(definitions.iterdir()), *own])


def downloaded(module: Module, modules: Path, keep_open: Sequence[int]) -> Path:
    """The folder of Go's own cache with a module's files, which have the pinned hash."""
    require_go(modules, f"the download of {module.path}")
    name = f"{module.path}@{module.version}"
    command = ["go", "mod", "download", "-json", name]
    # The pin says more than a database of hashes, which not every network reaches.
    variables = go_variables() | {"GOSUMDB": "off"}
    # At the root no go.mod is found, so this is about no module but the named one.
    done = subprocess.run(
        command, cwd="/", env=variables, capture_output=True, text=True, check=False, pass_fds=keep_open
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"Error": done.stderr}
    if error := answer.get("Error"):
        raise PrepareError(f"{name}: {explain_failure(command, done.returncode, error)}")
    if answer["Sum"] != module.content_hash:
        raise PrepareError(
            f"hash mismatch: {name} has {answer['Sum']}, pinned is {module.content_hash} "
            "(scripts/preparation/schemas.py or scripts/kubernetes/go.sum); nothing was installed"
        )
    return Path(answer["Dir"])
