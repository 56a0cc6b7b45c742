"""The target `kubernetes` without Go: linked, with its version inside, or the user's own programs."""

import os
import unittest
from pathlib import Path

import checkout
from go_stand_in import GoTestCase, put_modules, put_programs

from preparation.go_programs import has_programs
from preparation.kubernetes import CONTROL_PLANE, control_plane, prepare_control_plane


class KubernetesTest(GoTestCase):
    def setUp(self) -> None:
        super().setUp()
        put_modules(self.modules, "k8s.io/kubernetes", "v1.37.2")

    def prepare(self) -> Path:
        """A run of the target; where its link leads."""
        prepare_control_plane(self.modules, self.cache, self.prepared, 0)
        link = self.prepared / "kubernetes"
        return link.readlink() if link.is_symlink() else link

    def test_the_control_plane_is_built_once_and_linked(self) -> None:
        folder = self.prepare()
        self.assertTrue(folder.name.startswith("v1.37.2-"))
        self.assertTrue(has_programs(self.prepared / "kubernetes", CONTROL_PLANE))
        self.prepare()
        self.assertEqual(len(self.commands), len(CONTROL_PLANE), "nothing is built again")
        self.assertIn("up to date: kubernetes", self.printed.getvalue())

    def test_another_version_is_linked_and_stamped(self) -> None:
        first = self.prepare()
        put_modules(self.modules, "k8s.io/kubernetes", "v1.38.0")
        self.assertNotEqual(self.prepare(), first)
        for part in ("version.gitVersion=v1.38.0", "version.gitMinor=38"):
            self.assertIn(part, " ".join(self.commands[-1]))

    def test_programs_of_the_user_are_taken_if_all_three_are_there(self) -> None:
        assets = self.folder / "assets"
        os.environ["KUBEBUILDER_ASSETS"] = str(assets)
        put_programs(assets, *CONTROL_PLANE)
        self.prepare()
        self.assertEqual(self.commands, [])
        self.assertFalse((self.prepared / "kubernetes").exists())
        (assets / "kube-controller-manager").chmod(0o644)
        self.prepare()
        self.assertEqual(len(self.commands), len(CONTROL_PLANE))

    def test_the_modules_of_the_project_say_which_kubernetes(self) -> None:
        self.assertRegex(control_plane(checkout.ROOT / "scripts" / "kubernetes").version, r"^v1\.\d+\.\d+$")


if __name__ == "__main__":
    unittest.main()
