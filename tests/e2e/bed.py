"""What the parts of the test share: the cluster, the models and what each answers, releases of the chart."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from e2e import traffic
from e2e.cluster import CHART, Cluster, eventually
from e2e.console import Report, check
from e2e.images.build import GATEWAY_REPOSITORY
from e2e.models import FIRST, SECOND, Models
from e2e.node.settings import SERVICE_NETWORK
from e2e.services import FILES_HOST, meta

TOKENS = 48
LONG_TOKENS = 200
NAME = "inference-gateway"
"""Of every release: then the chart gives its objects this name and nothing more."""


def values(**more: object) -> dict:
    """Settings that fit into a small node, and let models come from the server of files."""
    return {
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "settings": {
            "INFERENCE_THREADS": 1,
            "INFERENCE_SPINNING": False,
            "INFERENCE_INSECURE_HOSTS": FILES_HOST,
            "INFERENCE_ALLOWED_PRIVATE_NETWORKS": SERVICE_NETWORK,
        },
        **more,
    }


@dataclass
class Bed:
    """The cluster and what is known of the models."""

    cluster: Cluster
    report: Report
    models: Models
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    """What a model answers, by its name and the number of tokens."""

    def text(self, model: str, tokens: int = TOKENS) -> str:
        """What a model answers."""
        return self.texts[model, tokens]

    def ask(self, namespace: str, model: str, stream: bool = False) -> traffic.Answer:
        """One answer of a release."""
        address = self.cluster.service_address(namespace, NAME)
        return traffic.ask_once(address, traffic.question(model, stream, TOKENS))

    @staticmethod
    def ask_pod(pod: dict, model: str) -> traffic.Answer:
        """One answer of a pod."""
        return traffic.ask_once(pod["status"]["podIP"], traffic.question(model, False, TOKENS))

    def gateways(self, namespace: str) -> list[dict]:
        """The pods of the gateway that are not ending."""
        found = self.cluster.list(namespace, "pods", "app.kubernetes.io/component=gateway")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    @contextmanager
    def nothing_stays(self, namespace: str, *kept: str) -> Iterator[None]:
        """Around install and uninstall: afterwards there are the objects of before, and `kept` (patterns)."""
        before = self.cluster.everything()
        yield

        def left() -> set[str]:
            new = self.cluster.everything() - before
            return {one for one in new if not any(re.fullmatch(pattern, one) for pattern in kept)}

        with self.report.step(f"{namespace}: nothing stays but {', '.join(kept) or 'what was there'}"):
            eventually("the end of every object", lambda: not left(), seconds=90, pause=2)

    def test(self, namespace: str) -> None:
        """`helm test`."""
        with self.report.step(f"{namespace}: helm test"):
            printed = self.cluster.helm("test", NAME, f"--namespace={namespace}", "--logs", "--timeout=180s")
            check("Succeeded" in printed, f"helm test did not say that it succeeded: {printed}")


def learn_texts(bed: Bed) -> None:
    """Ask each model, from the folder of the host, in a pod that has nothing to do with the chart."""
    namespace, cluster = "reference", bed.cluster
    cluster.namespace(namespace, "privileged")
    spec: Mapping = {"inPlace": True}
    models = [{"name": name, "spec": {"source": {"path": name, **spec}}} for name in (FIRST, SECOND)]
    mounts = {"models": "/models", "list": "/list", "tmp": "/tmp"}
    variables = {
        "INFERENCE_MODELS_FILE": "/list/models.yaml",
        "INFERENCE_MODEL_ROOT": "/models",
        "INFERENCE_CACHE_DIR": "/tmp/cache",
        "INFERENCE_THREADS": "1",
        "INFERENCE_SPINNING": "false",
    }
    container = {
        "name": "gateway",
        "image": f"{GATEWAY_REPOSITORY}:{version()}",
        "args": ["serve"],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 3001}, "periodSeconds": 1},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    volumes = [
        {"name": "models", "hostPath": {"path": str(bed.models.folder)}},
        {"name": "list", "configMap": {"name": "models"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta("models", namespace),
            # JSON is YAML.
            "data": {"models.yaml": json.dumps(models)},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta("reference", namespace),
            "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1},
        },
    )
    cluster.kubectl(
        "wait", "--for=condition=Ready", "pod/reference", f"--namespace={namespace}", "--timeout=120s"
    )
    address = cluster.get(namespace, "pod", "reference")["status"]["podIP"]
    for name in (FIRST, SECOND):
        for tokens in (TOKENS, LONG_TOKENS):
            said = {
                traffic.ask_once(address, traffic.question(name, stream, tokens)).text
                for stream in (False, True)
            }
            check(len(said) == 1, f"{name} answers differently in a stream: {said}")
            bed.texts[name, tokens] = said.pop()
    check(bed.text(FIRST) != bed.text(SECOND), "two models that cannot be told apart")
    cluster.kubectl("delete", "namespace", namespace, "--timeout=60s")


def version() -> str:
    """The version of the program that the chart installs."""
    found = re.search(r'^appVersion:\s*"?([^"\s]+)"?', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    check(found is not None, "Chart.yaml has no appVersion")
    return found[1]
