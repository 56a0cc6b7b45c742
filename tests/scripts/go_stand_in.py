"""What stands in for Go in the tests of `prepare.py`: a runner that makes files, and folders of modules."""

import io
import os
import unittest
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import checkout  # noqa: F401  first: it makes scripts/ importable

from preparation import go_programs


def put_programs(folder: Path, *names: str) -> None:
    """Files that may be run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("program")
        (folder / name).chmod(0o755)


def put_modules(folder: Path, module: str, version: str, go_sum: str = "hashes") -> None:
    """A folder as scripts/kubernetes is."""
    folder.mkdir(parents=True, exist_ok=True)
    requirements = f"require (\n\t{module} {version} // indirect\n)\n"
    (folder / "go.mod").write_text(f"module m\n\ngo 1.26.0\n\n{requirements}")
    (folder / "go.sum").write_text(go_sum)


class GoTestCase(unittest.TestCase):
    """With empty folders, no output, and `self.commands` of a Go that does nothing but make its output."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.modules, self.cache = self.folder / "modules", self.folder / "cache"
        self.prepared = self.folder / "prepared"
        self.commands: list[list[str]] = []
        self.printed = io.StringIO()
        self.enterContext(redirect_stdout(self.printed))
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop("KUBEBUILDER_ASSETS", None)
        self.enterContext(mock.patch.object(go_programs, "usable_go", lambda modules: "go1.26.8"))
        self.enterContext(mock.patch.object(go_programs, "run_command", self._run_command))

    def go(self, command: Sequence[str | Path], variables: Mapping[str, str], folder: Path) -> None:
        """`go build` as far as anybody looks at it."""
        self.assertTrue((folder / "go.mod").is_file())
        self.assertEqual((variables["GOFLAGS"], variables["CGO_ENABLED"]), ("", "0"))
        output = Path(command[command.index("-o") + 1])
        self.commands.append([str(part) for part in command])
        put_programs(output.parent, output.name)

    def _run_command(self, command: Sequence[str | Path], *, folder: Path, **rest: object) -> None:
        self.go(command, rest["environment"], folder)
