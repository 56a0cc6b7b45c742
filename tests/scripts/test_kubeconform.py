"""The real kubeconform with the real schemas takes manifests that are right, and refuses each mistake."""

import copy
import subprocess
import unittest

import checkout
import yaml

KUBECONFORM = checkout.ROOT / "prepared" / "tools" / "kubeconform"
SCHEMAS = checkout.ROOT / "prepared" / "schemas"

RIGHT = """
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: a, labels: {x: z}}
spec:
  selector: {matchLabels: {app: x}}
  endpoints: [{port: ops, interval: 15s, relabelings: [{sourceLabels: [a], targetLabel: b}]}]
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: a}
spec: {selector: {}, podMetricsEndpoints: [{port: ops}]}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: a}
spec: {groups: [{name: g, rules: [{alert: A, expr: up == 0, for: 5m}, {record: "a:b", expr: 1}]}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: a}
spec: {scaleTargetRef: {name: d}, triggers: [{type: prometheus, metadata: {query: q, threshold: "5"}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{name: gateway}]
  rules: [{matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: s, port: 3000}]}]
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: a}
spec:
  selector: {matchLabels: {app: x}}
  targetPorts: [{number: 3000}]
  endpointPickerRef: {name: picker, port: {number: 9002}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  selector: {matchLabels: {a: b}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: "0%"}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: c, resources: {requests: {cpu: 1, memory: 1Gi}}}]}
---
apiVersion: inference-gateway.io/v1alpha1
kind: Model
metadata: {name: a}
spec: {source: {path: a}}
"""
WRONG = (
    ("ServiceMonitor", "metadata", {"label": {}}),
    ("ServiceMonitor", "spec/endpoints/0", {"interval": "banana"}),
    ("ServiceMonitor", "spec/endpoints/0", {"intervall": "15s"}),
    ("PodMonitor", "spec", {"endpoints": []}),
    ("PrometheusRule", "spec/groups/0/rules/0", {"form": "5m"}),
    ("ScaledObject", "spec", {"minReplicaCount": "a"}),
    ("HTTPRoute", "spec/rules/0/backendRefs/0", {"port": 99999}),
    ("HTTPRoute", "spec/rules/0/matches/0/path", {"type": "Prefix"}),
    ("InferencePool", "spec", {"extensionRef": {}}),
    ("InferencePool", "spec", {"targetPorts": [{"number": "http"}]}),
    ("Deployment", "spec/strategy/rollingUpdate", {"maxSurge": [1]}),
    ("Deployment", "spec/template/spec/containers/0", {"imagePullPolcy": "Never"}),
    ("Deployment", "spec/template/metadata", {"annotations": {"a": 1}}),
    ("Model", "spec", {"source": "a"}),
)
"""A kind above, where in it, and what is put there."""


class KubeconformTest(unittest.TestCase):
    def setUp(self) -> None:
        if not (KUBECONFORM.exists() and SCHEMAS.exists()):
            self.fail(f"{KUBECONFORM} or {SCHEMAS} is missing: python3 scripts/prepare.py tools")

    def answer(self, manifests: str) -> tuple[int, str]:
        """Exit status and output of kubeconform."""
        location = f"{SCHEMAS}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        command = [KUBECONFORM, "-strict", "-schema-location", location, "-"]
        done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_manifests_that_are_right_are_taken(self) -> None:
        self.assertEqual(self.answer(RIGHT), (0, ""))

    def test_each_mistake_is_refused(self) -> None:
        right = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(RIGHT)}
        for kind, place, mistake in WRONG:
            with self.subTest(f"{kind} {place} {mistake}"):
                manifest = copy.deepcopy(right[kind])
                part = manifest
                for name in place.split("/"):
                    part = part[int(name) if name.isdigit() else name]
                part |= mistake
                status, output = self.answer(yaml.dump(manifest))
                self.assertEqual(status, 1, output)
                self.assertIn("jsonschema validation failed", output)

    def test_a_kind_without_a_schema_is_refused(self) -> None:
        status, output = self.answer("{apiVersion: example.org/v1, kind: Nothing, metadata: {name: a}}")
        self.assertEqual(status, 1)
        self.assertIn("could not find schema for Nothing", output)


if __name__ == "__main__":
    unittest.main()
