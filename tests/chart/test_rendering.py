"""Every set of values that the chart ships renders to objects that an apiserver would take."""

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

import chart

EVERYTHING = f"--values={chart.GATEWAY}/ci/everything-values.yaml"
KEDA = f"--values={chart.GATEWAY}/ci/keda-values.yaml"


class RenderingTest(unittest.TestCase):
    def test_helm_finds_nothing_to_complain_about(self) -> None:
        self.assertGreaterEqual(len(chart.VALUES), 6)
        for path in chart.VALUES:
            with self.subTest(path.name):
                chart.run("helm", "lint", "--strict", chart.GATEWAY, "-f", path)
        chart.run("helm", "lint", "--strict", chart.GATEWAY, chart.DEFINITIONS)

    def test_all_objects_fit_their_schemas(self) -> None:
        for path in chart.VALUES:
            with self.subTest(path.name):
                self.assertIn(
                    "Invalid: 0, Errors: 0, Skipped: 0", chart.validate(chart.text("-f", str(path)))
                )
        self.assertIn("Valid: 2,", chart.validate(chart.text(chart=chart.DEFINITIONS)))

    def test_a_field_that_does_not_exist_is_found(self) -> None:
        broken = chart.text().replace("enableServiceLinks:", "enableServiceLink:", 1)
        with self.assertRaisesRegex(chart.Refused, "enableServiceLink"):
            chart.validate(broken)
        with self.assertRaisesRegex(chart.Refused, "portt"):
            monitor = chart.text("--set=serviceMonitor.enabled=true").replace(
                "- port: ops", "- portt: ops", 1
            )
            chart.validate(monitor)

    def test_each_supported_version_of_kubernetes_gets_the_same_and_an_older_one_nothing(self) -> None:
        rendered = {chart.text(EVERYTHING, f"--kube-version={version}") for version in chart.KUBERNETES}
        self.assertEqual(len(rendered), 1)
        for folder in (chart.GATEWAY, chart.DEFINITIONS):
            with self.assertRaisesRegex(chart.Refused, "1.31.0"):
                chart.text("--kube-version=1.31.0", chart=folder)

    def test_everything_is_everything(self) -> None:
        kinds = {found["kind"] for found in chart.objects(EVERYTHING) + chart.objects(KEDA)}
        self.assertEqual(
            kinds,
            {
                "ClusterRole", "ConfigMap", "CustomResourceDefinition", "Deployment", "HTTPRoute",
                "HorizontalPodAutoscaler", "InferencePool", "Ingress", "Lease", "NetworkPolicy",
                "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "Role",
                "RoleBinding", "ScaledObject", "Service", "ServiceAccount", "ServiceMonitor",
                "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
            },
        )  # fmt: skip

    def test_two_objects_never_have_one_name_and_each_is_labelled(self) -> None:
        for path in chart.VALUES:
            found = chart.objects("-f", str(path))
            names = [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in found]
            self.assertEqual(len(names), len(set(names)), path.name)
            for one in found:
                if one["metadata"]["name"].endswith(("-more", "-text", "theirs")):
                    continue  # The user's own.
                labels = one["metadata"].get("labels", {})
                with self.subTest(f"{path.name}: {one['kind']} {one['metadata']['name']}"):
                    wanted = {"name", "instance", "version", "component", "part-of", "managed-by"}
                    self.assertLessEqual({f"app.kubernetes.io/{name}" for name in wanted}, labels.keys())
                    self.assertIn("helm.sh/chart", labels)
                    if path.name.startswith("everything"):
                        self.assertEqual(labels["team"], "inference")

    def test_long_names_stay_within_63_characters(self) -> None:
        found = chart.objects(f"--set=fullnameOverride={'a' * 63}", "--set=replicaCount=2")
        for one in found:
            if one["kind"] not in ("CustomResourceDefinition", "ClusterRole") and "Policy" not in one["kind"]:
                self.assertLessEqual(len(one["metadata"]["name"]), 63, one["metadata"]["name"])

    def test_the_notes_name_a_model_that_is_valid(self) -> None:
        printed = chart.run(
            "helm", "install", "rel", chart.GATEWAY, "--dry-run=client", "--namespace=inference"
        )
        notes = printed.partition("NOTES:\n")[2]
        model = notes.partition("<<END\n")[2].partition("  END\n")[0]
        self.assertIn("kind: Model", model)
        self.assertIn("Valid: 1,", chart.validate(model))
        self.assertIn("WARNING: the cache is an emptyDir", notes)
        self.assertIn("WARNING: there may be one pod only", notes)

    def test_a_packaged_chart_renders_what_the_folder_renders(self) -> None:
        with TemporaryDirectory() as folder:
            for source in (chart.GATEWAY, chart.DEFINITIONS):
                chart.run("helm", "package", source, "--destination", folder)
                [package] = Path(folder).glob(f"{source.name}-[0-9]*.tgz")
                self.assertEqual(chart.text(chart=package), chart.text(chart=source))


if __name__ == "__main__":
    unittest.main()
