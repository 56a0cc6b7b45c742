"""What the tests of the monitoring share: the files that they are about, and the programs that they run."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "charts" / "inference-gateway" / "files"
ALERTS, DASHBOARD = FILES / "alerts.yaml", FILES / "dashboard.json"
CASES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
RUNBOOK = ROOT / "docs" / "alerts.md"
TARGET_LABELS = {"namespace", "job", "pod", "instance"}
"""Labels that Prometheus itself gives to what it scrapes; those of a ServiceMonitor or PodMonitor."""


def tool(name: str) -> Path:
    """A program that `prepare.py tools` makes."""
    path = ROOT / "prepared" / "tools" / name
    assert path.exists(), f"{path} is missing: run `python3 scripts/prepare.py tools`"
    return path


def gateway() -> Path:
    """The program under test."""
    default = ROOT / "target" / "debug" / "inference-gateway"
    path = Path(os.environ.get("INFERENCE_GATEWAY_EXECUTABLE", default))
    assert path.exists(), f"{path} is missing: run `cargo build --locked`"
    return path


def groups() -> list[dict[str, Any]]:
    """The groups of rules."""
    return yaml.safe_load(ALERTS.read_text())["groups"]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    rules = [rule for group in groups() for rule in group["rules"]]
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def recorded() -> dict[str, str]:
    """Expressions of the recording rules by the name that they record."""
    rules = [rule for group in groups() for rule in group["rules"]]
    return {rule["record"]: rule["expr"] for rule in rules if "record" in rule}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard, those inside folded rows too."""
    return [inner for outer in dashboard()["panels"] for inner in (outer, *outer.get("panels", []))]


@dataclass(frozen=True)
class Family:
    """A metric as the program declares it."""

    kind: str
    labels: frozenset[str]


def declared() -> dict[str, Family]:
    """The names of all series that the program can have, with their labels, from its own reference."""
    page = subprocess.run([gateway(), "metrics"], check=True, capture_output=True, text=True).stdout
    names: dict[str, Family] = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \|", page, re.M):
        family = Family(kind, frozenset(re.findall(r"`(\w+)`", labels)))
        if kind == "histogram":
            names |= {f"{name}_sum": family, f"{name}_count": family}
            names[f"{name}_bucket"] = Family(kind, family.labels | {"le"})
        else:
            names[name] = family
    assert len(names) > 50, page
    return names
