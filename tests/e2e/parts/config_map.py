"""Mode `configMap`: a list of models in a mounted ConfigMap, which pods follow without being replaced."""

from e2e.bed import NAME, TOKENS, Bed, values
from e2e.cluster import eventually
from e2e.console import check
from e2e.models import FIRST, SECOND
from e2e.services import meta
from e2e.traffic import Traffic, require_unnoticed

NAMESPACE = "mode-configmap"
CLAIM = "models"
SIZE = {"storage": "1Gi"}


def folder_of_the_host(bed: Bed) -> list[dict]:
    """A volume over the host's folder and a claim to it: what the restricted standard lets a pod mount."""
    volume = {
        "storageClassName": "",
        "capacity": SIZE,
        "accessModes": ["ReadOnlyMany"],
        "hostPath": {"path": str(bed.models.folder), "type": "Directory"},
        "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
    }
    claim = {
        "storageClassName": "",
        "accessModes": ["ReadOnlyMany"],
        "resources": {"requests": SIZE},
        "volumeName": CLAIM,
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta(CLAIM), "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": meta(CLAIM, NAMESPACE),
            "spec": claim,
        },
    ]


def run(bed: Bed) -> None:
    """Install, test, change the list under load, uninstall."""
    cluster, report = bed.cluster, bed.report
    cluster.namespace(NAMESPACE)
    cluster.apply(*folder_of_the_host(bed))

    def settings(model: str) -> dict:
        return values(
            mode="configMap",
            replicaCount=2,
            models=[{"name": "chat", "spec": {"source": {"path": model}}}],
            modelRoot={"type": "persistentVolumeClaim", "persistentVolumeClaim": {"existingClaim": CLAIM}},
        )

    with bed.nothing_stays(NAMESPACE):
        with report.step(f"{NAMESPACE}: helm install --wait, model from a volume over a folder of the host"):
            cluster.install(NAMESPACE, NAME, settings(FIRST))
        bed.test(NAMESPACE)
        traffic = Traffic(cluster.service_address(NAMESPACE, NAME), "chat", clients=4, tokens=TOKENS).start(
            "before"
        )
        try:
            traffic.at_least(40)
            with report.step(f"{NAMESPACE}: helm upgrade --wait with another model, under load"):
                phase = traffic.phase("update")
                pods = {pod["metadata"]["uid"] for pod in bed.gateways(NAMESPACE)}
                cluster.upgrade(NAMESPACE, NAME, settings(SECOND))
                # The kubelet brings a changed ConfigMap to its pods within about a minute and a half.
                eventually("the second model alone", lambda: _all_serve(bed, SECOND), seconds=150, pause=1)
                same = {pod["metadata"]["uid"] for pod in bed.gateways(NAMESPACE)}
                check(same == pods, f"pods were replaced: {pods} and now {same}")
                traffic.at_least(300)
        finally:
            traffic.stop()
        with report.step(f"{NAMESPACE}: no request failed, and no pod was replaced"):
            report.number("list changed under load", phase.line())
            require_unnoticed(phase, requests=300, streams=100)
            check(len(phase.revisions()) == 2, "the update was not under this load")
            check(traffic.texts_seen() == {bed.text(FIRST), bed.text(SECOND)}, "texts of no model")
        with report.step(f"{NAMESPACE}: helm uninstall"):
            cluster.uninstall(NAMESPACE, NAME)
    cluster.kubectl("delete", "persistentvolumeclaim", CLAIM, f"--namespace={NAMESPACE}")
    cluster.kubectl("delete", "persistentvolume", CLAIM)


def _all_serve(bed: Bed, model: str) -> bool:
    return all(bed.ask_pod(pod, "chat").text == bed.text(model) for pod in bed.gateways(NAMESPACE))
