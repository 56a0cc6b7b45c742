"""A real Prometheus in the cluster, configured from our ServiceMonitor by prometheus-operator's generator."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from e2e.bed import NAME
from e2e.cluster import CHART, eventually
from e2e.console import CheckFailed, check
from e2e.fleet import MODEL, NAMESPACE, REPLICAS, Fleet
from e2e.images.build import PROMETHEUS_IMAGE
from e2e.machine import program
from e2e.models import FIRST, SECOND
from e2e.services import CONTAINER_SECURITY, POD_SECURITY, meta, role_for

MONITORING = "monitoring"
PORT = 9090
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$__interval": "15s"}


def run(fleet: Fleet) -> None:
    """Scrape everything, change the model, and ask for both revisions; then every query of the dashboard."""
    cluster, report = fleet.cluster, fleet.report
    fleet.apply(fleet.spec(FIRST))
    first = fleet.rolled_out(FIRST)
    with report.step(
        f"{MONITORING}: a Prometheus with the configuration that the operator makes of the ServiceMonitor"
    ):
        cluster.namespace(MONITORING)
        cluster.apply(*_prometheus(_configuration(fleet)))
        wait = [
            "wait",
            "--for=condition=Ready",
            "pod/prometheus",
            f"--namespace={MONITORING}",
            "--timeout=120s",
        ]
        cluster.kubectl(*wait)
    address = cluster.get(MONITORING, "pod", "prometheus")["status"]["podIP"]
    try:
        with report.step(f"{MONITORING}: it scrapes every gateway and the controller"):
            expected = {pod["metadata"]["name"] for pod in fleet.pods()}
            selector = "app.kubernetes.io/component=controller"
            expected |= {pod["metadata"]["name"] for pod in cluster.list(NAMESPACE, "pods", selector)}
            check(len(expected) == REPLICAS + 1, f"pods: {expected}")
            eventually("all targets up", lambda: _up(address) == expected, seconds=60)
        with report.step(f"{MONITORING}: a query gives the revision of each pod, before and after an update"):
            eventually("the first revision", lambda: _revisions(address) == {first: REPLICAS}, seconds=30)
            fleet.apply(fleet.spec(SECOND))
            second = fleet.rolled_out(SECOND)
            eventually("the second revision", lambda: _revisions(address) == {second: REPLICAS}, seconds=30)
            over_time = (
                f'count by (revision) (count_over_time(inference_gateway_model_info{{model="{MODEL}"}}[30m]))'
            )
            seen = {one["metric"]["revision"] for one in _query(address, over_time)}
            check({first, second} <= seen, f"{over_time} gave {seen}")
            report.number("revisions that Prometheus saw", ", ".join(sorted(seen)))
        with report.step(
            f"{MONITORING}: every query of the dashboard is understood, and those of a gateway have results"
        ):
            clients = fleet.traffic("dashboard", clients=2)
            try:
                # A rate needs two scrapes.
                clients.at_least(50)
                time.sleep(5)
                queries = list(_dashboard_queries())
                empty = [query for query in queries if not _query(address, query)]
            finally:
                clients.stop()
            filled = len(queries) - len(empty)
            report.number("queries of the dashboard", f"{len(queries)}, {filled} with results")
            check(len(queries) > 0 and filled >= len(queries) // 2, f"without results: {empty}")
    finally:
        cluster.kubectl("delete", "namespace", MONITORING, "--timeout=60s")
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", "prometheus")


def _configuration(fleet: Fleet) -> str:
    """Of the ServiceMonitor as the chart renders it for this very release."""
    values = {**fleet.values, "serviceMonitor": {"enabled": True, "interval": "2s", "scrapeTimeout": "2s"}}
    template = ["template", NAME, str(CHART), f"--namespace={NAMESPACE}"]
    rendered = fleet.cluster.helm(*template, "--show-only=templates/servicemonitor.yaml", values=values)
    command = [program("scrape-config"), "-namespace", NAMESPACE]
    done = subprocess.run(command, input=rendered, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckFailed(f"scrape-config: {done.stderr.strip()}")
    return done.stdout


def _prometheus(configuration: str) -> list[dict]:
    rules = [
        {
            "apiGroups": [""],
            "resources": ["services", "endpoints", "pods"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["get", "list", "watch"],
        },
    ]
    container = {
        "name": "prometheus",
        "image": PROMETHEUS_IMAGE,
        "args": ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "securityContext": {**CONTAINER_SECURITY, "readOnlyRootFilesystem": True},
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    pod = {
        "serviceAccountName": "prometheus",
        "securityContext": {**POD_SECURITY, "fsGroup": 65532},
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "volumes": [
            {"name": "configuration", "configMap": {"name": "prometheus"}},
            {"name": "data", "emptyDir": {}},
        ],
    }
    data = {"prometheus.yml": configuration}
    return [
        *role_for("prometheus", MONITORING, rules),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("prometheus", MONITORING), "data": data},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta("prometheus", MONITORING), "spec": pod},
    ]


def _up(address: str) -> set[str]:
    """Names of the pods whose last scrape was good."""
    return {one["metric"]["pod"] for one in _query(address, "up == 1")}


def _revisions(address: str) -> dict[str, int]:
    """How many pods serve each revision of the model now."""
    found = _query(address, f'count by (revision) (inference_gateway_model_info{{model="{MODEL}"}})')
    return {one["metric"]["revision"]: int(one["value"][1]) for one in found}


def _query(address: str, query: str) -> list[dict]:
    url = f"http://{address}:{PORT}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise CheckFailed(f"Prometheus refuses {query}: {error.read().decode()}") from None
    except OSError as error:
        raise CheckFailed(f"Prometheus does not answer: {error}") from None


def _dashboard_queries() -> Iterator[str]:
    """Each query of the dashboard for everything that there is."""

    def expressions(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            if "expr" in part:
                yield part["expr"]
            for below in part.values():
                yield from expressions(below)
        elif isinstance(part, list):
            for below in part:
                yield from expressions(below)

    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    variables = VARIABLES | {f"${one['name']}": ".*" for one in dashboard["templating"]["list"]}
    for query in dict.fromkeys(expressions(dashboard)):
        for name in sorted(variables, key=len, reverse=True):
            query = query.replace(name, variables[name])
        yield query
