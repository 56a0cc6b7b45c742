"""One version everywhere, and what a release says when it is not so."""

import shutil
import tempfile
import unittest
from pathlib import Path

import checkout  # first: it makes scripts/ importable

import release

FILES = [
    "Cargo.toml",
    *release.LOCKS,
    "CHANGELOG.md",
    *(f"charts/{name}/Chart.yaml" for name in release.CHARTS),
]


class ReleaseTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in FILES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout.ROOT / name, self.folder / name)
        self.version = release.version(self.folder)

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        self.assertIn(old, text)
        (self.folder / name).write_text(text.replace(old, new, 1))

    def test_program_and_charts_have_one_version(self) -> None:
        self.assertEqual(release.agreement(checkout.ROOT), [])

    def test_each_file_that_differs_is_named(self) -> None:
        self.change("charts/inference-gateway/Chart.yaml", f"\nversion: {self.version}", "\nversion: 9.9.9")
        self.change("charts/inference-gateway-crds/Chart.yaml", f"\nappVersion: {self.version}", "")
        self.change(
            "Cargo.lock",
            f'name = "inference-gateway"\nversion = "{self.version}"',
            'name = "inference-gateway"\nversion = "0.0.1"',
        )
        wanted = f"Cargo.toml has {self.version}"
        self.assertEqual(
            release.agreement(self.folder),
            [
                f"the version in Cargo.lock is 0.0.1, {wanted}",
                f"version in charts/inference-gateway/Chart.yaml is 9.9.9, {wanted}",
                f"appVersion in charts/inference-gateway-crds/Chart.yaml is missing, {wanted}",
            ],
        )

    def test_a_release_needs_its_heading_in_the_changelog(self) -> None:
        changelog = self.folder / "CHANGELOG.md"
        for text, is_ready in [
            ("# Changelog\n\n## Unreleased\n\n### Added\n", False),
            ("# Changelog\n\n## Unreleased\n\n## 0.0.1 - 2026-01-02\n", False),
            (f"# Changelog\n\n## {self.version}\n", False),
            (f"# Changelog\n\n## {self.version} - 2026-01-02\n\n## 0.0.1 - 2026-01-01\n", True),
            (f"# Changelog\n\n## Unreleased\n\n## {self.version} - 2026-01-02\n", True),
        ]:
            changelog.write_text(text)
            self.assertEqual(release.unreleased(self.folder) == [], is_ready, text)


if __name__ == "__main__":
    unittest.main()
