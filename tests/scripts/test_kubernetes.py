"""The build of Kubernetes for the tests, without Go: once, complete or absent, with advice where it cannot be."""

import io
import os
import unittest
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import checkout  # first: it makes scripts/ importable

from preparation import kubernetes
from preparation.console import PrepareError, explain_failure
from preparation.kubernetes import PROGRAMS, ControlPlane

USABLE_GO = kubernetes.usable_go  # The tests below replace it.
GO_MOD = "module m\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n"


def put_programs(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("program")
        (folder / name).chmod(0o755)


class KubernetesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.modules, self.cache = self.folder / "modules", self.folder / "cache"
        self.prepared = self.folder / "prepared"
        self.modules.mkdir()
        self.write_modules()
        self.commands: list[list[str]] = []
        self.printed = io.StringIO()
        self.enterContext(redirect_stdout(self.printed))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("KUBEBUILDER_ASSETS", None)
        self.enterContext(mock.patch.object(kubernetes, "usable_go", lambda modules: "go1.26.8"))

    def write_modules(self, go_mod: str = GO_MOD, go_sum: str = "hashes") -> None:
        (self.modules / "go.mod").write_text(go_mod)
        (self.modules / "go.sum").write_text(go_sum)

    def plane(self) -> ControlPlane:
        return ControlPlane(self.modules, self.cache)

    def prepare(self) -> Path:
        """A run of the target; the folder that it makes or finds."""

        def run(command: Sequence[str | Path], *, folder: Path, **rest: object) -> None:
            self.go(command, rest["environment"], folder)

        plane = self.plane()
        with mock.patch.object(kubernetes, "run_command", run):
            plane.prepare(self.prepared, 0)
        return plane.folder

    def go(self, command: Sequence[str | Path], variables: Mapping[str, str], folder: Path) -> None:
        self.assertEqual(folder, self.modules)
        self.assertEqual((variables["GOFLAGS"], variables["CGO_ENABLED"]), ("", "0"))
        output = Path(command[command.index("-o") + 1])
        self.commands.append([str(part) for part in command])
        put_programs(output.parent, output.name)

    def test_the_programs_are_built_once_and_linked(self) -> None:
        folder = self.prepare()
        self.assertTrue(folder.name.startswith("v1.37.2-"))
        self.assertEqual((self.prepared / "kubernetes").readlink(), folder)
        self.assertTrue(kubernetes.has_programs(self.prepared / "kubernetes"))
        self.assertEqual([command[-1] for command in self.commands], list(PROGRAMS.values()))
        self.assertIn("version.gitVersion=v1.37.2", " ".join(self.commands[0]))
        self.prepare()
        self.assertEqual(len(self.commands), len(PROGRAMS), "nothing is built again")
        self.assertIn("up to date: kubernetes", self.printed.getvalue())

    def test_another_checkout_uses_what_is_in_the_cache(self) -> None:
        put_programs(self.plane().folder, *PROGRAMS)
        with mock.patch.object(kubernetes, "usable_go", lambda modules: None):
            self.prepare()
        self.assertEqual(self.commands, [])
        self.assertTrue(kubernetes.has_programs(self.prepared / "kubernetes"))

    def test_other_modules_are_another_folder(self) -> None:
        folders = [self.prepare()]
        for changes in ({"go_sum": "others"}, {"go_mod": GO_MOD.replace("v1.37.2", "v1.38.0")}):
            self.write_modules(**changes)
            folders.append(self.prepare())
        self.assertEqual(len(set(folders)), 3)
        self.assertEqual((self.prepared / "kubernetes").readlink(), folders[-1])
        self.assertIn("gitMinor=38", " ".join(self.commands[-1]))

    def test_a_failed_build_leaves_nothing_and_is_done_again(self) -> None:
        plane = self.plane()

        def fails_at_the_second(
            command: Sequence[str | Path], variables: Mapping[str, str], folder: Path
        ) -> None:
            if self.commands:
                raise PrepareError("no network")
            self.go(command, variables, folder)

        plane.folder.parent.mkdir(parents=True)
        with self.assertRaisesRegex(PrepareError, "no network"):
            plane.build(fails_at_the_second)
        self.assertEqual(list(plane.folder.parent.iterdir()), [])
        self.assertTrue(kubernetes.has_programs(self.prepare()))

    def test_a_folder_that_lost_a_program_is_made_again(self) -> None:
        folder = self.prepare()
        (folder / "etcd").unlink()
        (folder.with_name(f".{folder.name}.partial-dead")).mkdir()
        self.prepare()
        self.assertTrue(kubernetes.has_programs(folder))
        left = sorted(path.name for path in folder.parent.iterdir())
        self.assertEqual(left, [folder.name, f"{folder.name}.lock"])

    def test_programs_of_the_user_are_taken_if_all_three_are_there(self) -> None:
        assets = self.folder / "assets"
        os.environ["KUBEBUILDER_ASSETS"] = str(assets)
        put_programs(assets, *PROGRAMS)
        self.prepare()
        self.assertEqual(self.commands, [])
        self.assertFalse((self.prepared / "kubernetes").exists())
        (assets / "kube-controller-manager").chmod(0o644)
        self.prepare()
        self.assertEqual(len(self.commands), len(PROGRAMS))

    def test_a_go_that_is_missing_or_old_is_named_with_what_to_do(self) -> None:
        for version in (None, "broken", "go1.19.8", "go1.25.9"):
            with self.subTest(version), self.assertRaisesRegex(PrepareError, "needs Go 1.26.0 or newer: install"):
                kubernetes.require_go("1.26.0", version)
        for version in ("go1.26.0", "go1.26.8", "go1.27rc1", "go2.0"):
            kubernetes.require_go("1.26.0", version)

    def test_the_go_that_the_modules_ask_for_counts_and_else_the_installed_one(self) -> None:
        go = self.folder / "go"
        for fetches, expected in ((True, "go1.26.0"), (False, "go1.22.1")):
            fetched = "echo go1.26.0" if fetches else "exit 1"
            go.write_text(f'#!/bin/sh\n[ "$GOTOOLCHAIN" = local ] && echo go1.22.1 && exit\n{fetched}\n')
            go.chmod(0o755)
            with mock.patch.object(kubernetes.shutil, "which", lambda name: str(go)):
                self.assertEqual(USABLE_GO(self.modules), expected)
        with mock.patch.object(kubernetes.shutil, "which", lambda name: None):
            self.assertIsNone(USABLE_GO(self.modules))

    def test_failures_of_go_become_one_line(self) -> None:
        for output, expected in (
            ("go: k8s.io/api: dial tcp: lookup proxy.golang.org: no such host", "GOPROXY"),
            ("verifying k8s.io/api@v1: checksum mismatch\n\nSECURITY ERROR\n", "go.sum"),
        ):
            self.assertIn(expected, explain_failure(["go", "build"], 1, output))

    def test_the_modules_of_the_project_say_which_kubernetes(self) -> None:
        plane = ControlPlane(checkout.ROOT / "scripts" / "kubernetes", self.cache)
        self.assertRegex(plane.version, r"^v1\.\d+\.\d+$")


if __name__ == "__main__":
    unittest.main()
