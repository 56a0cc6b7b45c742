"""The programs that check and install what is deployed, each built from the modules in scripts/tools/NAME.

    target tools   prepared/tools/   helm, kubeconform, promtool, prometheus, otel-collector
"""

import re
from pathlib import Path

from preparation.console import PrepareError, say
from preparation.go_programs import GoPrograms, link_programs

PROMETHEUS = "github.com/prometheus/prometheus"
COLLECTOR = "go.opentelemetry.io/collector/otelcol"
VEGETA = "github.com/tsenart/vegeta/v12"


def tools(folder: Path) -> list[GoPrograms]:
    """What the modules below `folder` (scripts/tools) pin.

    Each tool has a folder of its own, because two of them ask for different versions of the same modules.
    """
    return [
        GoPrograms(
            name="helm",
            modules=folder / "helm",
            versioned_by="helm.sh/helm/v4",
            packages={"helm": "helm.sh/helm/v4/cmd/helm"},
            needed_mebibytes=200,
            cost="about three minutes on two cores",
            version_variables=lambda version: {"helm.sh/helm/v4/internal/version.version": version},
        ),
        GoPrograms(
            name="kubeconform",
            modules=folder / "kubeconform",
            versioned_by="github.com/yannh/kubeconform",
            packages={"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
            needed_mebibytes=50,
            cost="seconds",
            version_variables=lambda version: {"main.version": version},
        ),
        GoPrograms(
            name="prometheus",
            modules=folder / "prometheus",
            versioned_by=PROMETHEUS,
            packages={name: f"{PROMETHEUS}/cmd/{name}" for name in ("promtool", "prometheus")},
            needed_mebibytes=400,
            cost="about four minutes on two cores",
            version_variables=lambda version: {
                "github.com/prometheus/common/version.Version": prometheus_release(version)
            },
            # Discovery in Kubernetes and nothing of the clouds: their clients are most of a build.
            tags=("remove_all_sd", "enable_kubernetes_sd", "enable_dns_sd"),
        ),
        GoPrograms(
            name="otel-collector",
            modules=folder / "otel-collector",
            versioned_by=COLLECTOR,
            packages={"otel-collector": "."},
            needed_mebibytes=100,
            cost="about a minute on two cores",
            version_variables=lambda version: {"main.version": version},
        ),
    ]


def load_tools(folder: Path) -> list[GoPrograms]:
    """What `make load` sends requests with, from its module below `folder` (scripts/tools); no test needs it."""
    return [
        GoPrograms(
            name="vegeta",
            modules=folder / "vegeta",
            versioned_by=VEGETA,
            packages={"vegeta": VEGETA},
            needed_mebibytes=20,
            cost="half a minute on two cores",
            version_variables=lambda version: {"main.Version": version},
        )
    ]


def prepare_tools(target: str, wanted: list[GoPrograms], cache: Path, prepared: Path, lock: int) -> None:
    """The target `tools` or `load`: build what is not in the cache yet, and link each program in prepared/tools."""
    changed = [link_programs(prepared / "tools", tool.prepare(cache, lock), tool.packages) for tool in wanted]
    if not any(changed):
        say(f"up to date: {target}")


def prometheus_release(module_version: str) -> str:
    """The release that a version of Prometheus's module is: v0.316.0 is 3.16.0."""
    numbers = re.fullmatch(r"v0\.(\d+)(\d\d)\.(\d+)", module_version)
    if numbers is None:
        raise PrepareError(f"scripts/tools/prometheus/go.mod has an unknown version: {module_version}")
    return f"{numbers[1]}.{int(numbers[2])}.{numbers[3]}"
