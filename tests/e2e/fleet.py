"""Mode `crd`: three gateways and a controller, and a `Model` that is moved between revisions."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from e2e import traffic
from e2e.bed import NAME, TOKENS, Bed, values
from e2e.cluster import eventually
from e2e.console import check, say
from e2e.models import FIRST
from e2e.node import cgroups
from e2e.services import FILES_SERVER

NAMESPACE = "mode-crd"
MODEL = "chat"
KIND = "models.inference-gateway.io"
REPLICAS = 3
CONTROLLER = f"{NAME}-controller"


class Fleet:
    """A release in mode crd."""

    def __init__(self, bed: Bed) -> None:
        self.bed, self.cluster, self.report = bed, bed.cluster, bed.report
        self.values = values(mode="crd", replicaCount=REPLICAS)
        self.texts: dict[str, str] = {}
        """The model that each revision is of, as the cluster named it."""

    def spec(self, model: str, **more: object) -> dict:
        """A Model's spec whose rollout loses no time."""
        rollout = {"minReadySeconds": 2, "progressDeadlineSeconds": 300, "watch": {"windowSeconds": 5}}
        source = self.bed.models.source(model, FILES_SERVER)
        return {"gatewayRef": {"name": "default"}, "source": source, "rollout": rollout, **more}

    def apply(self, spec: dict) -> None:
        """`kubectl apply` of the Model."""
        model = {"apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model", "metadata": {"name": MODEL}}
        self.cluster.kubectl(
            "apply", f"--namespace={NAMESPACE}", "--filename=-", content={**model, "spec": spec}
        )

    def status(self) -> dict | None:
        """The status of the Model, once it is about what was applied last."""
        model = self.cluster.get(NAMESPACE, KIND, MODEL)
        status = model.get("status", {})
        return status if status.get("observedGeneration") == model["metadata"]["generation"] else None

    def wait(self, what: str, holds: Callable[[dict], bool]) -> dict:
        """The status as soon as it is as it should be."""
        last: list = []

        def find() -> dict | None:
            status = self.status()
            last[:] = [status]
            return status if status and holds(status) else None

        try:
            return eventually(what, find)
        except Exception:
            say(f"     the status was {json.dumps(last)}")
            raise

    def rolled_out(self, model: str) -> str:
        """Wait until every pod serves what was applied last, which is of this model; returns the revision."""
        status = self.wait(
            "the end of the rollout",
            lambda status: (
                condition(status, "Ready") == "True RolledOut" and status["updatedReplicas"] == REPLICAS
            ),
        )
        revision = status["stable"]["revision"]
        self.texts[revision] = model
        return revision

    def table(self) -> None:
        """What people see."""
        say(self.cluster.kubectl("get", KIND, f"--namespace={NAMESPACE}"))

    def serving(self) -> dict[str, str]:
        """The revision that each pod says it serves."""
        replicas = self.cluster.list(NAMESPACE, "modelreplicas.inference-gateway.io")
        return {one["spec"]["podName"]: one.get("status", {}).get("servingRevision", "") for one in replicas}

    def pods(self) -> list[dict]:
        """The gateway's pods."""
        return self.bed.gateways(NAMESPACE)

    def traffic(
        self, phase: str, clients: int = 8, tokens: int = TOKENS, streams_only: bool = False
    ) -> traffic.Traffic:
        """Clients of the Service."""
        address = self.cluster.service_address(NAMESPACE, NAME)
        return traffic.Traffic(address, MODEL, clients, tokens, streams_only).start(phase)

    def expected(self, tokens: int = TOKENS) -> dict[str, str]:
        """The text of each revision that there was."""
        return {revision: self.bed.text(model, tokens) for revision, model in self.texts.items()}

    def all_ready(self) -> list[dict] | None:
        """The pods, if there are as many as there should be and all are ready."""
        pods = self.pods()
        ready = [pod for pod in pods if is_ready(pod)]
        return pods if len(pods) == len(ready) == REPLICAS else None

    def memory(self, component: str, label: str) -> None:
        """The memory of a component's pods, as the kernel counts it."""
        found = self.cluster.list(NAMESPACE, "pods", f"app.kubernetes.io/component={component}")
        cgroup = self.cluster.node.settings.cgroup
        sizes = [cgroups.memory(cgroup, container_id(pod)) for pod in found]
        shown = ", ".join(
            f"{used / 2**20:.1f} MiB (working set {working / 2**20:.1f})" for used, working in sizes
        )
        self.report.number(f"memory of {label}", shown)


def condition(status: dict, kind: str) -> str:
    """`True RolledOut`, or `-`."""
    for one in status.get("conditions", []):
        if one["type"] == kind:
            return f"{one['status']} {one['reason']}"
    return "-"


def is_ready(pod: dict) -> bool:
    """Whether a pod is ready."""
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def container_id(pod: dict) -> str:
    """The id of a pod's only container."""
    return pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]


@contextmanager
def installed(bed: Bed) -> Iterator[Fleet]:
    """A release that serves the first model in every pod.

    Afterwards it is uninstalled, and nothing stays but definitions.
    """
    cluster, report, fleet = bed.cluster, bed.report, Fleet(bed)
    cluster.namespace(NAMESPACE)
    # What was applied by hand is the user's and stays; definitions stay because every Model goes with them.
    kept = (
        r"CustomResourceDefinition /model(s|replicas)\.inference-gateway\.io",
        r"APIService /v1alpha1\.inference-gateway\.io",
        rf"Model {NAMESPACE}/{MODEL}",
    )
    with bed.nothing_stays(NAMESPACE, *kept):
        with report.step(f"{NAMESPACE}: helm install --wait of {REPLICAS} gateways and a controller"):
            cluster.install(NAMESPACE, NAME, fleet.values)
        fleet.memory("gateway", "an idle gateway without a model")
        with report.step(f"{NAMESPACE}: kubectl apply of a Model, kubectl wait until it is ready"):
            fleet.apply(fleet.spec(FIRST))
            wait = [
                "wait",
                "--for=condition=Ready",
                f"{KIND}/{MODEL}",
                f"--namespace={NAMESPACE}",
                "--timeout=120s",
            ]
            cluster.kubectl(*wait)
            revision = fleet.rolled_out(FIRST)
            serving = fleet.serving()
            check(
                len(serving) == REPLICAS and set(serving.values()) == {revision},
                f"not all serve it: {serving}",
            )
            fleet.table()
            for pod in fleet.pods():
                answer = bed.ask_pod(pod, MODEL)
                check(
                    answer == traffic.Answer(revision, bed.text(FIRST)),
                    f"{pod['metadata']['name']}: {answer}",
                )
        bed.test(NAMESPACE)
        fleet.memory("gateway", "an idle gateway with a tiny model")
        fleet.memory("controller", "the controller")
        yield fleet
        with report.step(f"{NAMESPACE}: helm uninstall"):
            cluster.uninstall(NAMESPACE, NAME)
    cluster.kubectl("delete", KIND, MODEL, f"--namespace={NAMESPACE}")
