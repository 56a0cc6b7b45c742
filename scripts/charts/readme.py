"""The table of values in the README of a chart, made from the comments of its values.yaml.

A comment that begins with `# --` describes the key below it, in the manner of helm-docs; `# @default -- text`
is shown in place of a default that is too long. Every value is described, or lies below a key that is.
"""

import json
import re
from pathlib import Path

import yaml

from charts.copies import CHARTS

BEGIN = "<!-- made from values.yaml by `make generate` -->"
END = "<!-- end of what is made -->"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z0-9_-]+):(?: |$)")


class UndescribedError(Exception):
    """A value without a word about it."""


def readmes(root: Path) -> dict[str, str]:
    """Text by path of the charts' READMEs."""
    return {f"{chart}/README.md": readme(root / chart) for chart in CHARTS}


def readme(chart: Path) -> str:
    """The chart's README with the table as it should be."""
    text = (chart / "README.md").read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table((chart / 'values.yaml').read_text())}\n{END}{after}"


def table(values: str) -> str:
    """All described values of a values.yaml, as a table in Markdown."""
    rows = ["| value | default | what it is |", "| --- | --- | --- |"]
    for path, default, description in described(values):
        cells = (f"`{path}`", default, description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def described(values: str) -> list[tuple[str, str, str]]:
    """Path, default and description of each described value, in the order of the file."""
    defaults = yaml.safe_load(values)
    found: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str, bool]] = []  # Indentation, key, and whether it is described.
    comment: list[str] = []
    for line in values.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key = KEY.match(line)
        if key is None:
            comment = []
            continue
        indent = len(key["indent"])
        while parents and parents[-1][0] >= indent:
            parents.pop()
        is_below_described = any(is_described for *_, is_described in parents)
        path = ".".join([name for _, name, _ in parents] + [key["key"]])
        default = value_at(defaults, path)
        description, shown = read_comment(comment)
        comment = []
        if description:
            found.append((path, shown or f"`{json.dumps(default, ensure_ascii=False)}`", description))
        elif not is_below_described and (not isinstance(default, dict) or not default):
            raise UndescribedError(f"values.yaml says nothing about {path}: add `# -- …` above it")
        parents.append((indent, key["key"], bool(description)))
    return found


def read_comment(lines: list[str]) -> tuple[str, str]:
    """Description and shown default of the comment above a key."""
    description, shown = "", ""
    for line in lines:
        if line.startswith("--"):
            description = line.removeprefix("--").strip()
        elif line.startswith("@default --"):
            shown = line.removeprefix("@default --").strip()
        elif description:
            description += " " + line
    return description, shown


def value_at(values: object, path: str) -> object:
    for key in path.split("."):
        assert isinstance(values, dict), path
        values = values[key]
    return values
