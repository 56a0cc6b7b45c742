"""Kubernetes for the tests, built from the Go modules that scripts/kubernetes pins.

    target kubernetes   prepared/kubernetes   a control plane: etcd, kube-apiserver, kube-controller-manager

The target `node` (node.py) takes the rest from here. Tests take the programs that KUBEBUILDER_ASSETS names, if all
three are there, so somebody who has them builds nothing.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from preparation.console import PrepareError, say
from preparation.folders import replace_link
from preparation.go_programs import GoPrograms, has_programs

CONTROL_PLANE = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}
"""Name of each program and the package it is built from."""
NODE = ("kube-scheduler", "kubelet", "kube-proxy", "kubectl")


def control_plane(modules: Path) -> GoPrograms:
    """The programs of the Kubernetes that `modules` (a folder with go.mod and go.sum) pins."""
    return GoPrograms(
        name="kubernetes",
        modules=modules,
        versioned_by="k8s.io/kubernetes",
        packages=CONTROL_PLANE,
        needed_mebibytes=700,
        cost="about ten minutes and 4 GB of Go's caches on two cores",
        version_variables=version_variables,
        instead=f", or set KUBEBUILDER_ASSETS to a folder with {', '.join(CONTROL_PLANE)}",
    )


def prepare_control_plane(modules: Path, cache: Path, prepared: Path, lock: int) -> None:
    """The target `kubernetes`: build what is not in the cache yet, and link it as prepared/kubernetes."""
    if assets := assets_of_the_user(os.environ):
        say(f"kubernetes: KUBEBUILDER_ASSETS is used: {assets}")
    elif not replace_link(prepared / "kubernetes", control_plane(modules).prepare(cache, lock)):
        say("up to date: kubernetes")


def node_programs(modules: Path) -> GoPrograms:
    """What a cluster has beside its control plane, and kubectl."""
    return GoPrograms(
        name="kubernetes-node",
        modules=modules,
        versioned_by="k8s.io/kubernetes",
        packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in NODE},
        needed_mebibytes=700,
        cost="about four minutes on two cores after the control plane",
        version_variables=version_variables,
    )


def assets_of_the_user(environment: Mapping[str, str]) -> Path | None:
    """The folder that KUBEBUILDER_ASSETS names, if it has all three programs."""
    named = environment.get("KUBEBUILDER_ASSETS")
    return Path(named) if named and has_programs(Path(named), CONTROL_PLANE) else None


def version_variables(version: str) -> dict[str, str]:
    """What makes a program say the version that a release would say it has: clients look at it."""
    minor = re.match(r"v1\.(\d+)\.", version)
    if minor is None:
        raise PrepareError(f"scripts/kubernetes/go.mod has a version that is not known here: {version}")
    values = {"gitVersion": version, "gitMajor": "1", "gitMinor": minor[1], "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}
