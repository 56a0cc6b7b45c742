"""What every cluster has, names, and a host of models: a server of files in a namespace of its own."""

from e2e.cluster import Cluster
from e2e.images.build import COREDNS_IMAGE, FILES_IMAGE
from e2e.node.settings import DNS_ADDRESS, DOMAIN

FILES_NAMESPACE = "files"
FILES_HOST = f"files.{FILES_NAMESPACE}.svc.{DOMAIN}"
FILES_SERVER = f"http://{FILES_HOST}"
# A pod of the restricted standard, from an image that says which user it is.
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

COREFILE = f"""
.:53 {{
  errors
  ready
  kubernetes {DOMAIN} in-addr.arpa ip6.arpa
  cache 5
}}
"""


def meta(name: str, namespace: str | None = None, **labels: str) -> dict:
    """Metadata of an object."""
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        **({"labels": labels} if labels else {}),
    }


def deployment(name: str, namespace: str, pod: dict) -> dict:
    """One pod that is kept."""
    template = {"metadata": {"labels": {"app": name}}, "spec": {"securityContext": POD_SECURITY, **pod}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(name, namespace), "spec": spec}


def service(name: str, namespace: str, ports: list[dict], **spec: str) -> dict:
    """A Service of the Deployment of the same name."""
    content = {"selector": {"app": name}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name, namespace), "spec": content}


def role_for(name: str, namespace: str, rules: list[dict]) -> list[dict]:
    """A service account that may read so much of the whole cluster."""
    group = "rbac.authorization.k8s.io"
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name, namespace)},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": meta(name), "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": meta(name),
            "roleRef": reference,
            "subjects": [subject],
        },
    ]


def start(cluster: Cluster) -> None:
    """CoreDNS and the server of files."""
    reading = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": reading},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": reading},
    ]
    # Port 53 of a pod is free for everybody since the kernel's setting is the container's own.
    names = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "securityContext": {
            **POD_SECURITY,
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [
            {
                "name": "coredns",
                "image": COREDNS_IMAGE,
                "args": ["-conf", "/etc/coredns/Corefile"],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns"}],
            }
        ],
        "volumes": [{"name": "settings", "configMap": {"name": "coredns"}}],
    }
    ports = [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    cluster.apply(
        *role_for("coredns", "kube-system", rules),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta("coredns", "kube-system"),
            "data": {"Corefile": COREFILE},
        },
        deployment("coredns", "kube-system", names),
        service("coredns", "kube-system", ports, clusterIP=DNS_ADDRESS),
    )
    files = {
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "files",
                "image": FILES_IMAGE,
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
                "securityContext": CONTAINER_SECURITY,
            }
        ],
    }
    cluster.namespace(FILES_NAMESPACE)
    cluster.apply(
        deployment("files", FILES_NAMESPACE, files),
        service("files", FILES_NAMESPACE, [{"port": 80, "targetPort": 8080}]),
    )
    cluster.rolled_out("kube-system", "coredns")
    cluster.rolled_out(FILES_NAMESPACE, "files")


def requests_of_files(cluster: Cluster) -> list[str]:
    """Every request that the server of files had, as `ADDRESS METHOD PATH`."""
    return cluster.kubectl("logs", "deployment/files", f"--namespace={FILES_NAMESPACE}").splitlines()
