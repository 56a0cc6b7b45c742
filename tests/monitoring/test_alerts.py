"""The rules: valid, documented, and each alert proved by promtool to fire and not to fire."""

import re
import subprocess
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from monitored import ALERTS, CASES, RUNBOOK, alerts, recorded, tool

SILENT, LOUD = "vector(0) > 1", "vector(1)"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    return subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)


def cases() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every question that the cases ask about an alert, with its case."""
    documents = [yaml.safe_load(path.read_text()) for path in CASES]
    tests = [test for document in documents for test in document["tests"]]
    return [(test, question) for test in tests for question in test["alert_rule_test"]]


def with_every_alert(expression: str, folder: Path) -> list[Path]:
    """The cases, over rules of which each alert has this expression and nothing to say; of their
    questions only those that have another answer then.
    """
    names = [{"alert": name, "expr": expression, "labels": rule["labels"]} for name, rule in alerts().items()]
    (folder / "alerts.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": names}]}))
    copies = []
    for path in CASES:
        document = yaml.safe_load(path.read_text())
        for test in document["tests"]:
            test["input_series"] = test["input_series"][:1]
            test["alert_rule_test"] = [
                question
                for question in test["alert_rule_test"]
                if bool(question["exp_alerts"]) == (expression == SILENT)
            ]
        copies.append(folder / f"cases-{path.name}")
        copies[-1].write_text(yaml.safe_dump({**document, "rule_files": ["alerts.yaml"]}))
    return copies


class AlertsTest(unittest.TestCase):
    def test_promtool_accepts_the_rules(self) -> None:
        result = promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_every_case_holds(self) -> None:
        result = promtool("test", "rules", *CASES)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_every_alert_has_a_case_that_fires_and_one_that_does_not(self) -> None:
        for name, rule in alerts().items():
            metrics = set(re.findall(r"\b(?:inference_gateway|process)_\w+", rule["expr"]))
            for name_recorded, expression in recorded().items():
                if name_recorded in rule["expr"]:
                    metrics |= set(re.findall(r"\binference_gateway_\w+", expression))
            own = [(test, question) for test, question in cases() if question["alertname"] == name]
            firing = [test["name"] for test, question in own if question["exp_alerts"]]
            # One that is silent in the same case says that it needs time; what counts is a case of its own.
            silent = [test for test, _ in own if test["name"] not in firing]
            self.assertTrue(firing, f"{name} never fires")
            self.assertTrue(silent, f"{name} is never silent")
            for test in silent:
                given = {series["series"].split("{")[0] for series in test["input_series"]}
                self.assertTrue(given & metrics, f"{test['name']}: nothing that the alert looks at is there")
        known = set(alerts())
        self.assertEqual({question["alertname"] for _, question in cases()} - known, set())

    def test_the_cases_notice_alerts_that_never_fire(self) -> None:
        with TemporaryDirectory() as folder:
            self.every_alert_fails(with_every_alert(SILENT, Path(folder)))

    def test_the_cases_notice_alerts_that_always_fire(self) -> None:
        with TemporaryDirectory() as folder:
            self.every_alert_fails(with_every_alert(LOUD, Path(folder)))

    def every_alert_fails(self, copies: list[Path]) -> None:
        result = promtool("test", "rules", *copies)
        failed = set(re.findall(r"alertname: (\w+)", result.stdout + result.stderr))
        self.assertEqual(failed, set(alerts()), "an alert whose cases hold whatever its rule is")

    def test_every_alert_says_what_to_do(self) -> None:
        for name, rule in alerts().items():
            self.assertRegex(name, r"^InferenceGateway[A-Z]\w+$")
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"), name)
            texts = rule["annotations"]
            self.assertEqual(sorted(texts), ["description", "runbook_url", "summary"], name)
            self.assertTrue(texts["runbook_url"].endswith(f"/docs/alerts.md#{name.lower()}"), name)
            self.assertRegex(texts["summary"], r"\$labels\.namespace", f"{name} does not say where")
            self.assertGreater(len(texts["description"]), 60, name)

    def test_every_alert_has_a_section_in_the_runbook(self) -> None:
        page = RUNBOOK.read_text()
        sections = re.findall(r"^### (\w+)\n\n(.+?)(?=^##|\Z)", page, re.M | re.S)
        names = [name for name, _ in sections]
        self.assertEqual(names, list(alerts()), "the page has other alerts, or another order")
        for name, text in sections:
            severity = alerts()[name]["labels"]["severity"]
            self.assertIn(f"({severity}", text, f"the section of {name} does not say that it is {severity}")

    def test_releases_are_told_apart(self) -> None:
        for name, rule in alerts().items():
            for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
                given = set(re.split(r",\s*", labels))
                self.assertLessEqual({"namespace", "job"}, given, f"{name}: {labels}")
            self.assertRegex(rule["expr"], r"\bby \(|namespace_job", f"{name} keeps labels that nobody chose")


if __name__ == "__main__":
    unittest.main()
