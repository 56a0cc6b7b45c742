"""The document that a gateway serves, by itself.

By hand, with any gateway: `GATEWAY_URL=http://localhost:3000 prepared/venv/bin/python -m unittest discover -s tests/openapi`
"""

import json
import unittest
import urllib.request
from collections.abc import Iterator

import jsonschema_rs
from openapi_spec_validator import OpenAPIV31SpecValidator
from served import URL


def read() -> dict:
    """The document."""
    with urllib.request.urlopen(f"{URL}/openapi.json") as answer:
        return json.load(answer)


def operations(document: dict) -> Iterator[tuple[str, dict]]:
    """Every operation, with its method and path."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def contents(operation: dict) -> Iterator[dict]:
    """Every body of an operation, asked and answered."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from response.get("content", {}).values()


class Document(unittest.TestCase):
    """What is said of every operation."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.document = read()

    def test_it_is_valid(self) -> None:
        self.assertRegex(self.document["openapi"], r"^3\.1\.")
        errors = [error.message for error in OpenAPIV31SpecValidator(self.document).iter_errors()]
        self.assertEqual(errors, [])

    def test_every_operation_has_an_id_of_its_own_a_tag_and_a_summary(self) -> None:
        tags = {tag["name"] for tag in self.document["tags"]}
        ids = []
        for name, operation in operations(self.document):
            with self.subTest(name):
                self.assertIn(operation["tags"][0], tags)
                self.assertTrue(operation["summary"])
                self.assertTrue(all(response["description"] for response in operation["responses"].values()))
                ids.append(operation["operationId"])
        self.assertEqual(len(ids), len(set(ids)))

    def test_examples_hold_to_their_schemas(self) -> None:
        found = 0
        for name, operation in operations(self.document):
            for content in contents(operation):
                examples = [one["value"] for one in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                schema = {**content["schema"], "components": self.document["components"]}
                for example in examples:
                    found += 1
                    with self.subTest(name, example=example):
                        jsonschema_rs.Draft202012Validator(schema).validate(example)
        self.assertGreater(found, 10)

    def test_every_field_that_can_be_asked_for_is_explained(self) -> None:
        schemas = self.document["components"]["schemas"]
        for name in [name for name in schemas if name.endswith("Request")]:
            for field, schema in schemas[name]["properties"].items():
                inside = [kind.get("description") for kind in schema.get("oneOf", [])]
                with self.subTest(f"{name}.{field}"):
                    self.assertTrue(schema.get("description") or any(inside))


if __name__ == "__main__":
    unittest.main()
