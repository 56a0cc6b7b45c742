"""The target `node` without Go: one folder with links to everything that a cluster of one node is made of."""

import os
import shutil
import unittest

import checkout
from go_stand_in import GoTestCase, put_programs

from preparation.go_programs import has_programs
from preparation.kubernetes import CONTROL_PLANE, NODE
from preparation.node import prepare_node

OTHERS = ("coredns", "scrape-config")


class NodeTest(GoTestCase):
    def setUp(self) -> None:
        super().setUp()
        for name in ("kubernetes", "tools"):
            shutil.copytree(checkout.ROOT / "scripts" / name, self.modules / name)

    def prepare(self) -> None:
        prepare_node(self.modules, self.cache, self.prepared, 0)

    def built(self) -> list[str]:
        return [command[command.index("-o") + 1].rpartition("/")[2] for command in self.commands]

    def test_every_program_is_built_once_and_linked(self) -> None:
        self.prepare()
        self.assertTrue(has_programs(self.prepared / "node", [*CONTROL_PLANE, *NODE, *OTHERS]))
        self.assertEqual(self.built(), [*CONTROL_PLANE, *NODE, *OTHERS])
        self.assertIn("version.gitVersion=v1.", " ".join(self.commands[self.built().index("kubelet")]))
        self.assertRegex(" ".join(self.commands[-1]), r"main\.prometheusVersion=v3\.\d+\.\d+ ")
        self.prepare()
        self.assertEqual(len(self.commands), len(CONTROL_PLANE) + len(NODE) + len(OTHERS), "not built again")
        self.assertIn("up to date: node", self.printed.getvalue())

    def test_the_control_plane_of_the_user_is_taken(self) -> None:
        assets = self.folder / "assets"
        os.environ["KUBEBUILDER_ASSETS"] = str(assets)
        put_programs(assets, *CONTROL_PLANE)
        self.prepare()
        self.assertEqual((self.prepared / "node" / "etcd").readlink(), assets / "etcd")
        self.assertEqual(self.built(), [*NODE, *OTHERS])


if __name__ == "__main__":
    unittest.main()
