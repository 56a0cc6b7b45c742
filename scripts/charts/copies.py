"""What charts take over from elsewhere.

A packaged chart cannot look outside of itself, so these are copies and no links.
"""

import re
from pathlib import Path

DEFINITIONS = ("models.yaml", "modelreplicas.yaml")
GATEWAY = "charts/inference-gateway"
CHARTS = (GATEWAY, "charts/inference-gateway-crds")


def copies(root: Path) -> dict[str, str]:
    """Text by path of all copies."""
    files = {}
    for name in DEFINITIONS:
        text = (root / "crd" / name).read_text()
        files[f"{GATEWAY}/files/crds/{name}"] = text
        files[f"{CHARTS[1]}/files/{name}"] = text
    for chart in CHARTS:
        files[f"{chart}/LICENSE"] = (root / "LICENSE").read_text()
    files[f"{GATEWAY}/files/settings.txt"] = "".join(f"{name}\n" for name in settings(root))
    return files


def settings(root: Path) -> list[str]:
    """The variables of all settings, as docs/settings.md lists them."""
    table = (root / "docs" / "settings.md").read_text()
    return re.findall(r"^\| `--[a-z0-9-]+` \| `([A-Z0-9_]+)`", table, re.MULTILINE)
