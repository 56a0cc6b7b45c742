"""What single objects of the chart say."""

import re
import unittest

import chart
import yaml

EVERYTHING = f"--values={chart.GATEWAY}/ci/everything-values.yaml"


class ClusterObjectsTest(unittest.TestCase):
    def test_definitions_stay_when_the_release_goes(self) -> None:
        kept = chart.of_kind("CustomResourceDefinition")
        kept += [
            one for one in chart.objects(chart=chart.DEFINITIONS) if one["kind"] == "CustomResourceDefinition"
        ]
        self.assertEqual(len(kept), 4)
        for definition in kept:
            self.assertEqual(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
        for definition in chart.of_kind("CustomResourceDefinition", "--set=crds.keep=false"):
            self.assertNotIn("annotations", definition["metadata"])
        self.assertEqual(chart.of_kind("CustomResourceDefinition", "--set=crds.enabled=false"), [])

    def test_definitions_are_those_of_the_program(self) -> None:
        for definition in chart.of_kind("CustomResourceDefinition"):
            name = definition["spec"]["names"]["plural"]
            own = yaml.safe_load((chart.ROOT / "crd" / f"{name}.yaml").read_text())
            self.assertEqual(definition["spec"], own["spec"])

    def test_releases_of_several_namespaces_share_no_object_of_the_cluster(self) -> None:
        names: list[str] = []
        for namespace in ("one", "two"):
            rendered = chart.objects(f"--namespace={namespace}", "--set=crds.enabled=false")
            names += [
                f"{one['kind']} {one['metadata']['name']}"
                for one in rendered
                if "namespace" not in one["metadata"]
            ]
        self.assertEqual(len(names), 8)
        self.assertEqual(len(names), len(set(names)))

    def test_the_policy_looks_at_the_namespace_of_the_release_alone(self) -> None:
        [policy] = chart.of_kind("ValidatingAdmissionPolicy")
        selector = policy["spec"]["matchConstraints"]["namespaceSelector"]
        self.assertEqual(selector, {"matchLabels": {"kubernetes.io/metadata.name": chart.NAMESPACE}})
        [policy] = chart.of_kind("ValidatingAdmissionPolicy", "--set=admissionPolicy.allNamespaces=true")
        self.assertNotIn("namespaceSelector", policy["spec"]["matchConstraints"])

    def test_the_lease_has_no_spec_and_is_the_gateways(self) -> None:
        for gateway, name in {
            "default": "inference-gateway-controller",
            "blue": "inference-gateway-controller-blue",
        }.items():
            values = (f"--set=gatewayName={gateway}",)
            [lease] = chart.of_kind("Lease", *values)
            self.assertEqual(lease["metadata"]["name"], name)
            self.assertNotIn("spec", lease)
            variables = chart.environment(chart.component("controller", *values))
            self.assertEqual(variables["INFERENCE_LEASE_NAME"], name)
            self.assertEqual(variables["INFERENCE_GATEWAY_NAME"], gateway)
            labels = chart.gateway(*values)["spec"]["template"]["metadata"]["labels"]
            self.assertEqual(labels["inference-gateway.io/gateway"], gateway)
            [role] = [
                one
                for one in chart.of_kind("Role", *values)
                if one["metadata"]["name"].endswith("-controller")
            ]
            [rule] = [one for one in role["rules"] if one["resources"] == ["leases"]]
            self.assertEqual(rule["resourceNames"], [name])

    def test_every_right_has_a_reason(self) -> None:
        for path in ("gateway-role.yaml", "controller-role.yaml", "aggregate-roles.yaml"):
            lines = (chart.GATEWAY / "templates" / path).read_text().splitlines()
            rules = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups")]
            self.assertTrue(rules)
            for number in rules:
                self.assertRegex(lines[number - 1], r"^  # To ", f"{path}:{number + 1}")

    def test_nobody_may_do_everything_and_no_role_reads_secrets(self) -> None:
        roles = chart.of_kind("Role", EVERYTHING) + chart.of_kind("ClusterRole", EVERYTHING)
        self.assertEqual(len(roles), 4)
        for role in roles:
            for rule in role["rules"]:
                self.assertNotIn("*", rule["verbs"] + rule["resources"] + rule["apiGroups"])
                self.assertNotIn("secrets", rule["resources"])


class NetworkTest(unittest.TestCase):
    def test_addresses_that_give_credentials_stay_closed(self) -> None:
        policies = chart.of_kind("NetworkPolicy", "--set=networkPolicy.enabled=true")
        self.assertEqual(len(policies), 2)
        blocks = [
            to["ipBlock"]
            for policy in policies
            for rule in policy["spec"]["egress"]
            for to in rule.get("to", [])
        ]  # fmt: skip
        self.assertEqual(len(blocks), 6)
        for block in blocks:
            expected = {"0.0.0.0/0": ["169.254.0.0/16"], "::/0": ["fd00:ec2::254/128"]}
            self.assertEqual(block["except"], expected[block["cidr"]])

    def test_a_gateway_without_the_apiserver_cannot_reach_it(self) -> None:
        values = ("--set=mode=env", "--set=model.source=/models/x", "--set=networkPolicy.enabled=true")
        [policy] = chart.of_kind("NetworkPolicy", *values, "--set-json=networkPolicy.modelHosts=[]")
        self.assertEqual(
            policy["spec"]["egress"], [{"ports": [{"port": 53, "protocol": p} for p in ("UDP", "TCP")]}]
        )

    def test_metrics_and_probes_are_not_led_to_from_outside(self) -> None:
        [ingress] = chart.of_kind("Ingress", EVERYTHING)
        [rule] = ingress["spec"]["rules"]
        self.assertEqual([path["path"] for path in rule["http"]["paths"]], ["/api"])
        [route] = chart.of_kind("HTTPRoute", EVERYTHING)
        self.assertEqual(
            route["spec"]["rules"][0]["matches"], [{"path": {"type": "PathPrefix", "value": "/api"}}]
        )

    def test_the_endpoint_picker_is_told_of_metrics_that_exist(self) -> None:
        declared = "".join(path.read_text() for path in (chart.ROOT / "src" / "metrics").glob("*.rs"))
        [config_map] = [
            one
            for one in chart.of_kind("ConfigMap", EVERYTHING)
            if one["metadata"]["name"].endswith("-picker")
        ]
        config = yaml.safe_load(config_map["data"]["endpoint-picker.yaml"])
        [extractor] = [plugin for plugin in config["plugins"] if plugin["type"] == "core-metrics-extractor"]
        [engine] = extractor["parameters"]["engineConfigs"]
        self.assertEqual(extractor["parameters"]["defaultEngine"], engine["name"])
        specs = {key: value for key, value in engine.items() if key.endswith("Spec")}
        self.assertEqual(len(specs), 3)
        for spec in specs.values():
            metric = re.fullmatch(r"inference_gateway_(\w+)\{model=chat\}", spec)
            assert metric is not None, spec
            self.assertIn(f'"{metric[1]}"', declared)
        plugins = {plugin["type"] for plugin in config["plugins"]}
        for profile in config["schedulingProfiles"]:
            self.assertLessEqual({one["pluginRef"] for one in profile["plugins"]}, plugins)
        [pool] = chart.of_kind("InferencePool", EVERYTHING)
        labels = chart.gateway(EVERYTHING)["spec"]["template"]["metadata"]["labels"]
        self.assertLessEqual(pool["spec"]["selector"]["matchLabels"].items(), labels.items())


class MonitoringTest(unittest.TestCase):
    def test_a_service_monitor_finds_gateway_and_controller_once(self) -> None:
        [monitor] = chart.of_kind("ServiceMonitor", EVERYTHING)
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [
            one for one in chart.of_kind("Service", EVERYTHING) if wanted <= one["metadata"]["labels"].items()
        ]
        components = [one["metadata"]["labels"]["app.kubernetes.io/component"] for one in found]
        self.assertEqual(sorted(components), ["controller", "gateway"])
        [endpoint] = monitor["spec"]["endpoints"]
        for service in found:
            self.assertEqual([port["name"] for port in service["spec"]["ports"]], [endpoint["port"]])
            # Whoever is not ready is asked too.
            self.assertTrue(service["spec"]["publishNotReadyAddresses"])

    def test_a_pod_monitor_finds_gateway_and_controller(self) -> None:
        [monitor] = chart.of_kind("PodMonitor", "--set=podMonitor.enabled=true")
        selector = monitor["spec"]["selector"]
        for name in ("gateway", "controller"):
            labels = chart.component(name)["spec"]["template"]["metadata"]["labels"]
            self.assertLessEqual(selector["matchLabels"].items(), labels.items())
            [expression] = selector["matchExpressions"]
            self.assertIn(labels[expression["key"]], expression["values"])

    def test_alerts_can_be_left_out_and_labelled(self) -> None:
        source = yaml.safe_load((chart.GATEWAY / "files" / "alerts.yaml").read_text())["groups"]
        names = [rule["alert"] for group in source for rule in group["rules"] if "alert" in rule]
        self.assertGreater(len(names), 5)
        enabled = "--set=prometheusRule.enabled=true"
        [rule] = chart.of_kind("PrometheusRule", enabled)
        self.assertEqual(rule["spec"]["groups"], source)
        changed = (
            enabled,
            f"--set=prometheusRule.disabled={{{names[0]}}}",
            "--set=prometheusRule.alertLabels.severity=page",
        )
        [rule] = chart.of_kind("PrometheusRule", *changed)
        alerts = [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]
        self.assertEqual([one["alert"] for one in alerts], names[1:])
        self.assertEqual({one["labels"]["severity"] for one in alerts}, {"page"})

    def test_the_dashboard_reaches_the_sidecar_unchanged(self) -> None:
        [config_map] = chart.of_kind("ConfigMap", "--set=dashboard.enabled=true")
        self.assertEqual(config_map["metadata"]["labels"]["grafana_dashboard"], "1")
        own = (chart.GATEWAY / "files" / "dashboard.json").read_text()
        self.assertEqual(config_map["data"]["inference-gateway.json"], own.strip())

    def test_the_scalers_look_at_a_metric_that_exists(self) -> None:
        declared = (chart.ROOT / "src" / "metrics" / "model.rs").read_text()
        self.assertIn('"requests_waiting"', declared)
        [scaler] = chart.of_kind("HorizontalPodAutoscaler", "--set=autoscaling.enabled=true")
        [metric] = scaler["spec"]["metrics"]
        self.assertEqual(metric["pods"]["metric"]["name"], "inference_gateway_requests_waiting")
        keda = ("--set=keda.enabled=true", "--set=keda.serverAddress=http://p")
        [scaled] = chart.of_kind("ScaledObject", *keda)
        [trigger] = scaled["spec"]["triggers"]
        labels = f'namespace="{chart.NAMESPACE}", pod=~"rel-inference-gateway-.+"'
        query = f"sum(inference_gateway_requests_waiting{{{labels}}})"
        self.assertEqual(trigger["metadata"]["query"], query)
        for one in (scaler, scaled):
            self.assertEqual(one["spec"]["scaleTargetRef"]["name"], chart.gateway()["metadata"]["name"])


if __name__ == "__main__":
    unittest.main()
