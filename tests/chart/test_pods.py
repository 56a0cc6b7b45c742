"""What holds for the pods of the chart and of the manifests: rights, images, probes, ends, variables."""

import json
import unittest

import chart
import yaml

EVERYTHING = f"--values={chart.GATEWAY}/ci/everything-values.yaml"
MANIFESTS = chart.ROOT / "manifests"


def all_pods() -> list[tuple[str, dict]]:
    pods = []
    for path in chart.VALUES:
        pods += [
            (f"{path.name}: {name}", spec)
            for name, spec in chart.pod_specs(chart.objects(f"--values={path}"))
        ]
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        documents = [one for one in chart.read(path.read_text()) if "kind" in one]
        pods += [(f"{path.name}: {name}", spec) for name, spec in chart.pod_specs(documents)]
    return pods


class PodsTest(unittest.TestCase):
    def test_every_pod_is_as_the_restricted_standard_asks(self) -> None:
        pods = all_pods()
        self.assertGreater(len(pods), 20)
        for name, spec in pods:
            with self.subTest(name):
                security = spec["securityContext"]
                self.assertTrue(security["runAsNonRoot"])
                self.assertEqual((security["runAsUser"], security["runAsGroup"]), (65532, 65532))
                self.assertEqual(security["seccompProfile"], {"type": "RuntimeDefault"})
                for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
                    self.assertNotIn(forbidden, spec)
                for container in spec["containers"] + spec.get("initContainers", []):
                    own = container["securityContext"]
                    self.assertFalse(own["allowPrivilegeEscalation"])
                    self.assertEqual(own["capabilities"], {"drop": ["ALL"]})
                    self.assertNotIn("hostPort", str(container.get("ports")))
                if "keda" not in name:
                    self.assertFalse([volume for volume in spec.get("volumes", []) if "hostPath" in volume])

    def test_our_containers_cannot_write_and_have_bounds_and_a_fixed_image(self) -> None:
        for name, spec in all_pods():
            container = spec["containers"][0]
            with self.subTest(name):
                self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                self.assertIn("memory", container["resources"]["limits"])
                self.assertNotIn("cpu", container["resources"]["limits"])
                self.assertIn("memory", container["resources"]["requests"])
                image = container["image"]
                self.assertRegex(image, r"(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$")
                for volume in spec.get("volumes", []):
                    if "emptyDir" in volume and volume["name"] != "more":
                        self.assertIn("sizeLimit", volume["emptyDir"])

    def test_a_pod_has_a_token_only_where_it_speaks_with_the_apiserver(self) -> None:
        expected = {
            ("--set=mode=crd",): True,
            ("--set=mode=configMap",): False,
            ("--set=mode=configMap", "--set=configMap.watch=api"): True,
            ("--set=mode=env", "--set=model.source=/models/x"): False,
        }
        for values, has_token in expected.items():
            with self.subTest(values):
                spec = chart.gateway(*values)["spec"]["template"]["spec"]
                self.assertIs(spec["automountServiceAccountToken"], has_token)
                self.assertEqual(bool(chart.of_kind("Role", *values)), has_token)
        for account in chart.of_kind("ServiceAccount"):
            self.assertIs(account["automountServiceAccountToken"], False)

    def test_a_gateway_that_asks_who_comes_has_a_token_and_the_right_to_ask(self) -> None:
        env = ("--set=mode=env", "--set=model.source=/models/x")
        self.assertEqual(chart.of_kind("ClusterRoleBinding", *env), [])
        for value in ("auth.mode=kubernetes", "auth.metrics=kubernetes"):
            values = (*env, f"--set={value}")
            spec = chart.gateway(*values)["spec"]["template"]["spec"]
            self.assertIs(spec["automountServiceAccountToken"], True)
            self.assertEqual(chart.of_kind("Role", *values), [])
            self.assertEqual(chart.of_kind("RoleBinding", *values), [])
            [binding] = chart.of_kind("ClusterRoleBinding", *values)
            self.assertEqual(binding["roleRef"]["name"], "system:auth-delegator")
            self.assertEqual(binding["subjects"][0]["name"], spec["serviceAccountName"])
            self.assertEqual(chart.of_kind("ClusterRoleBinding", *values, "--set=rbac.create=false"), [])

    def test_keys_and_certificates_are_mounted_as_folders_and_probes_stay_as_they_are(self) -> None:
        deployment = chart.gateway(f"--values={chart.GATEWAY}/ci/keys-values.yaml")
        pod = deployment["spec"]["template"]["spec"]
        variables = chart.environment(deployment)
        mounts = {one["name"]: one for one in pod["containers"][0]["volumeMounts"]}
        volumes = {one["name"]: one for one in pod["volumes"]}
        for name, variable, file in (
            ("keys", "INFERENCE_AUTH_KEYS_FILE", "keys.yaml"),
            ("tls", "INFERENCE_TLS_CERT_FILE", "tls.crt"),
            ("tls", "INFERENCE_TLS_KEY_FILE", "tls.key"),
            ("client-authorities", "INFERENCE_TLS_CLIENT_CA_FILE", "ca.crt"),
        ):
            self.assertEqual(variables[variable], f"{mounts[name]['mountPath']}/{file}")
            self.assertNotIn("subPath", mounts[name])
            self.assertIs(mounts[name]["readOnly"], True)
        self.assertEqual(volumes["keys"]["secret"]["items"], [{"key": "clients.yaml", "path": "keys.yaml"}])
        self.assertEqual(volumes["tls"]["secret"], {"secretName": "gateway-tls"})
        plain = chart.gateway()["spec"]["template"]["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(pod["containers"][0][probe], plain[probe])
        self.assertEqual(chart.environment(chart.gateway())["INFERENCE_AUTH_MODE"], "none")

    def test_the_test_generates_where_it_has_a_key_and_looks_at_readiness_elsewhere(self) -> None:
        def arguments(*values: str) -> list[str]:
            [pod] = [one for one in chart.of_kind("Pod", *values)]
            return pod["spec"]["containers"][0]["args"]

        self.assertIn("http://rel-inference-gateway:3000", arguments()[1])
        self.assertNotIn("--ready-only", arguments())
        alone = arguments(f"--values={chart.GATEWAY}/ci/keys-values.yaml")
        self.assertTrue(alone[1].endswith("-ops:3001") and "--ready-only" in alone, alone)
        with_key = arguments(f"--values={chart.GATEWAY}/ci/kubernetes-auth-values.yaml")
        self.assertIn("--key-file=/etc/inference-gateway/key/key", with_key)
        self.assertNotIn("--ready-only", with_key)

    def test_a_pod_that_watches_a_list_may_read_that_one_alone(self) -> None:
        values = ("--set=mode=configMap", "--set=configMap.watch=api")
        [role] = chart.of_kind("Role", *values)
        [config_map] = chart.of_kind("ConfigMap", *values)
        self.assertEqual(
            role["rules"],
            [
                {
                    "apiGroups": [""],
                    "resources": ["configmaps"],
                    "resourceNames": [config_map["metadata"]["name"]],
                    "verbs": ["list", "watch"],
                }
            ],
        )
        named = chart.environment(chart.gateway(*values))["INFERENCE_MODELS_CONFIG_MAP"]
        self.assertEqual(named, config_map["metadata"]["name"])

    def test_the_time_to_end_is_computed(self) -> None:
        for values, seconds in {(): 80, ("--set=drainSeconds=300", "--set=preStopSeconds=20", "--set=leaveSeconds=3"): 333}.items():
            deployment = chart.gateway(*values)
            spec = deployment["spec"]["template"]["spec"]
            self.assertEqual(spec["terminationGracePeriodSeconds"], seconds)
        self.assertEqual(chart.environment(deployment)["INFERENCE_DRAIN_TIMEOUT"], "300s")
        self.assertEqual(chart.environment(deployment)["INFERENCE_SHUTDOWN_DELAY"], "3s")
        self.assertEqual(spec["containers"][0]["lifecycle"]["preStop"], {"sleep": {"seconds": 20}})

    def test_readiness_turns_before_endpoints_must_have_noticed(self) -> None:
        probe = chart.gateway()["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        # INFERENCE_ENDPOINTS_DELAY and preStopSeconds are five seconds by default.
        self.assertLess(probe["periodSeconds"] * probe["failureThreshold"], 5)

    def test_probes_ask_the_ops_port_unless_told_otherwise(self) -> None:
        paths = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
        for name in ("gateway", "controller"):
            container = chart.component(name)["spec"]["template"]["spec"]["containers"][0]
            for probe, path in paths.items():
                self.assertEqual(container[probe]["httpGet"], {"path": path, "port": "ops"})
        own = chart.gateway(
            "--set=probes.liveness.httpGet.path=/healthz", "--set=probes.liveness.httpGet.port=http"
        )
        probe = own["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
        self.assertEqual(probe["httpGet"], {"path": "/healthz", "port": "http"})

    def test_the_examples_have_the_probes_of_the_chart(self) -> None:
        container = chart.gateway()["spec"]["template"]["spec"]["containers"][0]
        for mode in ("env", "configmap", "crd"):
            example = yaml.safe_load((MANIFESTS / "examples" / f"probes-{mode}.yaml").read_text())
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.assertEqual(example["spec"]["containers"][0][probe], container[probe], f"{mode} {probe}")

    def test_numbers_become_the_text_that_the_program_reads(self) -> None:
        values = (
            "--set=settings.INFERENCE_MAX_BODY_BYTES=2097152",
            "--set=settings.INFERENCE_SPINNING=false",
        )
        variables = chart.environment(chart.gateway(*values))
        self.assertEqual(variables["INFERENCE_MAX_BODY_BYTES"], "2097152")
        self.assertEqual(variables["INFERENCE_SPINNING"], "false")

    def test_templates_arrive_as_they_were_given(self) -> None:
        template = "<|user|>\n{{ document }} costs $(PRICE) & 'more' \"ä\""
        named = [{"name": "summarise", "template": template}]
        values = (
            "--set=mode=env",
            "--set=model.source=/models/x",
            f"--set-json=model.promptTemplate={json.dumps('{{ text }}:')}",
            f"--set-json=model.promptTemplates={json.dumps(named)}",
            f"--set-json=model.chatTemplate={json.dumps('{{ messages }}')}",
        )
        variables = chart.environment(chart.gateway(*values))
        self.assertEqual(variables["INFERENCE_DEFAULT_PROMPT_TEMPLATE"], "{{ text }}:")
        self.assertEqual(variables["INFERENCE_DEFAULT_CHAT_TEMPLATE"], "{{ messages }}")
        # The kubelet makes $( of $$(.
        given = variables["INFERENCE_DEFAULT_PROMPT_TEMPLATES"].replace("$$(", "$(")
        self.assertEqual(yaml.safe_load(given), named)
        plain = chart.environment(chart.gateway("--set=mode=env", "--set=model.source=/models/x"))
        self.assertFalse([name for name in plain if name.endswith(("_TEMPLATE", "_TEMPLATES"))])

    def test_downloads_go_through_the_proxy_that_is_named(self) -> None:
        names = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
        plain = chart.environment(chart.gateway())
        self.assertFalse([name for name in names if name in plain])
        variables = chart.environment(chart.gateway(EVERYTHING))
        self.assertEqual(
            [variables.get(name) for name in names],
            ["http://proxy.example.com:3128", "http://proxy.example.com:3128", ".svc,10.0.0.0/8"],
        )

    def test_traces_are_sent_where_a_collector_is_named(self) -> None:
        plain = chart.environment(chart.gateway())
        self.assertFalse([name for name in plain if name.startswith("OTEL_")])
        self.assertNotIn("INFERENCE_PICKER_METRICS", plain)
        variables = chart.environment(chart.gateway(EVERYTHING))
        expected = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability:4317",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
            "OTEL_SERVICE_NAME": "everything",
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE),"
            "deployment.environment.name=prod",
            "INFERENCE_PICKER_METRICS": "true",
        }
        self.assertEqual({name: variables.get(name) for name in expected}, expected)
        # Before the attributes that name them.
        names = list(variables)
        self.assertLess(names.index("POD_NAME"), names.index("OTEL_RESOURCE_ATTRIBUTES"))
        self.assertIn("OTEL_EXPORTER_OTLP_HEADERS", variables)

    def test_each_pod_notes_its_state_in_a_folder_of_its_own(self) -> None:
        for kind in ("emptyDir", "persistentVolumeClaim", "ephemeral"):
            deployment = chart.gateway(f"--set=cache.type={kind}")
            variables = chart.environment(deployment)
            self.assertEqual(
                variables["INFERENCE_STATE_DIR"], "/var/cache/inference-gateway/state/$(POD_NAME)"
            )
            self.assertIn("POD_NAME", variables)
            mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
            self.assertIn({"name": "cache", "mountPath": "/var/cache/inference-gateway"}, mounts)

    def test_selectors_are_what_they_always_were_and_match_the_pods(self) -> None:
        for values in ((), (EVERYTHING,)):
            for name in ("gateway", "controller"):
                spec = chart.component(name, *values)["spec"]
                selector = spec["selector"]["matchLabels"]
                base = "ig" if values else "inference-gateway"
                expected = {"name": base, "instance": chart.RELEASE, "component": name}
                self.assertEqual(
                    selector, {f"app.kubernetes.io/{key}": value for key, value in expected.items()}
                )
                self.assertLessEqual(selector.items(), spec["template"]["metadata"]["labels"].items())

    def test_a_new_chart_with_the_same_image_replaces_no_pod(self) -> None:
        for name in ("gateway", "controller"):
            labels = chart.component(name)["spec"]["template"]["metadata"]["labels"]
            self.assertNotIn("helm.sh/chart", labels)

    def test_a_changed_list_of_models_replaces_no_pod(self) -> None:
        values = ("--set=mode=configMap", "--set=models[0].spec.source.path=a")
        one = chart.gateway(*values, "--set=models[0].name=one")
        other = chart.gateway(*values, "--set=models[0].name=other")
        self.assertEqual(one, other)

    def test_who_scales_owns_the_number_of_pods(self) -> None:
        self.assertEqual(chart.gateway("--set=replicaCount=3")["spec"]["replicas"], 3)
        keda = ("--set=keda.enabled=true", "--set=keda.serverAddress=http://p")
        for values in (("--set=autoscaling.enabled=true",), keda):
            self.assertNotIn("replicas", chart.gateway(*values)["spec"])

    def test_a_single_pod_has_no_budget_that_would_stop_every_drain(self) -> None:
        self.assertEqual(chart.of_kind("PodDisruptionBudget"), [])
        for values in (
            ("--set=replicaCount=2",),
            ("--set=autoscaling.enabled=true", "--set=autoscaling.minReplicas=2"),
        ):
            [budget] = chart.of_kind("PodDisruptionBudget", *values)
            self.assertEqual(budget["spec"]["maxUnavailable"], 1)
            self.assertEqual(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow")


if __name__ == "__main__":
    unittest.main()
