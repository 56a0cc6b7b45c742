"""What is made from the charts is committed as it is made, and their files agree with the project."""

import json
import re
import unittest
from pathlib import Path

import chart
import yaml
from charts.copies import CHARTS, copies, settings
from charts.manifests import manifests
from charts.readme import UndescribedError, described, readmes


class GeneratedTest(unittest.TestCase):
    def assert_committed(self, files: dict[str, str]) -> None:
        for path, text in files.items():
            with self.subTest(path):
                target = chart.ROOT / path
                committed = target.read_text() if target.exists() else ""
                self.assertTrue(
                    committed == text, f"{path} is not what is made of the charts: run `make generate`"
                )

    def test_copies_in_the_charts_are_what_they_are_copies_of(self) -> None:
        self.assert_committed(copies(chart.ROOT))

    def test_tables_of_values_are_those_of_the_comments(self) -> None:
        self.assert_committed(readmes(chart.ROOT))

    def test_manifests_are_what_the_chart_renders(self) -> None:
        made = manifests(chart.ROOT)
        self.assert_committed(made)
        by_hand = {
            f"manifests/examples/{path.name}" for path in (chart.ROOT / "manifests" / "examples").iterdir()
        }
        there = {str(path.relative_to(chart.ROOT)) for path in (chart.ROOT / "manifests").rglob("*.yaml")}
        self.assertEqual(there - by_hand, set(made))

    def test_manifests_and_examples_fit_their_schemas(self) -> None:
        for path in sorted((chart.ROOT / "manifests").rglob("*.yaml")):
            if path.name == "prometheus-adapter.yaml":
                continue  # Values of another chart.
            with self.subTest(path.name):
                self.assertIn("Invalid: 0, Errors: 0, Skipped: 0", chart.validate(path.read_text()))

    def test_a_value_without_a_word_about_it_is_found(self) -> None:
        with self.assertRaisesRegex(UndescribedError, "image.tag"):
            described("# -- Known.\na: 1\nimage:\n  # -- Known.\n  name: x\n  tag: y\n")
        self.assertEqual(
            described("# -- One\n# two.\n# @default -- many\na: [1]\nb:\n  # -- Three.\n  c: {}\n"),
            [("a", "many", "One two."), ("b.c", "`{}`", "Three.")],
        )

    def test_versions_are_one(self) -> None:
        crate = re.search(r'^version = "(.+)"$', (chart.ROOT / "Cargo.toml").read_text(), re.MULTILINE)
        assert crate is not None
        for path in CHARTS:
            metadata = yaml.safe_load((chart.ROOT / path / "Chart.yaml").read_text())
            self.assertEqual((metadata["version"], str(metadata["appVersion"])), (crate[1], crate[1]), path)
        for path in (chart.ROOT / "manifests").rglob("*.yaml"):
            for image in re.findall(
                r"ghcr\.io/inference-gateway/inference-gateway:(\S+?)\"?$", path.read_text(), re.M
            ):
                self.assertEqual(image, crate[1], path.name)

    def test_the_annotations_of_the_chart_say_what_is_so(self) -> None:
        metadata = yaml.safe_load((chart.GATEWAY / "Chart.yaml").read_text())
        annotations = metadata["annotations"]
        kinds = {one["kind"] for one in yaml.safe_load(annotations["artifacthub.io/crds"])}
        self.assertEqual(kinds, {"Model", "ModelReplica"})
        [image] = yaml.safe_load(annotations["artifacthub.io/images"])
        rendered = chart.gateway()["spec"]["template"]["spec"]["containers"][0]["image"]
        self.assertEqual(image["image"], rendered)
        for example in yaml.safe_load(annotations["artifacthub.io/crdsExamples"]):
            self.assertIn("Valid: 1,", chart.validate(yaml.safe_dump(example)))


class ValuesTest(unittest.TestCase):
    def test_the_schema_knows_exactly_the_values_that_there_are(self) -> None:
        for folder in (chart.GATEWAY, chart.DEFINITIONS):
            schema = json.loads((folder / "values.schema.json").read_text())
            values = yaml.safe_load((folder / "values.yaml").read_text())
            self.assertEqual(
                paths_of_schema(schema, schema) - {"global"}, paths_of_values(values, schema, schema), folder
            )

    def test_every_setting_of_the_program_can_be_reached(self) -> None:
        own = set(
            re.findall(r"^([A-Z_]+): ", (chart.GATEWAY / "templates" / "_environment.tpl").read_text(), re.M)
        )
        others = [name for name in settings(chart.ROOT) if name not in own]
        self.assertGreater(len(others), 20)
        variables = chart.environment(chart.gateway(*(f"--set-string=settings.{name}=1" for name in others)))
        self.assertEqual({variables[name] for name in others}, {"1"})
        for name in sorted(own - {"HOME"}):
            with self.assertRaisesRegex(chart.Refused, f"settings.{name} is set by the chart itself"):
                chart.text(f"--set-string=settings.{name}=1")

    def test_what_the_chart_sets_is_a_setting_of_the_program(self) -> None:
        known = {
            *settings(chart.ROOT),
            *("INFERENCE_LEASE_NAME", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        }
        for path in chart.VALUES:
            extra = yaml.safe_load(Path(path).read_text())
            more = {variable["name"] for variable in extra.get("extraEnv", [])}
            for deployment in chart.of_kind("Deployment", f"--values={path}"):
                self.assertLessEqual(chart.environment(deployment).keys(), known | more, path.name)


def properties(schema: dict, whole: dict) -> dict | None:
    """The named properties of an object, unless any are allowed."""
    if "$ref" in schema:
        schema = whole["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    return schema.get("properties") if schema.get("additionalProperties") is False else None


def paths_of_schema(schema: dict, whole: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, below in (properties(schema, whole) or {}).items():
        path = f"{prefix}{name}"
        if path.startswith(("probes.", "controller.probes.")) or path == "cache.emptyDir":
            found.add(path)  # Kubernetes knows more of these than we set.
        elif properties(below, whole) is None:
            found.add(path)
        else:
            found |= paths_of_schema(below, whole, f"{path}.")
    return found


def paths_of_values(values: dict, schema: dict, whole: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        below = (properties(schema, whole) or {}).get(name, {})
        is_leaf = path.startswith(("probes.", "controller.probes.")) or path == "cache.emptyDir"
        if isinstance(value, dict) and not is_leaf and properties(below, whole) is not None:
            found |= paths_of_values(value, below, whole, f"{path}.")
        else:
            found.add(path)
    return found


if __name__ == "__main__":
    unittest.main()
