"""The target `tools` without Go: every program linked, and each rebuilt only when its own modules change."""

import shutil
import unittest

import checkout
from go_stand_in import GoTestCase

from preparation.console import PrepareError
from preparation.go_programs import has_programs
from preparation.tools import load_tools, prepare_tools, prometheus_release, tools

NAMES = ("helm", "kubeconform", "otel-collector", "promtool", "prometheus")


class ToolsTest(GoTestCase):
    def setUp(self) -> None:
        super().setUp()
        shutil.copytree(checkout.ROOT / "scripts" / "tools", self.modules)

    def prepare(self) -> None:
        prepare_tools("tools", tools(self.modules), self.cache, self.prepared, 0)

    def test_every_tool_of_the_project_is_linked_with_its_version_inside(self) -> None:
        self.prepare()
        self.assertTrue(has_programs(self.prepared / "tools", NAMES))
        built = {command[command.index("-o") + 1].rpartition("/")[2]: command for command in self.commands}
        self.assertEqual(sorted(built), sorted(NAMES))
        for name, stamp in (
            ("helm", r"version\.version=v4\.\d+\.\d+$"),
            ("kubeconform", r"main\.version=v0\.\d+\.\d+$"),
            ("otel-collector", r"main\.version=v0\.\d+\.\d+$"),
            ("prometheus", r"version\.Version=3\.\d+\.\d+$"),
        ):
            command = built[name]
            self.assertRegex(command[command.index("-ldflags") + 1], stamp)
        self.prepare()
        self.assertEqual(len(self.commands), len(NAMES), "nothing is built again")
        self.assertIn("up to date: tools", self.printed.getvalue())

    def test_a_tool_that_moves_is_built_alone(self) -> None:
        self.prepare()
        before = (self.prepared / "tools" / "promtool").readlink()
        go_sum = self.modules / "helm" / "go.sum"
        go_sum.write_text(go_sum.read_text() + "another\n")
        self.prepare()
        self.assertEqual(len(self.commands), len(NAMES) + 1)
        self.assertEqual((self.prepared / "tools" / "promtool").readlink(), before)

    def test_what_sends_the_load_is_built_for_its_own_target_alone(self) -> None:
        prepare_tools("load", load_tools(self.modules), self.cache, self.prepared, 0)
        self.assertEqual(len(self.commands), 1)
        self.assertTrue(has_programs(self.prepared / "tools", ["vegeta"]))
        self.assertFalse(has_programs(self.prepared / "tools", NAMES[:1]))
        self.assertRegex(self.commands[0][self.commands[0].index("-ldflags") + 1], r"main\.Version=v12\.\d+\.\d+$")

    def test_a_module_of_prometheus_is_named_as_its_release(self) -> None:
        self.assertEqual(prometheus_release("v0.316.0"), "3.16.0")
        self.assertEqual(prometheus_release("v0.305.2"), "3.5.2")
        with self.assertRaisesRegex(PrepareError, "v3.16.0"):
            prometheus_release("v3.16.0")


if __name__ == "__main__":
    unittest.main()
