"""The programs of a cluster with one real node, for `make e2e`, and what looks at it.

    target node   prepared/node/   a control plane, kube-scheduler, kubelet, kube-proxy, kubectl,
                                   coredns, scrape-config
"""

import os
from pathlib import Path

from preparation.console import say
from preparation.go_programs import GoPrograms, link_programs, module_version
from preparation.kubernetes import CONTROL_PLANE, assets_of_the_user, control_plane, node_programs
from preparation.tools import PROMETHEUS, prometheus_release


def others(tools: Path) -> list[GoPrograms]:
    """What is not Kubernetes's own, from the modules below `tools` (scripts/tools)."""
    return [
        GoPrograms(
            name="coredns",
            modules=tools / "coredns",
            versioned_by="github.com/coredns/coredns",
            packages={"coredns": "github.com/coredns/coredns"},
            needed_mebibytes=200,
            cost="about three minutes on two cores",
        ),
        # Our own, on the generator of prometheus-operator: see its main.go.
        GoPrograms(
            name="scrape-config",
            modules=tools / "scrape-config",
            versioned_by="github.com/prometheus-operator/prometheus-operator",
            packages={"scrape-config": "."},
            needed_mebibytes=200,
            cost="about three minutes on two cores",
            version_variables=lambda version: {"main.prometheusVersion": _prometheus_version(tools)},
        ),
    ]


def prepare_node(scripts: Path, cache: Path, prepared: Path, lock: int) -> None:
    """The target `node`: build what is not in the cache yet, and link each program in prepared/node."""
    modules, links = scripts / "kubernetes", prepared / "node"
    plane = assets_of_the_user(os.environ) or control_plane(modules).prepare(cache, lock)
    changed = [link_programs(links, plane, CONTROL_PLANE)]
    for programs in (node_programs(modules), *others(scripts / "tools")):
        changed.append(link_programs(links, programs.prepare(cache, lock), programs.packages))
    if not any(changed):
        say("up to date: node")


def _prometheus_version(tools: Path) -> str:
    """Of the Prometheus that reads what scrape-config writes."""
    return "v" + prometheus_release(module_version(tools / "prometheus" / "go.mod", PROMETHEUS))
