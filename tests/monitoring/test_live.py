"""Every query of the dashboard and every alert, asked of a real Prometheus that scrapes a real gateway and a
controller.
"""

import re
import subprocess
import threading
import time
import unittest
from typing import Any, ClassVar

from live import LONG_PROMPT, OTHER_KEY, TRACE, Setting
from monitored import alerts, dashboard, declared, panels, recorded, tool
from programs import until
from promql import faults

NOT_HERE = {
    "inference_gateway_access_reviews_total": "needs an apiserver; tests/cluster/callers.rs",
    "inference_gateway_definition_outdated": "needs an apiserver; tests/cluster/older_definitions.rs",
    "inference_gateway_cluster_writes_total": "needs an apiserver; tests/cluster/refused_writes.rs",
    "inference_gateway_rollout_phase": "needs an apiserver; tests/cluster/converging.rs",
    "inference_gateway_rollouts_total": "needs an apiserver; tests/cluster/converging.rs",
}
"""Metrics whose panels are empty here, with the reason. Their names and labels are compared all the same."""


def with_variables(expression: str, namespace: str = ".*") -> str:
    """An expression as Grafana asks it with `All` of everything chosen."""
    for name, value in {
        "$__rate_interval": "4s",
        "$__interval": "4s",
        "$namespace": namespace,
        "$job": ".*",
        "$pod": ".*",
        "$model": ".*",
    }.items():
        expression = expression.replace(name, value)
    return expression


def queries() -> list[tuple[str, str]]:
    """Expressions of panels, with the title of each."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel.get("targets", [])]


def notes() -> list[tuple[str, str]]:
    """Expressions of annotations, with the name of each."""
    return [(note["name"], note["expr"]) for note in dashboard()["annotations"]["list"]]


class LiveTest(unittest.TestCase):
    setting: Setting
    answers: ClassVar[list[int]] = []
    """Statuses of the requests that are to be answered."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.setting = cls.enterClassContext(Setting())
        cls.declared = declared()
        for model in ("chat", "code", "ill"):
            until(model, lambda: cls.setting.ask(text="a", model=model, max_tokens=1) == 200)
        done = threading.Event()
        traffic = threading.Thread(target=cls.traffic, args=(done,))
        traffic.start()
        try:
            until("a scrape of all", lambda: cls.setting.query("count(inference_gateway_model_info) == 3"))
            cls.setting.write_list(chat="llama", code="llama", ill="poisoned", broken="broken")
            swaps = 'count(inference_gateway_model_swaps_total{reason="update"} == 1) == 2'
            until("the swaps", lambda: cls.setting.query(swaps))
            # The second revision of this one computes values that are no numbers once a text is long.
            cls.setting.ask(text="abc", model="ill", max_tokens=150, ignore_eos=True)
            until("the way back", lambda: cls.setting.query("inference_gateway_model_rollbacks_total"))
            cls.wait_scrapes(4)
        except BaseException:
            done.set()
            raise
        cls.stop_traffic = staticmethod(lambda: (done.set(), traffic.join()))

    @classmethod
    def tearDownClass(cls) -> None:
        cls.stop_traffic()
        super().tearDownClass()

    @classmethod
    def traffic(cls, done: threading.Event) -> None:
        """Requests until it is enough; what is refused is refused on purpose."""
        while not done.is_set():
            for model in ("chat", "code"):
                answer = cls.setting.ask(text=LONG_PROMPT, model=model, max_tokens=8, ignore_eos=True)
                cls.answers.append(answer)
            cls.setting.ask(text="a", model="broken")
            cls.setting.ask(text="a", model="nowhere")
            cls.setting.ask(text="a", model="chat", temperature=9)
            cls.setting.ask(text="a", model="chat", key=OTHER_KEY)
            cls.setting.ask(text="a", model="chat", key="nobody's")
            done.wait(0.05)

    @classmethod
    def wait_scrapes(cls, number: int) -> None:
        began = time.time()
        until(
            "scrapes",
            lambda: [
                one
                for one in cls.setting.query("count_over_time(inference_gateway_build_info[1h])")
                if float(one["value"][1]) >= number and time.time() - began >= number
            ],
        )

    def faults(self, expression: str) -> list[str]:
        tree = self.setting.get("parse_query", query=expression)
        return faults(tree, self.declared, set(recorded()))

    def test_expressions_name_metrics_and_labels_that_exist(self) -> None:
        ours = [(title, with_variables(expression)) for title, expression in queries() + notes()]
        ours += [(name, rule["expr"]) for name, rule in alerts().items()] + list(recorded().items())
        for title, expression in ours:
            with self.subTest(title, expression=expression):
                self.assertEqual(self.faults(expression), [])

    def test_names_that_do_not_exist_are_noticed(self) -> None:
        for wrong in (
            "inference_gateway_request_waiting",
            "sum(rate(inference_gateway_http_requests[5m]))",
            'inference_gateway_http_requests_total{code="500"}',
            "sum by (modell) (inference_gateway_requests_waiting)",
            "inference_gateway_time_to_first_token_seconds",
            'inference_gateway_time_to_first_token_seconds_count{le="2.5"}',
            "inference_gateway_ready and on (node) inference_gateway_build_info",
        ):
            self.assertNotEqual(self.faults(wrong), [], wrong)

    def test_every_panel_shows_something(self) -> None:
        for title, expression in queries():
            series = self.setting.query(with_variables(expression))
            missing = [reason for name, reason in NOT_HERE.items() if name in expression]
            with self.subTest(title, expression=expression):
                # An entry of the list that is not needed any more has to go.
                self.assertEqual(bool(series), not missing, f"{title}: {len(series)} series, {missing}")

    def test_every_annotation_marks_what_was_done(self) -> None:
        begin, end = str(time.time() - 60), str(time.time())
        for name, expression in notes():
            asked = {"query": with_variables(expression), "start": begin, "end": end, "step": "1"}
            series = self.setting.get("query_range", **asked)["result"]
            marks = sorted(one["metric"]["model"] for one in series)
            self.assertEqual(marks, ["chat", "chat", "code", "ill", "ill"], f"{name}: revisions")

    def test_every_panel_follows_the_variables(self) -> None:
        for title, expression in queries() + notes():
            series = self.setting.query(with_variables(expression, namespace="elsewhere"))
            self.assertEqual(series, [], f"{title} shows gateways of other namespaces")

    def test_every_variable_has_values(self) -> None:
        expected = {
            "namespace": {"models"},
            "job": {"gateway", "controller"},
            "pod": {"gateway-0", "controller-0"},
            "model": {"chat", "code", "ill"},
        }
        for variable in dashboard()["templating"]["list"][1:]:
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            self.assertIsNotNone(found, variable["name"])
            values = self.setting.get(f"label/{found[2]}/values", **{"match[]": with_variables(found[1])})
            self.assertEqual(set(values), expected[variable["name"]])

    def test_the_rules_are_evaluated_and_the_right_ones_fire(self) -> None:
        def evaluated() -> list[dict[str, Any]] | None:
            rules = [rule for group in self.setting.get("rules")["groups"] for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else None

        rules = until("an evaluation of every rule", evaluated)
        self.assertEqual(len(rules), len(alerts()) + len(recorded()))
        self.assertEqual([rule["lastError"] for rule in rules if rule["health"] != "ok"], [])
        known = self.setting.get("alerts")["alerts"]
        states = {alert["labels"]["alertname"]: alert for alert in known}
        firing = [alert["labels"] for alert in known if alert["state"] == "firing"]
        self.assertEqual({one["namespace"] + "/" + one["job"] for one in firing}, {"models/gateway"})
        told = {(one["alertname"], one["model"], one.get("reason") or one["kind"]) for one in firing}
        self.assertEqual(
            told,
            {
                ("InferenceGatewaySwapFailed", "broken", "InvalidOnnx"),
                ("InferenceGatewayRolledBack", "ill", "SoakErrors"),
                ("InferenceGatewayEngineFailures", "ill", "not_finite"),
            },
        )
        # These would fire in the end: the model is broken, its requests fail, the apiserver is away.
        waiting = {
            "InferenceGatewayModelNotServed",
            "InferenceGatewayErrorRate",
            "InferenceGatewayWatchBroken",
            "InferenceGatewayNoControllerLeader",
        }
        self.assertLessEqual(waiting, {name for name, alert in states.items() if alert["state"] == "pending"})

    def promtool(self, text: str) -> str:
        """What promtool has to say of metrics."""
        check = [tool("promtool"), "check", "metrics"]
        result = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
        # 3 are opinions; anything else that is not 0 is text that it could not read.
        self.assertIn(result.returncode, (0, 3), result.stdout + result.stderr)
        return (result.stdout + result.stderr).strip()

    def test_promtool_likes_the_metrics(self) -> None:
        families = self.setting.metrics("text/plain").split("# HELP ")
        own = "# HELP ".join(one for one in families if not one.startswith("vllm:"))
        self.assertEqual(self.promtool(own), "")
        of_pickers = "# HELP ".join(one for one in families if one.startswith(("vllm:", "\n")) or not one)
        # The names that pickers look for are not ours to choose.
        opinions = self.promtool(of_pickers).splitlines()
        self.assertEqual({line.split()[0] for line in opinions}, set(re.findall(r"^vllm:\w+", of_pickers, re.M)))
        self.assertTrue(any("should not contain ':'" in line for line in opinions), opinions)

    def test_what_comes_unasked_is_read_by_the_parser_of_text_that_pickers_use(self) -> None:
        text = self.setting.metrics()
        self.assertNotIn(TRACE, text)
        for family in ("waiting 0", "running 0", "perc 0"):
            self.assertRegex(text, rf"(?m)^vllm:\w+_{family[:-2]} [\d.e-]+$")
        self.promtool(text)

    def test_prometheus_has_the_trace_behind_each_latency(self) -> None:
        begin, end = str(time.time() - 600), str(time.time() + 60)
        for family in ("http_request", "generation", "inference", "queue", "prefill", "decode"):
            asked = {"query": f"inference_gateway_{family}_duration_seconds_bucket", "start": begin, "end": end}
            found = self.setting.get("query_exemplars", **asked)
            traces = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
            # Probes and scrapes are no part of it.
            self.assertEqual(traces, {TRACE}, family)

    def test_what_is_seen_is_what_was_done(self) -> None:
        self.assertEqual(set(self.answers), {200}, "a request failed")
        info = self.setting.query("inference_gateway_model_info")
        self.assertEqual({one["metric"]["model"] for one in info}, {"chat", "code", "ill"})
        [kept] = self.setting.query('sum(inference_gateway_prefix_hit_tokens_total{model="code"})')
        self.assertGreater(float(kept["value"][1]), 0, "the beginning of the prompt was not kept")
        ready = self.setting.query("inference_gateway_model_ready")
        states = {one["metric"]["model"]: one["value"][1] for one in ready}
        self.assertEqual(states, {"chat": "1", "code": "1", "ill": "1", "broken": "0"})
        bounds = self.setting.query("inference_gateway_memory_limit_bytes{job='gateway'}")
        self.assertEqual([one["value"][1] for one in bounds], [str(2 << 30)])


if __name__ == "__main__":
    unittest.main()
