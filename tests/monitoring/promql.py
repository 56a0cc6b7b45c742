"""What an expression names, by Prometheus's own parser: metrics, labels of selectors, labels of groupings."""

from collections.abc import Iterator
from typing import Any

from monitored import TARGET_LABELS, Family


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a parsed expression."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


def faults(tree: Any, declared: dict[str, Family], recorded: set[str]) -> list[str]:
    """Names in an expression that nothing has: metrics, and labels that no metric beside them has."""
    found = []
    for node in nodes(tree):
        if node.get("type") in ("vectorSelector", "matrixSelector"):
            found += selector_faults(node, declared, recorded)
        used = node.get("grouping", []) if node.get("type") == "aggregation" else []
        matching = node.get("matching") or {}
        used = used + (matching["labels"] if matching.get("on") else [])
        if used:
            unknown = set(used) - labels_below(node, declared)
            found += [f"no metric has the label {label}" for label in sorted(unknown)]
    return found


def selector_faults(node: dict[str, Any], declared: dict[str, Family], recorded: set[str]) -> list[str]:
    """The same of one selector."""
    name = node["name"]
    if name in recorded:
        return []
    family = declared.get(name)
    if family is None:
        return [f"no metric is called {name}"]
    labels = {matcher["name"] for matcher in node["matchers"]} - {"__name__"}
    return [f"{name} has no label {label}" for label in labels - family.labels - TARGET_LABELS]


def labels_below(tree: Any, declared: dict[str, Family]) -> set[str]:
    """Labels that the series below a node may have; those that are recorded have `model`."""
    labels = set(TARGET_LABELS) | {"model"}
    for node in nodes(tree):
        if family := declared.get(node.get("name", "")):
            labels |= family.labels
    return labels
