"""Writes all files that are made from the charts: `PYTHONPATH=scripts prepared/venv/bin/python -m charts`."""

import sys
from pathlib import Path

from charts.copies import copies
from charts.manifests import HelmError, manifests
from charts.readme import readmes

ROOT = Path(__file__).resolve().parents[2]


def write(files: dict[str, str]) -> None:
    """Put each text where it belongs, below the project's folder."""
    for path, text in files.items():
        target = ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
            print(f"wrote {path}")


def main() -> int:
    # In this order: helm renders what was copied.
    write(copies(ROOT))
    write(readmes(ROOT))
    try:
        write(manifests(ROOT))
    except HelmError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
