"""scrape-config against monitors written by hand: what Prometheus is told, and that promtool takes it.

    prepared/venv/bin/python -m unittest discover --start-directory tests/e2e
"""

import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRAPE_CONFIG = ROOT / "prepared" / "node" / "scrape-config"
PROMTOOL = ROOT / "prepared" / "tools" / "promtool"

SERVICE_MONITOR = """
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: gateway}
spec:
  jobLabel: app.kubernetes.io/name
  selector: {matchLabels: {app.kubernetes.io/name: inference-gateway}}
  endpoints:
  - port: ops
    interval: 15s
    relabelings: [{sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: node}]
    metricRelabelings: [{action: drop, sourceLabels: [__name__], regex: unwanted}]
"""
POD_MONITOR = """
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: controller, namespace: elsewhere}
spec: {selector: {matchLabels: {a: b}}, podMetricsEndpoints: [{port: ops, path: /metrics}]}
"""
PROMETHEUS = """
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: outside}
spec:
  serviceDiscoveryRole: EndpointSlice
  apiserverConfig: {host: "https://10.1.2.3:6443", tlsConfig: {caFile: /pki/ca.crt}}
"""
SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: passed-over}}"


class ScrapeConfigTest(unittest.TestCase):
    def setUp(self) -> None:
        for program, target in ((SCRAPE_CONFIG, "node"), (PROMTOOL, "tools")):
            if not program.exists():
                self.fail(f"{program} is missing: python3 scripts/prepare.py {target}")

    def run_with(self, *manifests: str) -> subprocess.CompletedProcess[str]:
        command = [SCRAPE_CONFIG, "-namespace", "models"]
        text = "\n---\n".join(manifests)
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def configuration(self, *manifests: str) -> dict:
        """What Prometheus is told, after promtool took it."""
        done = self.run_with(*manifests)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(done.stdout)
            file.flush()
            command = [PROMTOOL, "check", "config", "--syntax-only", file.name]
            checked = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        return yaml.safe_load(done.stdout)

    def test_a_service_monitor_becomes_a_job_on_its_endpoint_slices(self) -> None:
        [job] = self.configuration(SERVICE, SERVICE_MONITOR)["scrape_configs"]
        self.assertEqual(job["job_name"], "serviceMonitor/models/gateway/0")
        self.assertEqual(job["scrape_interval"], "15s")
        [discovery] = job["kubernetes_sd_configs"]
        self.assertEqual(discovery, {"role": "endpointslice", "namespaces": {"names": ["models"]}})
        kept = [rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"]
        self.assertEqual(kept[:2], ["(inference-gateway);true", "ops"])
        self.assertEqual(kept[2], "0;|.+;.+", "the one shard")
        self.assertIn("node", [rule.get("target_label") for rule in job["relabel_configs"]])
        self.assertEqual(job["metric_relabel_configs"][0]["regex"], "unwanted")

    def test_a_pod_monitor_becomes_a_job_on_pods(self) -> None:
        configuration = self.configuration(POD_MONITOR, SERVICE_MONITOR)
        job = {job["job_name"]: job for job in configuration["scrape_configs"]}["podMonitor/elsewhere/controller/0"]
        [discovery] = job["kubernetes_sd_configs"]
        self.assertEqual(discovery, {"role": "pod", "namespaces": {"names": ["elsewhere"]}})

    def test_a_prometheus_outside_the_cluster_is_told_where_the_apiserver_is(self) -> None:
        [job] = self.configuration(PROMETHEUS, SERVICE_MONITOR)["scrape_configs"]
        [discovery] = job["kubernetes_sd_configs"]
        self.assertEqual(discovery["api_server"], "https://10.1.2.3:6443")
        self.assertEqual(discovery["tls_config"], {"ca_file": "/pki/ca.crt"})

    def test_a_mistake_is_an_error(self) -> None:
        for manifest, expected in (
            (SERVICE, "no ServiceMonitor and no PodMonitor"),
            (SERVICE_MONITOR.replace("interval", "intervall"), 'unknown field "intervall"'),
        ):
            done = self.run_with(manifest)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(expected, done.stderr)


if __name__ == "__main__":
    unittest.main()
