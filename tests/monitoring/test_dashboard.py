"""The shape of the dashboard: what Grafana would not complain about and people would."""

import re
import unittest
from typing import Any

from monitored import alerts, dashboard, declared, panels

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def queries() -> list[tuple[str, dict[str, Any]]]:
    """Every query of every panel, with the panel's title."""
    return [(panel["title"], target) for panel in panels() for target in panel.get("targets", [])]


class DashboardTest(unittest.TestCase):
    def test_it_can_be_imported_anywhere(self) -> None:
        page = dashboard()
        self.assertNotIn("id", page, "the number of one Grafana's database")
        self.assertNotIn("__inputs", page, "variables say where the data is, and nobody has to be asked")
        self.assertEqual((page["uid"], page["schemaVersion"]), ("inference-gateway", 42))
        names = [variable["name"] for variable in page["templating"]["list"]]
        self.assertEqual(names, ["datasource", "namespace", "job", "pod", "model"])

    def test_panels_are_told_apart_and_explained(self) -> None:
        numbers = [panel["id"] for panel in panels()]
        self.assertEqual(len(numbers), len(set(numbers)), "two panels have one id")
        for panel in panels():
            if panel["type"] != "row":
                self.assertTrue(panel["title"] and panel["description"].endswith("."), panel["id"])
                self.assertTrue(panel["targets"], panel["title"])
                letters = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(letters), len(set(letters)), panel["title"])

    def test_panels_lie_in_the_grid_and_not_on_each_other(self) -> None:
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard()["panels"]:
            place = panel["gridPos"]
            self.assertTrue(place["w"] > 0 and place["h"] > 0, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    self.assertNotIn((x, y), taken, f"{panel['title']} lies on {taken.get((x, y))}")
                    taken[x, y] = panel["title"]

    def test_the_data_source_is_chosen_by_the_variable_everywhere(self) -> None:
        def look(thing: Any, where: str) -> None:
            if isinstance(thing, dict):
                if "datasource" in thing:
                    self.assertEqual(thing["datasource"], DATASOURCE, where)
                for name, value in thing.items():
                    look(value, f"{where}.{name}")
            elif isinstance(thing, list):
                for number, value in enumerate(thing):
                    look(value, f"{where}[{number}]")

        look(dashboard(), "dashboard")
        for title, target in queries():
            self.assertIn("datasource", target, title)

    def test_every_selector_follows_the_variables(self) -> None:
        for title, target in queries():
            selectors = re.findall(r"\b(?:inference_gateway|process)_\w+(\{[^}]*\})?", target["expr"])
            bare = target["expr"].count("and on (namespace, job, pod, instance) inference_gateway_build_info")
            self.assertEqual(selectors.count(""), bare, f"{title}: {target['expr']}")
            for selector in filter(None, selectors):
                for name in ("namespace", "job", "pod"):
                    self.assertIn(f'{name}=~"${name}"', selector, title)

    def test_every_metric_is_drawn_or_watched(self) -> None:
        text = " ".join(target["expr"] for _, target in queries())
        text += " ".join(rule["expr"] for rule in alerts().values())
        used = set(re.findall(r"\b(?:inference_gateway|process)_\w+", text))
        families = {re.sub(r"_(bucket|sum|count)$", "", name) if family.kind == "histogram" else name
                    for name, family in declared().items()}  # fmt: skip
        drawn = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
        self.assertEqual(families - drawn, set(), "metrics that nobody sees")


if __name__ == "__main__":
    unittest.main()
