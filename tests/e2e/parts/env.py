"""Mode `env`: one model, named in the values."""

from e2e import services
from e2e.bed import NAME, Bed, values
from e2e.cluster import eventually
from e2e.console import check
from e2e.models import FIRST, SECOND


def from_the_cluster(bed: Bed) -> None:
    """The model comes from the server of files."""
    namespace, cluster, report = "mode-env", bed.cluster, bed.report
    cluster.namespace(namespace)

    def settings(model: str) -> dict:
        source = f"{services.FILES_SERVER}/{model}/manifest.json"
        return values(mode="env", model={"name": "chat", "source": source})

    with bed.nothing_stays(namespace):
        with report.step(f"{namespace}: helm install --wait, model from a server of files in the cluster"):
            cluster.install(namespace, NAME, settings(FIRST))
        _answers(bed, namespace, FIRST)
        with report.step(f"{namespace}: the pod fetched every file from there"):
            address = bed.gateways(namespace)[0]["status"]["podIP"]
            asked = [line for line in services.requests_of_files(cluster) if address in line]
            for file in ("manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"):
                check(
                    any(line.endswith(f"/{FIRST}/{file}") for line in asked),
                    f"nobody asked for {file}: {asked}",
                )
        bed.test(namespace)
        with report.step(f"{namespace}: helm upgrade --wait to another model, which replaces the pod"):
            cluster.upgrade(namespace, NAME, settings(SECOND))
        _answers(bed, namespace, SECOND)
        with report.step(f"{namespace}: helm uninstall"):
            cluster.uninstall(namespace, NAME)


def from_the_host(bed: Bed) -> None:
    """The model lies in a folder of the node, which only an unrestricted namespace may mount directly."""
    namespace, cluster, report = "host-path", bed.cluster, bed.report
    cluster.namespace(namespace, "privileged")
    settings = values(
        mode="env",
        model={"name": "chat", "source": f"/models/{FIRST}"},
        modelRoot={"type": "hostPath", "hostPath": {"path": str(bed.models.folder)}},
    )
    with bed.nothing_stays(namespace):
        with report.step(f"{namespace}: helm install --wait, model from a folder of the host"):
            cluster.install(namespace, NAME, settings)
        _answers(bed, namespace, FIRST)
        bed.test(namespace)
        with report.step(f"{namespace}: helm uninstall"):
            cluster.uninstall(namespace, NAME)


def _answers(bed: Bed, namespace: str, model: str) -> None:
    with bed.report.step(f"{namespace}: it answers as {model}, in a stream and whole"):
        # Rules of the Service may still lead to the last pod of the model before.
        eventually("its text", lambda: bed.ask(namespace, "chat").text == bed.text(model), seconds=20)
        streamed = bed.ask(namespace, "chat", stream=True).text
        check(streamed == bed.text(model), f"a stream says {streamed!r}")
