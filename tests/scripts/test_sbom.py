"""The list of parts: what is linked, what only compiled, what is neither; and the project's own."""

import json
import subprocess
import tomllib
import unittest

import checkout  # first: it makes scripts/ importable

import sbom

RECORD = """Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 14.2.0-19+b1
Description: the library
 longer: text
"""


def package(name: str, kind: str = "lib", **more: str | None) -> sbom.Json:
    fields = {"license": "MIT/Apache-2.0", "repository": None, "version": "1.0.0"} | more
    return {"id": name, "name": name, "targets": [{"kind": [kind]}], **fields}


def node(name: str, **dependencies: str) -> sbom.Json:
    """`dependencies`: by name, the kind ("normal", "build" or "dev")."""
    deps = [
        {"pkg": other, "dep_kinds": [{"kind": None if kind == "normal" else kind}]}
        for other, kind in dependencies.items()
    ]
    return {"id": name, "deps": deps}


METADATA = {
    "packages": [
        package("gateway", "bin"),
        package("web"),
        package("macros", "proc-macro"),
        package("syntax"),
        package("compiler"),
        package("tests"),
    ],
    "resolve": {
        "root": "gateway",
        "nodes": [
            node("gateway", web="normal", tests="dev"),
            node("web", macros="normal", compiler="build"),
            node("macros", syntax="normal"),
            node("syntax"),
            node("compiler"),
            node("tests"),
        ],
    },
}
LOCK = {
    "package": [
        {"name": each["name"], "version": "1.0.0", "checksum": f"sum of {each['name']}"}
        for each in METADATA["packages"]
    ]
}


class DocumentTest(unittest.TestCase):
    def setUp(self) -> None:
        self.document = sbom.document(METADATA, LOCK, "x86_64", {"libstdc++6": RECORD})
        self.parts = {part["name"]: part for part in self.document["components"]}

    def test_what_is_linked_differs_from_what_only_compiles(self) -> None:
        scopes = {name: part["scope"] for name, part in self.parts.items()}
        required = {"web", "onnxruntime", "libstdc++6"}
        self.assertEqual({name for name, scope in scopes.items() if scope == "required"}, required)
        self.assertEqual(set(scopes) - required, {"macros", "syntax", "compiler"})

    def test_a_crate_has_its_hash_and_a_modern_licence_expression(self) -> None:
        self.assertEqual(self.parts["web"]["hashes"], [{"alg": "SHA-256", "content": "sum of web"}])
        self.assertEqual(self.parts["web"]["licenses"], [{"expression": "MIT OR Apache-2.0"}])

    def test_packages_of_the_image_are_parts_of_the_program(self) -> None:
        part = self.parts["libstdc++6"]
        self.assertEqual(part["purl"], "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19%2Bb1?arch=amd64")
        (program,) = [
            each for each in self.document["dependencies"] if each["ref"] == "pkg:cargo/gateway@1.0.0"
        ]
        self.assertIn(part["bom-ref"], program["dependsOn"])

    def test_the_same_parts_give_the_same_document(self) -> None:
        again = sbom.document(METADATA, LOCK, "x86_64", {"libstdc++6": RECORD})
        self.assertEqual(json.dumps(self.document), json.dumps(again))
        other = sbom.document(METADATA, LOCK, "aarch64", {"libstdc++6": RECORD})
        self.assertNotEqual(self.document["serialNumber"], other["serialNumber"])


class ProjectTest(unittest.TestCase):
    def test_the_crates_of_this_checkout(self) -> None:
        metadata = json.loads(subprocess.check_output(sbom.cargo_metadata("x86_64"), cwd=checkout.ROOT))
        lock = tomllib.loads((checkout.ROOT / "Cargo.lock").read_text())
        document = sbom.document(metadata, lock, "x86_64", {"libstdc++6": RECORD})
        scopes = {part["name"]: part["scope"] for part in document["components"]}
        self.assertEqual([scopes["tokio"], scopes["serde_derive"]], ["required", "excluded"])
        self.assertNotIn("proptest", scopes, "only tests use it")
        self.assertNotIn("windows-sys", scopes, "other systems use it")
        references = [part["bom-ref"] for part in document["components"]]
        self.assertEqual(len(references), len(set(references)))
        named = {to for each in document["dependencies"] for to in each["dependsOn"]}
        self.assertEqual(named - set(references), set())
        for part in document["components"]:
            if part["purl"].startswith("pkg:cargo/"):
                self.assertTrue(part["licenses"] and part["hashes"], part["name"])


if __name__ == "__main__":
    unittest.main()
