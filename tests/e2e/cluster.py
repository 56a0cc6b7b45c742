"""kubectl and helm against the node, and waiting for what a cluster does in its own time."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from e2e.console import CheckFailed
from e2e.machine import CHECKOUT, TARGET, program
from e2e.node.node import Node

CHART = CHECKOUT / "charts" / "inference-gateway"
HELM_TIMEOUT = "180s"
PATIENCE = 180
FLEETING = {"events", "events.events.k8s.io", "componentstatuses"}
"""What comes and goes by itself."""

Found = TypeVar("Found")


class Cluster:
    """The cluster of a node, as its administrator."""

    def __init__(self, node: Node) -> None:
        self.node = node
        home = TARGET / "helm"
        # Nothing of the user's: neither a kubeconfig nor plugins nor repositories of helm.
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(home),
            "KUBECONFIG": str(node.settings.kubeconfig("admin")),
            **{f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")},
        }

    def kubectl(self, *arguments: str, content: object = None) -> str:
        """What kubectl prints; objects to read are given to it as JSON."""
        return self._run(program("kubectl"), arguments, content)

    def helm(self, *arguments: str, values: Mapping | None = None) -> str:
        """What helm prints; values are given to it as a file."""
        if values is None:
            return self._run(program("helm"), arguments, None)
        return self._run(program("helm"), [*arguments, "--values=-"], values)

    def install(self, namespace: str, name: str, values: Mapping) -> str:
        """`helm install --wait`."""
        return self.helm("install", name, str(CHART), f"--namespace={namespace}", *_waiting(), values=values)

    def upgrade(self, namespace: str, name: str, values: Mapping) -> str:
        """`helm upgrade --wait`."""
        return self.helm("upgrade", name, str(CHART), f"--namespace={namespace}", *_waiting(), values=values)

    def uninstall(self, namespace: str, name: str) -> str:
        """`helm uninstall --wait`."""
        return self.helm("uninstall", name, f"--namespace={namespace}", *_waiting())

    def get(self, namespace: str, kind: str, name: str) -> dict:
        """An object."""
        return json.loads(self.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json"))

    def list(self, namespace: str, kind: str, selector: str = "") -> list[dict]:
        """Objects, perhaps by their labels."""
        command = ["get", kind, f"--namespace={namespace}", f"--selector={selector}", "--output=json"]
        return json.loads(self.kubectl(*command))["items"]

    def apply(self, *objects: dict) -> None:
        """`kubectl apply`."""
        self.kubectl(
            "apply", "--filename=-", content={"apiVersion": "v1", "kind": "List", "items": list(objects)}
        )

    def namespace(self, name: str, enforce: str = "restricted") -> None:
        """A namespace in which pods have to keep to a Pod Security Standard."""
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def rolled_out(self, namespace: str, deployment: str) -> None:
        """Wait for a Deployment."""
        self.kubectl(
            "rollout",
            "status",
            f"deployment/{deployment}",
            f"--namespace={namespace}",
            f"--timeout={PATIENCE}s",
        )

    def service_address(self, namespace: str, name: str) -> str:
        """The address of a Service in the cluster."""
        return self.get(namespace, "service", name)["spec"]["clusterIP"]

    def everything(self) -> set[str]:
        """Each object of the cluster as `Kind namespace/name`, without what comes and goes by itself."""
        kinds = set(self.kubectl("api-resources", "--verbs=list", "--output=name").split()) - FLEETING
        fields = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}".replace(
            "'", '"'
        )
        printed = self.kubectl(
            "get", ",".join(sorted(kinds)), "--all-namespaces", f"--output=jsonpath={fields}"
        )
        return set(printed.splitlines())

    def _run(self, command: Path, arguments: object, content: object) -> str:
        done = subprocess.run(
            [command, *arguments],
            input=None if content is None else json.dumps(content),
            stdin=subprocess.DEVNULL if content is None else None,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shown = " ".join([command.name, *arguments][:4])
            raise CheckFailed(f"{shown} …: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def eventually(
    what: str, find: Callable[[], Found | None], seconds: float = PATIENCE, pause: float = 0.2
) -> Found:
    """What `find` gives as soon as it is not None or false; a command that fails meanwhile is tried again."""
    deadline = time.monotonic() + seconds
    last = "nothing was found"
    while True:
        try:
            if found := find():
                return found
        except CheckFailed as error:
            last = str(error)
        if time.monotonic() > deadline:
            raise CheckFailed(f"{what} was not seen within {seconds:.0f} s: {last}")
        time.sleep(pause)


def _waiting() -> list[str]:
    return ["--wait", f"--timeout={HELM_TIMEOUT}"]
