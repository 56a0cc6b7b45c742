#!/usr/bin/env python3
"""One version for everything: the program, both charts, the image that they ask for, the changelog.

    python3 scripts/release.py version     print it
    python3 scripts/release.py check       compare all that carry it; exit status 1 if one differs

`check` is for a release: until then the changelog's newest heading is `Unreleased`. What must agree on every
commit is `agreement`, which the tests call.
"""

import re
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CHARTS = ("inference-gateway", "inference-gateway-crds")
LOCKS = ("Cargo.lock", "fuzz/Cargo.lock")


def version(checkout: Path) -> str:
    """The version in Cargo.toml, which leads."""
    return tomllib.loads((checkout / "Cargo.toml").read_text())["package"]["version"]


def agreement(checkout: Path) -> list[str]:
    """What differs from Cargo.toml, one sentence each."""
    wanted, wrong = version(checkout), []

    def compare(where: str, found: str | None) -> None:
        if found != wanted:
            wrong.append(f"{where} is {found or 'missing'}, Cargo.toml has {wanted}")

    for file in LOCKS:
        lock = tomllib.loads((checkout / file).read_text())
        own = [package for package in lock["package"] if package["name"] == "inference-gateway"]
        compare(f"the version in {file}", own[0]["version"] if own else None)
    for chart in CHARTS:
        file = checkout / "charts" / chart / "Chart.yaml"
        text = file.read_text() if file.exists() else ""
        compare(f"version in charts/{chart}/Chart.yaml", _top_level(text, "version"))
        compare(f"appVersion in charts/{chart}/Chart.yaml", _top_level(text, "appVersion"))
    return wrong


def unreleased(checkout: Path) -> list[str]:
    """What keeps the changelog from being that of a release, one sentence each."""
    headings = re.findall(r"^## (.+)$", (checkout / "CHANGELOG.md").read_text(), re.MULTILINE)
    wanted = re.compile(rf"\[?{re.escape(version(checkout))}\]? - \d{{4}}-\d{{2}}-\d{{2}}")
    newest = next((heading for heading in headings if heading != "Unreleased"), None)
    if newest is None or not wanted.fullmatch(newest):
        return [
            f"the newest release in CHANGELOG.md is '{newest}': give what is under 'Unreleased' "
            f"the heading '## {version(checkout)} - YYYY-MM-DD'"
        ]
    return []


def _top_level(yaml: str, key: str) -> str | None:
    """A plain value at the top level of a YAML file; the release needs no YAML parser for it."""
    found = re.search(rf"^{key}:\s*[\"']?([^\s\"'#]+)", yaml, re.MULTILINE)
    return found[1] if found else None


def main() -> int:
    """Returns the exit status."""
    match sys.argv[1:]:
        case ["version"]:
            print(version(CHECKOUT))
            return 0
        case ["check"]:
            wrong = agreement(CHECKOUT) + unreleased(CHECKOUT)
            for sentence in wrong:
                print(f"release.py: {sentence}", file=sys.stderr)
            if not wrong:
                print(f"==> release: {version(CHECKOUT)} everywhere")
            return 1 if wrong else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
