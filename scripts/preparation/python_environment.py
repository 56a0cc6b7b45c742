"""`prepared/venv`: a virtual environment with pip, and the packages of the requirement files that were asked
for.

`installed.json` inside it names the files that are installed completely. It is removed before anything is
changed, so a killed installation is seen by its absence, and the environment is then made afresh (a few
seconds): pip itself takes a half-installed package for an installed one.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from preparation.console import PrepareError, run_command, step
from preparation.folders import hash_of_inputs


class PythonEnvironment:
    """The virtual environment in `folder`, with packages from files in `requirements_folder`."""

    def __init__(self, folder: Path, requirements_folder: Path, lock: int) -> None:
        self._folder = folder
        self._requirements_folder = requirements_folder
        self._lock = lock
        self._state = folder / "installed.json"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self._folder / "bin" / "python"

    def has(self, requirement_files: Iterable[str]) -> bool:
        """Whether these files are installed, as they are now."""
        wanted = {name: self._hash(name) for name in requirement_files}
        return not wanted or wanted.items() <= (self._installed() or {}).items()

    def create(self) -> None:
        """Make sure that there is a working environment with pip; what is installed and current stays."""
        installed = self._installed()
        if installed is not None and all(
            (self._requirements_folder / name).exists() and self._hash(name) == installed_hash
            for name, installed_hash in installed.items()
        ):
            return
        with step("python: virtual environment made"):
            self._state.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            try:
                run_command([sys.executable, "-m", "venv", self._folder], keep_open=[self._lock])
            except PrepareError:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise
            self._write_state({})

    def install(self, requirement_files: Iterable[str]) -> None:
        """Install the files that are not installed yet. Call `create` before."""
        installed = self._installed() or {}
        missing = [name for name in requirement_files if installed.get(name) != self._hash(name)]
        if not missing:
            return
        with step(f"python: packages of {' and '.join(missing)} installed"):
            self._state.unlink(missing_ok=True)
            # --no-deps: the files are complete, so nothing is resolved. --no-compile: most modules are never
            # used.
            options = [
                option for name in missing for option in ("--requirement", self._requirements_folder / name)
            ]
            run_command(
                [
                    self.python,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--no-compile",
                    "--only-binary",
                    ":all:",
                    "--require-hashes",
                    "--disable-pip-version-check",
                    *options,
                ],
                keep_open=[self._lock],
            )
            self._write_state(installed | {name: self._hash(name) for name in missing})

    def _installed(self) -> dict[str, str] | None:
        """Requirement files that are completely installed, with their hash; None without a working
        environment.
        """
        try:
            state = json.loads(self._state.read_text())
            # A new Python of the system leaves a link that leads to an interpreter without these packages.
            if state["interpreter"] == os.path.realpath(self.python, strict=True):
                return state["requirements"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _write_state(self, requirements: dict[str, str]) -> None:
        state = {"interpreter": os.path.realpath(self.python), "requirements": requirements}
        partial = self._state.with_suffix(".partial")
        partial.write_text(json.dumps(state, indent=1))
        partial.replace(self._state)

    def _hash(self, name: str) -> str:
        return hash_of_inputs([self._requirements_folder / name])
