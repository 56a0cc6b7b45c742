"""Who may use the API: keys from a Secret, users of the cluster, TLS from a Secret; each changed while it serves."""

import base64
import http.client
import json
import ssl

from e2e import services, traffic
from e2e.bed import NAME, TOKENS, Bed, values
from e2e.cluster import eventually
from e2e.console import check
from e2e.machine import TARGET
from e2e.models import FIRST
from e2e.node.certificates import Authority
from e2e.services import meta

NAMESPACE = "access"
OLD_KEY, NEW_KEY, OTHER_KEY = "old-key-of-a-team", "new-key-of-a-team", "key-of-another-team"
ROLES = "rbac.authorization.k8s.io"
OPS_PORT = 3001
ROTATION_SECONDS = 120
"""The kubelet looks at Secrets about once a minute."""


def run(bed: Bed) -> None:
    """One release, whose door changes by `helm upgrade`."""
    cluster, report = bed.cluster, bed.report
    cluster.namespace(NAMESPACE)
    cluster.apply(_keys(OLD_KEY), _secret("test-key", {"key": OLD_KEY}))
    with bed.nothing_stays(NAMESPACE, *_OURS):
        with report.step(f"{NAMESPACE}: helm install --wait with keys from a Secret"):
            cluster.install(NAMESPACE, NAME, _values(_KEYS))
        _keys_open(bed)
        bed.test(NAMESPACE)
        _keys_rotate(bed)
        with report.step(f"{NAMESPACE}: helm upgrade --wait to users of the cluster, also for the metrics"):
            cluster.apply(*_users())
            cluster.upgrade(NAMESPACE, NAME, _values({"auth": {"mode": "kubernetes", "metrics": "kubernetes"}}))
        _roles_open(bed)
        authority = Authority(TARGET / "access", "access-ca")
        with report.step(f"{NAMESPACE}: helm upgrade --wait to TLS from a Secret"):
            cluster.apply(_certificate(bed, authority, "first"))
            cluster.upgrade(NAMESPACE, NAME, _values({"auth": _KEYS["auth"], "tls": {"secretName": "certificate"}}))
        bed.test(NAMESPACE)
        _tls_changes(bed, authority)
        with report.step(f"{NAMESPACE}: helm uninstall"):
            cluster.uninstall(NAMESPACE, NAME)


_KEYS = {
    "auth": {"mode": "apiKeys", "keys": {"secretName": "gateway-keys"}},
    "tests": {"keySecret": {"name": "test-key"}},
}
_OURS = (
    f"Secret {NAMESPACE}/certificate",
    f"ServiceAccount {NAMESPACE}/(user|stranger)",
    f"Role(Binding)? {NAMESPACE}/chat-user",
    "ClusterRole(Binding)? /access-metrics",
)


def _values(door: dict) -> dict:
    source = f"{services.FILES_SERVER}/{FIRST}/manifest.json"
    return values(mode="env", model={"name": "chat", "source": source}, **door)


def _keys_open(bed: Bed) -> None:
    with bed.report.step(f"{NAMESPACE}: who has a key comes in, to its models"):
        body = traffic.question("chat", False, TOKENS)
        check(_status(bed, None, body) == 401, "a request without a key came in")
        check(_status(bed, "no-key-of-anybody", body) == 401, "a wrong key came in")
        check(_status(bed, OTHER_KEY, body) == 403, "a key came to a model that is not its own")
        eventually("an answer to the key", lambda: _status(bed, OLD_KEY, body) == 200, seconds=20)
        check(_text(bed, OLD_KEY) == bed.text(FIRST), "it answers as another model")
        address = bed.gateways(NAMESPACE)[0]["status"]["podIP"]
        for path in ("/healthz", "/readyz"):
            check(_ask(address, OPS_PORT, "GET", path)[0] == 200, f"{path} is closed")


def _keys_rotate(bed: Bed) -> None:
    with bed.report.step(f"{NAMESPACE}: a key is replaced in the Secret, and no pod is"):
        before = _pods(bed)
        body = traffic.question("chat", False, TOKENS)
        # Both hold first, as clients would have it.
        bed.cluster.apply(_keys(OLD_KEY, NEW_KEY))
        eventually("the new key", lambda: _status(bed, NEW_KEY, body) == 200, seconds=ROTATION_SECONDS, pause=1)
        check(_status(bed, OLD_KEY, body) == 200, "the old key went before it was taken out")
        bed.cluster.apply(_keys(NEW_KEY))
        eventually("the end of the old key", lambda: _status(bed, OLD_KEY, body) == 401, seconds=ROTATION_SECONDS, pause=1)
        check(_status(bed, NEW_KEY, body) == 200, "the new key does not hold alone")
        check(_pods(bed) == before, "a pod was replaced or began anew")


def _roles_open(bed: Bed) -> None:
    with bed.report.step(f"{NAMESPACE}: roles of the cluster say who comes in, and who reads the metrics"):
        tokens = {name: bed.cluster.kubectl("create", "token", name, f"--namespace={NAMESPACE}").strip() for name in ("user", "stranger")}
        body = traffic.question("chat", False, TOKENS)
        eventually("an answer to the user", lambda: _status(bed, tokens["user"], body) == 200, seconds=20)
        check(_status(bed, tokens["stranger"], body) == 403, "a user without the role came in")
        check(_status(bed, NEW_KEY, body) == 401, "a key that is no token came in")
        address = bed.gateways(NAMESPACE)[0]["status"]["podIP"]
        for port in (traffic.PORT, OPS_PORT):
            seen = {name: _ask(address, port, "GET", "/metrics", token)[0] for name, token in {**tokens, "nobody": None}.items()}
            check(seen == {"user": 200, "stranger": 403, "nobody": 401}, f"/metrics at port {port}: {seen}")


def _tls_changes(bed: Bed, authority: Authority) -> None:
    with bed.report.step(f"{NAMESPACE}: it speaks TLS, and a new certificate is used without a new pod"):
        before = _pods(bed)
        trust = ssl.create_default_context(cafile=authority.certificate)
        check(_text(bed, NEW_KEY, trust) == bed.text(FIRST), "it answers as another model")
        first = _serial(bed, trust)
        bed.cluster.apply(_certificate(bed, authority, "second"))
        eventually("the new certificate", lambda: _serial(bed, trust) != first, seconds=ROTATION_SECONDS, pause=1)
        check(_status(bed, NEW_KEY, traffic.question("chat", True, TOKENS), trust) == 200, "it does not answer any more")
        check(_pods(bed) == before, "a pod was replaced or began anew")


def _ask(
    address: str, port: int, method: str, path: str, key: str | None = None, body: dict | None = None, trust: ssl.SSLContext | None = None
) -> tuple[int, str]:
    seconds = traffic.ANSWER_SECONDS
    if trust is None:
        connection = http.client.HTTPConnection(address, port, timeout=seconds)
    else:
        connection = http.client.HTTPSConnection(address, port, timeout=seconds, context=trust)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _generate(bed: Bed, key: str | None, body: dict, trust: ssl.SSLContext | None) -> tuple[int, str]:
    address = bed.cluster.service_address(NAMESPACE, NAME)
    return _ask(address, traffic.PORT, "POST", "/api/v1/inference", key, body, trust)


def _status(bed: Bed, key: str | None, body: dict, trust: ssl.SSLContext | None = None) -> int:
    return _generate(bed, key, body, trust)[0]


def _text(bed: Bed, key: str, trust: ssl.SSLContext | None = None) -> str:
    return json.loads(_generate(bed, key, traffic.question("chat", False, TOKENS), trust)[1])["generated_text"]


def _serial(bed: Bed, trust: ssl.SSLContext) -> str:
    address = bed.cluster.service_address(NAMESPACE, NAME)
    connection = http.client.HTTPSConnection(address, traffic.PORT, timeout=traffic.ANSWER_SECONDS, context=trust)
    try:
        connection.connect()
        return connection.sock.getpeercert()["serialNumber"]
    finally:
        connection.close()


def _pods(bed: Bed) -> list[tuple[str, int]]:
    return sorted(
        (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]) for pod in bed.gateways(NAMESPACE)
    )


def _secret(name: str, content: dict[str, str], kind: str = "Opaque") -> dict:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta(name, NAMESPACE), "type": kind, "data": data}


def _keys(*keys: str) -> dict:
    entries = [
        {"name": "team", "key": list(keys), "models": ["chat"], "requestsPerMinute": 6000},
        {"name": "other", "key": OTHER_KEY, "models": ["another"]},
    ]
    # JSON is YAML.
    return _secret("gateway-keys", {"keys.yaml": json.dumps({"keys": entries})})


def _certificate(bed: Bed, authority: Authority, name: str) -> dict:
    address = bed.cluster.service_address(NAMESPACE, NAME)
    authority.issue(name, "/CN=gateway", "serverAuth", f"IP:{address},DNS:{NAME}")
    files = {"tls.crt": f"{name}.crt", "tls.key": f"{name}.key"}
    content = {key: (authority.folder / file).read_text() for key, file in files.items()}
    return _secret("certificate", content, "kubernetes.io/tls")


def _users() -> list[dict]:
    """A user who may ask for `chat` and read metrics, and one who may nothing."""
    generate = {"apiGroups": ["inference-gateway.io"], "resources": ["models/generate"], "resourceNames": ["chat"], "verbs": ["create"]}
    read = {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": "user", "namespace": NAMESPACE}

    def bound(prefix: str, metadata: dict, rule: dict) -> list[dict]:
        reference = {"apiGroup": ROLES, "kind": f"{prefix}Role", "name": metadata["name"]}
        return [
            {"apiVersion": f"{ROLES}/v1", "kind": f"{prefix}Role", "metadata": metadata, "rules": [rule]},
            {
                "apiVersion": f"{ROLES}/v1",
                "kind": f"{prefix}RoleBinding",
                "metadata": metadata,
                "roleRef": reference,
                "subjects": [subject],
            },
        ]

    accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name, NAMESPACE)} for name in ("user", "stranger")]
    return [*accounts, *bound("", meta("chat-user", NAMESPACE), generate), *bound("Cluster", meta("access-metrics"), read)]
