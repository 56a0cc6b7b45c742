"""A new version of the program: all pods are replaced while clients read streams."""

from e2e.bed import LONG_TOKENS, NAME, version
from e2e.cluster import eventually
from e2e.console import check
from e2e.fleet import CONTROLLER, NAMESPACE, Fleet
from e2e.images.build import GATEWAY_REPOSITORY
from e2e.traffic import require_unnoticed


def run(fleet: Fleet) -> None:
    """`helm upgrade --wait` with another tag of the image."""
    cluster, report = fleet.cluster, fleet.report
    tag = f"{version()}-next"
    cluster.node.name_image(f"{GATEWAY_REPOSITORY}:{version()}", f"{GATEWAY_REPOSITORY}:{tag}")
    old = {pod["metadata"]["uid"] for pod in fleet.pods()}
    clients = fleet.traffic("before", clients=6, tokens=LONG_TOKENS, streams_only=True)
    try:
        with report.step(f"{NAMESPACE}: helm upgrade --wait to another image, under a load of streams"):
            clients.at_least(20)
            phase = clients.phase("upgrade")
            fleet.values = {**fleet.values, "image": {"tag": tag}, "podAnnotations": {"e2e": "upgraded"}}
            cluster.upgrade(NAMESPACE, NAME, fleet.values)
            for deployment in (NAME, CONTROLLER):
                cluster.rolled_out(NAMESPACE, deployment)
            # Helm is content when the new pods are ready; the load goes on until the last old one has ended.
            selector = "app.kubernetes.io/component=gateway"
            eventually(
                "the end of the old pods", lambda: len(cluster.list(NAMESPACE, "pods", selector)) == len(old)
            )
            clients.at_least(phase.requests + 50)
    finally:
        clients.stop()
    with report.step(f"{NAMESPACE}: no stream was cut"):
        report.number("pods replaced under streams", phase.line())
        pods = fleet.pods()
        check(not old & {pod["metadata"]["uid"] for pod in pods}, "an old pod is still there")
        images = {pod["spec"]["containers"][0]["image"] for pod in pods}
        check(images == {f"{GATEWAY_REPOSITORY}:{tag}"}, f"images of the pods: {images}")
        require_unnoticed(phase, requests=150, streams=150)
        clients.require_texts(fleet.expected(LONG_TOKENS))
        check(phase.connections >= len(old), "no client had to leave a pod that ended")
