"""The charts as helm renders them, for the tests: `import chart` before anything of scripts/."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "charts" / "inference-gateway"
DEFINITIONS = ROOT / "charts" / "inference-gateway-crds"
TOOLS = ROOT / "prepared" / "tools"
SCHEMAS = ROOT / "prepared" / "schemas"
# The oldest and the newest that the chart is for.
KUBERNETES = ("1.32.0", "1.37.2")
NAMESPACE = "inference"
RELEASE = "rel"
VALUES = tuple(sorted((GATEWAY / "ci").glob("*-values.yaml")))

sys.path.insert(0, str(ROOT / "scripts"))


class Refused(Exception):
    """What helm said when it did not render."""


def tool(name: str) -> Path:
    """A program that `scripts/prepare.py tools` makes."""
    program = TOOLS / name
    assert program.exists(), f"prepared/tools/{name} is missing: run `python3 scripts/prepare.py tools`"
    return program


def run(name: str, *arguments: object, stdin: str = "") -> str:
    """What a tool prints."""
    command = [str(part) for part in (tool(name), *arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


@cache
def text(*arguments: str, chart: Path = GATEWAY) -> str:
    """What helm renders of a chart; raises `Refused` with its message."""
    return run("helm", "template", RELEASE, chart, f"--namespace={NAMESPACE}", *arguments)


def objects(*arguments: str, chart: Path = GATEWAY) -> list[dict]:
    """The same, read."""
    return read(text(*arguments, chart=chart))


def read(manifest: str) -> list[dict]:
    """The documents of a manifest, by the fast reader."""
    return [document for document in yaml.load_all(manifest, Loader=yaml.CSafeLoader) if document]


def of_kind(kind: str, *arguments: str) -> list[dict]:
    """The rendered objects of one kind."""
    return [found for found in objects(*arguments) if found["kind"] == kind]


def gateway(*arguments: str) -> dict:
    """The Deployment of the gateway."""
    return component("gateway", *arguments)


def component(name: str, *arguments: str) -> dict:
    """The Deployment of a component."""
    found = of_kind("Deployment", *arguments)
    return next(one for one in found if one["spec"]["template"]["spec"]["containers"][0]["name"] == name)


def environment(deployment: dict) -> dict[str, str | None]:
    """Variables of a Deployment's first container; None for those that come from elsewhere."""
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {variable["name"]: variable.get("value") for variable in variables}


def pod_specs(found: list[dict]) -> list[tuple[str, dict]]:
    """Name and spec of every pod that these objects make or are."""
    specs = []
    for one in found:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] == "Pod":
            specs.append((name, one["spec"]))
        elif one["kind"] == "Deployment":
            specs.append((name, one["spec"]["template"]["spec"]))
    return specs


def validate(manifest: str) -> str:
    """What kubeconform says of a manifest; raises `Refused` if anything in it does not fit its schema."""
    assert SCHEMAS.exists(), "prepared/schemas is missing: run `python3 scripts/prepare.py tools`"
    location = f"{SCHEMAS}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    return run("kubeconform", "-strict", "-summary", "-schema-location", location, stdin=manifest)
