"""Programs from pinned Go modules, without Go: once, complete or absent, with advice where it cannot be."""

import unittest
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

from go_stand_in import GoTestCase, put_modules, put_programs

from preparation import go_programs
from preparation.console import PrepareError, explain_failure
from preparation.folders import replace_link
from preparation.go_programs import GoPrograms, has_programs

USABLE_GO = go_programs.usable_go  # Each test replaces it.
MODULE = "example.org/tool/v2"
PACKAGES = {"hammer": f"{MODULE}/cmd/hammer", "saw": f"{MODULE}/cmd/saw"}


class GoProgramsTest(GoTestCase):
    def setUp(self) -> None:
        super().setUp()
        put_modules(self.modules, MODULE, "v2.1.0")

    def programs(self, **others: object) -> GoPrograms:
        return GoPrograms("tool", self.modules, MODULE, PACKAGES, 1, "seconds", **others)

    def test_the_programs_are_built_once(self) -> None:
        programs = self.programs(version_variables=lambda version: {"main.version": version}, tags=["a", "b"])
        folder = programs.prepare(self.cache, 0)
        self.assertEqual((folder.parent, folder.name[:7]), (self.cache / "tool", "v2.1.0-"))
        self.assertTrue(has_programs(folder, PACKAGES))
        self.assertEqual([command[-1] for command in self.commands], list(PACKAGES.values()))
        for part in ("-s -w -X main.version=v2.1.0", "-tags=a,b", "-trimpath", "-mod=readonly"):
            self.assertIn(part, self.commands[0])
        self.assertEqual(programs.prepare(self.cache, 0), folder)
        self.assertEqual(len(self.commands), len(PACKAGES), "nothing is built again")

    def test_another_checkout_uses_what_is_in_the_cache_and_needs_no_go(self) -> None:
        put_programs(self.cache / self.programs().folder, *PACKAGES)
        with mock.patch.object(go_programs, "usable_go", lambda modules: None):
            self.programs().prepare(self.cache, 0)
        self.assertEqual(self.commands, [])

    def test_other_modules_sources_or_options_are_another_folder(self) -> None:
        folders = {self.programs().folder, self.programs(tags=["a"]).folder}
        put_modules(self.modules, MODULE, "v2.1.0", "others")
        folders.add(self.programs().folder)
        put_modules(self.modules, MODULE, "v2.1.1")
        folders.add(self.programs().folder)
        (self.modules / "main.go").write_text("package main")
        folders.add(self.programs().folder)
        self.assertEqual(len(folders), 5)

    def test_a_failed_build_leaves_nothing_and_is_done_again(self) -> None:
        folder = self.cache / self.programs().folder

        def fails_at_the_second(
            command: Sequence[str | Path], variables: Mapping[str, str], where: Path
        ) -> None:
            if self.commands:
                raise PrepareError("no network")
            self.go(command, variables, where)

        folder.parent.mkdir(parents=True)
        with self.assertRaisesRegex(PrepareError, "no network"):
            self.programs().build(folder, fails_at_the_second)
        self.assertEqual(list(folder.parent.iterdir()), [])
        self.assertTrue(has_programs(self.programs().prepare(self.cache, 0), PACKAGES))

    def test_a_folder_that_lost_a_program_is_made_again(self) -> None:
        folder = self.programs().prepare(self.cache, 0)
        (folder / "saw").unlink()
        (folder.with_name(f".{folder.name}.partial-dead")).mkdir()
        self.programs().prepare(self.cache, 0)
        self.assertTrue(has_programs(folder, PACKAGES))
        left = sorted(path.name for path in folder.parent.iterdir())
        self.assertEqual(left, [folder.name, f"{folder.name}.lock"])

    def test_a_module_that_is_not_in_go_mod_is_named(self) -> None:
        put_modules(self.modules, "example.org/other", "v1.0.0")
        with self.assertRaisesRegex(PrepareError, r"go.mod does not have .*tool/v2"):
            self.programs().prepare(self.cache, 0)

    def test_a_go_that_is_missing_or_old_is_named_with_what_to_do(self) -> None:
        for version in (None, "broken", "go1.19.8", "go1.25.9"):
            with (
                self.subTest(version),
                mock.patch.object(go_programs, "usable_go", lambda modules, version=version: version),
                self.assertRaisesRegex(PrepareError, "building tool .*needs Go 1.26.0 .*: install .*, or buy"),
            ):
                self.programs(instead=", or buy one").prepare(self.cache, 0)
        for version in ("go1.26.0", "go1.26.8", "go1.27rc1", "go2.0"):
            with mock.patch.object(go_programs, "usable_go", lambda modules, version=version: version):
                go_programs.require_go(self.modules, "building tool")

    def test_the_go_that_the_modules_ask_for_counts_and_else_the_installed_one(self) -> None:
        go = self.folder / "go"
        for fetches, expected in ((True, "go1.26.0"), (False, "go1.22.1")):
            fetched = "echo go1.26.0" if fetches else "exit 1"
            go.write_text(f'#!/bin/sh\n[ "$GOTOOLCHAIN" = local ] && echo go1.22.1 && exit\n{fetched}\n')
            go.chmod(0o755)
            with mock.patch.object(go_programs.shutil, "which", lambda name: str(go)):
                self.assertEqual(USABLE_GO(self.modules), expected)
        with mock.patch.object(go_programs.shutil, "which", lambda name: None):
            self.assertIsNone(USABLE_GO(self.modules))

    def test_failures_of_go_become_one_line(self) -> None:
        for output, expected in (
            ("go: k8s.io/api: dial tcp: lookup proxy.golang.org: no such host", "GOPROXY"),
            ("verifying k8s.io/api@v1: checksum mismatch\n\nSECURITY ERROR\n", "go.sum"),
        ):
            self.assertIn(expected, explain_failure(["go", "build"], 1, output))

    def test_a_link_is_replaced_and_left_alone_when_it_is_right(self) -> None:
        link = self.prepared / "tools" / "hammer"
        self.assertTrue(replace_link(link, self.folder / "old"))
        self.assertTrue(replace_link(link, self.folder / "new"))
        self.assertFalse(replace_link(link, self.folder / "new"))
        self.assertEqual(link.readlink(), self.folder / "new")


if __name__ == "__main__":
    unittest.main()
