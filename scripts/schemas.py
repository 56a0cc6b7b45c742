#!/usr/bin/env python3
"""JSON schemas of Kubernetes' own kinds and of custom resources, one file for each kind and version.

    prepared/venv/bin/python scripts/schemas.py OUT SWAGGER [DEFINITIONS...]
    kubeconform -strict -schema-location 'OUT/{{.ResourceKind}}{{.KindSuffix}}.json' MANIFEST...

SWAGGER is api/openapi-spec/swagger.json of Kubernetes, DEFINITIONS are YAML files with
CustomResourceDefinitions. The schemas refuse every field that the apiserver does not know, as it does itself with
strict validation of fields, and null where it would take null for absent: nobody means that. They leave out what
a schema cannot say: rules in CEL, admission.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

Schema = dict

QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# What a check does not need, and what JSON Schema has no word for.
DROPPED = ("description", "default", "example", "nullable", "format", "title")


def strict_definitions(swagger: dict) -> dict[str, Schema]:
    """The schemas that Kubernetes' own refer to by name."""
    definitions = {name: strict(schema, closed=False) for name, schema in swagger["definitions"].items()}
    return definitions | {QUANTITY: {"anyOf": [{"type": "string"}, {"type": "number"}]}}


def kinds_of_kubernetes(swagger: dict, definitions: dict[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every kind that `swagger` names as one."""
    for name, schema in swagger["definitions"].items():
        kinds = schema.get("x-kubernetes-group-version-kind", [])
        # With more than one it is a part that all groups share, as DeleteOptions, and no manifest.
        if len(kinds) == 1:
            yield file_name(**kinds[0]), with_definitions(definitions[name], definitions)


def kinds_of_custom_resources(
    documents: Iterable[dict | None], definitions: dict[str, Schema]
) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every version that the CustomResourceDefinitions among `documents` serve."""
    for document in documents:
        if not document or document.get("kind") != "CustomResourceDefinition":
            continue
        spec = document["spec"]
        for version in spec["versions"]:
            if version["served"]:
                schema = strict(version["schema"]["openAPIV3Schema"], closed=True)
                schema.setdefault("properties", {}).update(
                    apiVersion={"type": "string"},
                    kind={"type": "string"},
                    metadata={"$ref": f"#/definitions/{OBJECT_META}"},
                )
                name = file_name(spec["group"], version["name"], spec["names"]["kind"])
                yield name, with_definitions(schema, definitions)


def file_name(group: str, version: str, kind: str) -> str:
    """As kubeconform writes `{{.ResourceKind}}{{.KindSuffix}}`: a group only up to its first dot."""
    parts = [kind, group.partition(".")[0], version]
    return "-".join(part for part in parts if part).lower() + ".json"


def strict(schema: Schema, closed: bool) -> Schema:
    """A schema of OpenAPI as JSON schema that refuses unknown fields.

    `closed` says whether an object without any properties has no fields (so in a CustomResourceDefinition, where
    the apiserver drops them) or any (so in Kubernetes' own, where that is how it writes free-form JSON).
    """
    out = {key: schema[key] for key in schema if key not in DROPPED and not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        out.pop("type", None)
        out.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    # Not below `anyOf` and the like: there stand conditions on some of these fields, which refuse no others.
    if "properties" in schema:
        # The apiserver fills defaults in before it asks what is required.
        fields = schema["properties"]
        required = [name for name in out.pop("required", []) if "default" not in fields.get(name, {})]
        out |= {"required": required} if required else {}
        out["properties"] = {name: strict(field, closed) for name, field in fields.items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = strict(schema[key], closed)
    if schema.get("x-kubernetes-embedded-resource"):
        for name, kind in (("apiVersion", "string"), ("kind", "string"), ("metadata", "object")):
            out.setdefault("properties", {})[name] = {"type": kind}
    if _has_only_known_fields(schema, closed):
        out["additionalProperties"] = False
    if schema.get("nullable"):
        return {"anyOf": [{"type": "null"}, out]}
    return out


def _has_only_known_fields(schema: Schema, closed: bool) -> bool:
    if "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields"):
        return False
    return "properties" in schema or (closed and schema.get("type") == "object")


def with_definitions(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema with everything that it refers to, so that the file stands alone."""
    needed: set[str] = set()
    todo = [schema]
    while todo:
        for name in _references(todo.pop()):
            if name not in needed:
                needed.add(name)
                todo.append(definitions[name])
    return {**schema, "definitions": {name: definitions[name] for name in sorted(needed)}}


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        # A field may be called `$ref` too: then it has a schema, and no text.
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def write(folder: Path, schemas: Iterable[tuple[str, Schema]]) -> int:
    """A file for each schema; their number."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, schema in schemas:
        # Never over another: two groups may begin with the same word.
        with (folder / name).open("x") as file:
            json.dump(schema, file)
        written += 1
    return written


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("swagger", type=Path, metavar="SWAGGER")
    parser.add_argument("definitions", type=Path, nargs="*", metavar="DEFINITIONS")
    wanted = parser.parse_args()
    swagger = json.loads(wanted.swagger.read_text())
    definitions = strict_definitions(swagger)
    written = write(wanted.out, kinds_of_kubernetes(swagger, definitions))
    for file in wanted.definitions:
        documents = yaml.load_all(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        written += write(wanted.out, kinds_of_custom_resources(documents, definitions))
    print(f"{written} schemas in {wanted.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
