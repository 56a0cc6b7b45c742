"""Schemas of manifests: what the converter refuses, and how they come into the cache, without Go."""

import io
import json
import shutil
import subprocess
import unittest
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import checkout  # first: it makes scripts/ importable

import schemas as converter
from preparation import go_programs, schemas
from preparation.console import PrepareError
from preparation.schemas import Module

META = converter.OBJECT_META
SWAGGER = {
    "definitions": {
        META: {"type": "object", "properties": {"name": {"type": "string"}}},
        converter.QUANTITY: {"type": "string"},
        "Free": {"type": "object"},
        "Pod": {
            "type": "object",
            "description": "a pod",
            "properties": {
                "metadata": {"$ref": f"#/definitions/{META}"},
                "cpu": {"$ref": f"#/definitions/{converter.QUANTITY}"},
                "free": {"$ref": "#/definitions/Free"},
                "port": {"type": "string", "format": "int-or-string"},
                "description": {"type": "string", "description": "a field of this name"},
            },
            "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}],
        },
        "Shared": {"x-kubernetes-group-version-kind": [{"kind": "A"}, {"kind": "B"}]},
    }
}


def definition(schema: dict, group: str = "example.org", served: bool = True) -> dict:
    """A CustomResourceDefinition of the kind `Thing`."""
    version = {"name": "v1", "served": served, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": group, "names": {"kind": "Thing"}, "versions": [version]}
    return {"kind": "CustomResourceDefinition", "spec": spec}


class ConverterTest(unittest.TestCase):
    def thing(self, spec: dict) -> dict:
        """The schema of a custom resource's spec."""
        document = definition({"type": "object", "properties": {"spec": spec}})
        definitions = converter.strict_definitions(SWAGGER)
        [(name, schema)] = converter.kinds_of_custom_resources([None, document], definitions)
        self.assertEqual(name, "thing-example-v1.json")
        return schema["properties"]["spec"]

    def test_a_kind_of_kubernetes_stands_alone_and_refuses_unknown_fields(self) -> None:
        kinds = dict(converter.kinds_of_kubernetes(SWAGGER, converter.strict_definitions(SWAGGER)))
        self.assertEqual(list(kinds), ["pod-v1.json"])
        pod = kinds["pod-v1.json"]
        self.assertEqual(sorted(pod["definitions"]), sorted(["Free", META, converter.QUANTITY]))
        self.assertIs(pod["additionalProperties"], False)
        self.assertIs(pod["definitions"][META]["additionalProperties"], False)
        self.assertNotIn("additionalProperties", pod["definitions"]["Free"])
        self.assertEqual(pod["definitions"][converter.QUANTITY]["anyOf"][1], {"type": "number"})
        self.assertEqual(pod["properties"]["port"], {"anyOf": [{"type": "integer"}, {"type": "string"}]})
        self.assertNotIn("description", pod)
        self.assertEqual(pod["properties"]["description"], {"type": "string"})

    def test_a_custom_resource_refuses_what_the_apiserver_drops(self) -> None:
        self.assertIs(self.thing({"type": "object"})["additionalProperties"], False)
        free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        self.assertEqual(self.thing(free), {"type": "object"})
        labels = {"type": "object", "additionalProperties": {"type": "string"}}
        self.assertEqual(self.thing(labels), labels)
        [(_, schema)] = converter.kinds_of_custom_resources(
            [definition({"type": "object"})], converter.strict_definitions(SWAGGER)
        )
        self.assertEqual(schema["properties"]["metadata"], {"$ref": f"#/definitions/{META}"})
        self.assertIn(META, schema["definitions"])

    def test_conditions_beside_the_fields_refuse_no_other_field(self) -> None:
        spec = {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "anyOf": [{"properties": {"a": {"enum": ["x"]}}}, {"required": ["b"]}],
        }
        self.assertEqual(self.thing(spec)["anyOf"], spec["anyOf"])

    def test_what_has_a_default_need_not_be_written(self) -> None:
        fields = {"a": {"type": "string", "default": "x"}, "b": {"type": "string"}}
        spec = {"type": "object", "properties": fields, "required": ["a", "b"]}
        self.assertEqual(self.thing(spec)["required"], ["b"])
        self.assertNotIn("required", self.thing(spec | {"required": ["a"]}))

    def test_null_is_taken_only_where_the_definition_says_so(self) -> None:
        spec = self.thing({"type": "string", "nullable": True})
        self.assertEqual(spec, {"anyOf": [{"type": "null"}, {"type": "string"}]})

    def test_a_version_that_is_not_served_has_no_schema_and_no_file_is_written_over_another(self) -> None:
        definitions = converter.strict_definitions(SWAGGER)
        documents = [definition({}, served=False), definition({}, "example.com"), definition({})]
        with TemporaryDirectory() as folder:
            self.assertEqual(converter.write(Path(folder), converter.kinds_of_custom_resources([], {})), 0)
            with self.assertRaises(FileExistsError):
                converter.write(Path(folder), converter.kinds_of_custom_resources(documents, definitions))
            self.assertEqual([file.name for file in Path(folder).iterdir()], ["thing-example-v1.json"])


class PreparationTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.checkout, self.prepared = self.folder / "checkout", self.folder / "prepared"
        for name in ("scripts/kubernetes", "crd"):
            shutil.copytree(checkout.ROOT / name, self.checkout / name)
        shutil.copy(checkout.ROOT / "scripts" / "schemas.py", self.checkout / "scripts")
        self.downloads: list[str] = []
        self.conversions = 0
        self.enterContext(redirect_stdout(io.StringIO()))
        self.enterContext(mock.patch.object(schemas, "downloaded", self.download))
        self.enterContext(mock.patch.object(schemas, "run_command", self.convert))

    def download(self, module: Module, modules: Path, keep_open: Sequence[int]) -> Path:
        self.downloads.append(f"{module.path} {module.version}")
        for name in module.files:
            file = self.folder / module.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"content of {name}")
        return self.folder / module.path

    def convert(self, command: Sequence[str | Path], keep_open: Sequence[int]) -> None:
        self.conversions += 1
        out, swagger, *definitions = (Path(part) for part in command[2:])
        self.assertEqual(swagger.name, "swagger.json")
        self.assertTrue(all(file.is_file() for file in definitions))
        (out / "names.json").write_text(json.dumps([file.name for file in definitions]))

    def prepare(self) -> None:
        schemas.prepare_schemas(self.checkout, self.folder / "cache", self.prepared, Path("python"), 0)

    def test_schemas_are_made_once_with_the_definitions_of_others_beside_them(self) -> None:
        self.prepare()
        self.prepare()
        self.assertEqual((self.conversions, len(self.downloads)), (1, len(schemas.OTHERS) + 1))
        self.assertRegex(self.downloads[-1], r"^k8s\.io/kubernetes v1\.")
        made = self.prepared / "schemas"
        others = sorted(file.name for file in (made / "crds").iterdir())
        self.assertIn("monitoring.coreos.com_servicemonitors.yaml", others)
        own = ["modelreplicas.yaml", "models.yaml"]
        self.assertEqual(json.loads((made / "names.json").read_text()), [*others, *own])

    def test_another_definition_of_our_own_makes_other_schemas(self) -> None:
        self.prepare()
        before = (self.prepared / "schemas").readlink()
        (self.checkout / "crd" / "models.yaml").write_text("another")
        self.prepare()
        self.assertNotEqual((self.prepared / "schemas").readlink(), before)

    def test_a_failed_conversion_leaves_nothing(self) -> None:
        with (
            mock.patch.object(schemas, "run_command", side_effect=PrepareError("no")),
            self.assertRaises(PrepareError),
        ):
            self.prepare()
        self.assertFalse((self.prepared / "schemas").exists())
        self.assertFalse([path for path in (self.folder / "cache" / "schemas").iterdir() if path.is_dir()])


class DownloadTest(unittest.TestCase):
    MODULE = Module("example.org/m", "v1.0.0", "h1:right=", ["file"])

    def download(self, stdout: str, stderr: str = "") -> Path:
        """With a Go that answers this."""
        done = subprocess.CompletedProcess([], 0, stdout, stderr)
        with (
            mock.patch.object(go_programs, "usable_go", lambda modules: "go1.99"),
            mock.patch.object(schemas.subprocess, "run", lambda *given, **options: done),
        ):
            return schemas.downloaded(self.MODULE, checkout.ROOT / "scripts" / "kubernetes", [])

    def test_a_module_with_the_pinned_hash_is_taken(self) -> None:
        self.assertEqual(self.download('{"Sum": "h1:right=", "Dir": "/there"}'), Path("/there"))

    def test_any_other_answer_is_one_line(self) -> None:
        for stdout, stderr, expected in (
            ('{"Sum": "h1:wrong=", "Dir": "/there"}', "", "hash mismatch: example.org/m@v1.0.0 .*h1:wrong="),
            ('{"Error": "reading https://proxy/m: 404 Not Found"}', "", "^example.org/m@v1.0.0: .*404 Not Found"),
            ("", "go: error: no such thing", "no such thing"),
        ):
            with self.subTest(expected), self.assertRaisesRegex(PrepareError, expected):
                self.download(stdout, stderr)


if __name__ == "__main__":
    unittest.main()
