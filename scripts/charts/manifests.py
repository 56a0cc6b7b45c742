"""manifests/: what the chart renders, for people who use `kubectl apply` and no helm."""

import re
import subprocess
from pathlib import Path

from charts.copies import CHARTS, GATEWAY

NAMESPACE = "inference-gateway"
MADE = "# Rendered from charts/ by `make generate`.\n"
# Nobody but helm looks for these.
OF_HELM = re.compile(r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE)

NAMESPACE_OBJECT = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    # All pods here keep to the strictest of the standards.
    pod-security.kubernetes.io/enforce: restricted
"""

MODES = {
    "install.yaml": (
        "Gateway and controller for Model objects, with the definitions of these (mode crd of the chart).",
        ("--set=crds.keep=false",),
    ),
    "install-configmap.yaml": (
        "A gateway that serves the list in the ConfigMap inference-gateway-models (mode configMap).",
        (
            "--set=mode=configMap",
            '--set-json=models=[{"name": "gpt2", "spec": '
            '{"source": {"hf": {"repo": "openai-community/gpt2"}}}}]',
        ),
    ),
    "install-env.yaml": (
        "A gateway that serves one model, named by variables (mode env of the chart).",
        ("--set=mode=env", "--set=model.name=gpt2", "--set=model.source=hf://openai-community/gpt2"),
    ),
}

RIGHTS = {
    "rbac/gateway.yaml": ("gateway-role.yaml", ()),
    "rbac/controller.yaml": ("controller-role.yaml", ()),
    "rbac/lease.yaml": ("controller-lease.yaml", ()),
    # One for the whole cluster: by hand nobody makes one for each namespace.
    "rbac/status-policy.yaml": ("status-policy.yaml", ("--set=admissionPolicy.allNamespaces=true",)),
}

MONITORING = {
    "monitoring/servicemonitor.yaml": ("servicemonitor.yaml", "serviceMonitor"),
    "monitoring/podmonitor.yaml": ("podmonitor.yaml", "podMonitor"),
    "monitoring/prometheusrule.yaml": ("prometheusrule.yaml", "prometheusRule"),
    "monitoring/dashboard.yaml": ("dashboard.yaml", "dashboard"),
}


class HelmError(Exception):
    """helm is not there, or it could not render."""


def helm(root: Path, *arguments: str) -> str:
    """What helm prints."""
    program = root / "prepared" / "tools" / "helm"
    if not program.exists():
        raise HelmError("helm is missing in prepared/tools: run `python3 scripts/prepare.py tools`")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HelmError(f"helm {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def render(root: Path, chart: str, *arguments: str) -> str:
    """The objects of a release named as its namespace, without what only helm needs."""
    common = ("template", NAMESPACE, str(root / chart), f"--namespace={NAMESPACE}", "--skip-tests")
    rendered = helm(root, *common, *arguments)
    rendered = re.sub(r"^# Source: .*\n", "", rendered, flags=re.MULTILINE)
    return without_empty_documents(OF_HELM.sub("", rendered))


def without_empty_documents(text: str) -> str:
    documents = re.split(r"^---\n", text, flags=re.MULTILINE)
    return "---\n".join(document.strip("\n") + "\n" for document in documents if document.strip())


def manifests(root: Path) -> dict[str, str]:
    """Text by path of all rendered manifests."""
    files = {}
    for name, (what, arguments) in MODES.items():
        objects = render(root, GATEWAY, *arguments)
        files[f"manifests/{name}"] = f"# {what}\n{MADE}{NAMESPACE_OBJECT}---\n{objects}"
    definitions = render(root, CHARTS[1], "--set=keep=false")
    files["manifests/crds.yaml"] = f"# The definitions of Model and ModelReplica alone.\n{MADE}{definitions}"
    for name, (template, arguments) in RIGHTS.items():
        rendered = render(root, GATEWAY, f"--show-only=templates/{template}", *arguments)
        # Whoever applies it says where.
        files[f"manifests/{name}"] = re.sub(r"^  namespace: .*\n", "", rendered, flags=re.MULTILINE)
    for name, (template, value) in MONITORING.items():
        arguments = (f"--show-only=templates/{template}", f"--set={value}.enabled=true")
        files[f"manifests/{name}"] = MADE + render(root, GATEWAY, *arguments)
    return files
