#!/usr/bin/env python3
"""What the image is made of, as a CycloneDX document in JSON: crates, ONNX Runtime, Debian packages.

    python3 scripts/sbom.py --arch amd64 --records FOLDER > inference-gateway.cdx.json

The crates come from `cargo metadata`, as Cargo.lock pins them for the target. What only helps to compile
(macros, build scripts and what these use) has the scope `excluded`: it is not in the image. ONNX Runtime comes
from its pin. FOLDER has the records of the Debian packages whose files are in the image; the stage `beside` of
the Dockerfile gives them out (`make sbom` does all of it). The same commit and image give the same document.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path

from preparation import pins

CHECKOUT = Path(__file__).resolve().parent.parent
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
Json = dict[str, object]


def document(metadata: Json, lock: Json, machine: str, records: dict[str, str]) -> Json:
    """The document, from what cargo says, Cargo.lock, and the records of Debian packages by name."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    checksums = {(each["name"], each["version"]): each.get("checksum") for each in lock["package"]}

    def is_linked(kinds: set[str | None], package: Json) -> bool:
        return None in kinds and not any("proc-macro" in target["kind"] for target in package["targets"])

    linked = reachable(root, nodes, lambda kinds, target: is_linked(kinds, packages[target]))
    compiled = reachable(root, nodes, lambda kinds, target: kinds != {"dev"})
    references = {
        each: f"pkg:cargo/{packages[each]['name']}@{packages[each]['version']}" for each in compiled
    }

    crates = []
    for each in sorted(compiled - {root}, key=references.__getitem__):
        package = packages[each]
        crates.append(crate(package, checksums[package["name"], package["version"]], each in linked))
    native = [onnx_runtime(machine), *(debian_package(record) for _, record in sorted(records.items()))]
    program = crate(packages[root], None, True) | {"type": "application"}

    dependencies = [
        {
            "ref": references[each],
            "dependsOn": sorted(
                references[edge["pkg"]] for edge in nodes[each]["deps"] if edge["pkg"] in compiled
            ),
        }
        for each in sorted(compiled, key=references.__getitem__)
    ]
    next(each for each in dependencies if each["ref"] == references[root])["dependsOn"] += [
        component["bom-ref"] for component in native
    ]
    content: Json = {
        "metadata": {"component": program},
        "components": crates + native,
        "dependencies": dependencies,
    }
    # A name made of the content, so that the same release has the same one.
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}",
        "version": 1,
        **content,
    }


def reachable(root: str, nodes: dict[str, Json], goes_on: Callable[[set[str | None], str], bool]) -> set[str]:
    """The packages to which edges lead that `goes_on` accepts by their kinds (None is a plain dependency)."""
    found, waiting = {root}, [root]
    while waiting:
        for edge in nodes[waiting.pop()]["deps"]:
            kinds = {kind["kind"] for kind in edge["dep_kinds"]}
            if edge["pkg"] not in found and goes_on(kinds, edge["pkg"]):
                found.add(edge["pkg"])
                waiting.append(edge["pkg"])
    return found


def crate(package: Json, checksum: str | None, is_linked: bool) -> Json:
    """One crate; `checksum` is that of the archive in the registry."""
    purl = f"pkg:cargo/{package['name']}@{package['version']}"
    component: Json = {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "scope": "required" if is_linked else "excluded",
        "purl": purl,
    }
    if package["license"]:
        # Crates from before SPDX expressions write a slash.
        component["licenses"] = [
            {"expression": " OR ".join(part.strip() for part in package["license"].split("/"))}
        ]
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return component


def onnx_runtime(machine: str) -> Json:
    """The library as it is pinned for a processor."""
    pin = pins.ONNX_RUNTIME[machine]
    purl = f"pkg:pypi/{pin.package}@{pin.version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": pin.package,
        "version": pin.version,
        "scope": "required",
        "purl": purl,
        "licenses": [{"expression": "MIT"}],
        "hashes": [{"alg": "SHA-256", "content": pin.member_sha256}],
        "description": f"{Path(pin.member).name} out of the wheel with sha256 {pin.wheel_sha256}",
    }


def debian_package(record: str) -> Json:
    """A package of which files are in the image, from its entry in Debian's data base."""
    fields = dict(line.split(": ", 1) for line in record.splitlines() if line[:1].isalpha() and ": " in line)
    purl = f"pkg:deb/debian/{fields['Package'].replace('+', '%2B')}@{fields['Version'].replace('+', '%2B')}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": fields["Package"],
        "version": fields["Version"],
        "scope": "required",
        "purl": f"{purl}?arch={fields['Architecture']}",
    }


def cargo_metadata(machine: str) -> list[str]:
    """The command that prints the crates, and what needs what, for a processor."""
    target = f"{machine}-unknown-linux-gnu"
    return ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--arch", choices=sorted(MACHINES), required=True, help="the processor, as images call it"
    )
    parser.add_argument(
        "--records", type=Path, required=True, help="folder with the records of Debian packages"
    )
    wanted = parser.parse_args()
    records = (
        {file.name: file.read_text() for file in wanted.records.iterdir()} if wanted.records.is_dir() else {}
    )
    if not records:
        print(f"sbom.py: error: no records in {wanted.records}: run `make sbom`", file=sys.stderr)
        return 1
    machine = MACHINES[wanted.arch]
    done = subprocess.run(cargo_metadata(machine), cwd=CHECKOUT, stdout=subprocess.PIPE)
    if done.returncode != 0:
        return done.returncode
    lock = tomllib.loads((CHECKOUT / "Cargo.lock").read_text())
    json.dump(document(json.loads(done.stdout), lock, machine, records), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
