"""The trace of a streamed request, as the collector of the OpenTelemetry project receives it."""

import json
import re
import secrets
import unittest
import urllib.request
from typing import ClassVar

from collected import SERVER_KIND, Collected, Span
from monitored import ROOT
from programs import PATIENCE_SECONDS, until

SECRET = "a very private prompt"
TOKENS = 100
CALLER = "00f067aa0ba902b7"
MOST_MISSING = 0.05
"""Part of a request that may be in none of its spans."""


def missing(whole: Span, parts: list[Span]) -> float:
    """The part of a span's time in which none of `parts` was on."""
    at, without = whole.begin_nanoseconds, 0
    for part in sorted(parts, key=lambda part: part.begin_nanoseconds):
        without += max(0, part.begin_nanoseconds - at)
        at = max(at, part.end_nanoseconds)
    without += max(0, whole.end_nanoseconds - at)
    return without / (whole.end_nanoseconds - whole.begin_nanoseconds)


class TestTraces(unittest.TestCase):
    """One collector, and a gateway for each way to send."""

    collected: ClassVar[Collected]

    @classmethod
    def setUpClass(cls) -> None:
        cls.collected = cls.enterClassContext(Collected())

    def ask(self, protocol: str, endpoint: str) -> tuple[str, list[Span], str]:
        """Of a streamed request: its text, its trace, and the metrics of the gateway afterwards."""
        trace_id = secrets.token_hex(16)
        settings = {
            "INFERENCE_DEFAULT_MODEL_NAME": "tiny",
            "INFERENCE_DEFAULT_MODEL_PATH": str(ROOT / "prepared" / "tiny" / "llama"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{endpoint}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_SERVICE_NAME": "gateway-of-the-tests",
        }
        server = self.collected.start(f"gateway-{trace_id}", settings)
        address = server.address(r'"api":"([^"]+)"')
        until("the model", lambda: urllib.request.urlopen(f"http://{address}/readyz").status == 200)
        body = {"text": SECRET, "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
        headers = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
        request = urllib.request.Request(
            f"http://{address}/api/v1/inference", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            # Not `splitlines`: a text may have separators of Unicode, which end no line of a stream.
            lines = answer.read().decode().split("\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

        def arrived() -> list[Span]:
            spans = self.collected.spans(trace_id)
            return spans if any(span.kind == SERVER_KIND for span in spans) else []

        spans = until("the trace", arrived)

        def told() -> str | None:
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                text = answer.read().decode()
            return text if 'trace_spans_total{outcome="exported"}' in text else None

        return "".join(event.get("text", "") for event in events), spans, until("the metrics", told)

    def test_a_streamed_request_is_a_trace_without_holes(self) -> None:
        for protocol, endpoint in (("grpc", self.collected.grpc), ("http/protobuf", self.collected.http)):
            with self.subTest(protocol):
                text, spans, metrics = self.ask(protocol, endpoint)
                self.assertTrue(text)
                [server] = [span for span in spans if span.kind == SERVER_KIND]
                self.assertEqual(server.name, "POST /api/v1/inference")
                self.assertEqual(server.parent_id, CALLER)
                self.assertEqual(server.resource["service.name"], "gateway-of-the-tests")
                [inference] = [span for span in spans if span.name == "text_completion tiny"]
                self.assertEqual(inference.attributes["gen_ai.usage.output_tokens"], str(TOKENS))
                phases = [span for span in spans if span.parent_id == inference.span_id]
                around = [span for span in spans if span.parent_id == server.span_id and span != inference]
                self.assertEqual(sorted(part.name for part in phases), ["decode", "prefill", "queue", "tokenise"])
                self.assertEqual(sorted(part.name for part in around), ["receive", "respond"])
                for whole, parts in ((server, [*phases, *around]), (inference, phases)):
                    hole = missing(whole, parts)
                    print(f"{protocol}: {hole:.2%} of {whole.name} is in none of its spans")
                    self.assertLess(hole, MOST_MISSING, f"of {whole} is in none of {parts}")
                everything = self.collected.text()
                self.assertNotIn("private", everything)
                self.assertNotIn(json.dumps(text)[1:-1], everything)
                self.assertEqual(re.findall(r'trace_spans_total\{outcome="(?:failed|dropped)"\}', metrics), [])

    def test_a_hole_is_found(self) -> None:
        def span(begin: int, end: int) -> Span:
            return Span("", "", "", "", 1, begin, end, {}, {})

        self.assertEqual(missing(span(0, 100), [span(50, 100), span(0, 20), span(10, 40)]), 0.1)
        self.assertEqual(missing(span(0, 100), [span(10, 90)]), 0.2)
        self.assertEqual(missing(span(0, 100), [span(0, 100), span(20, 30)]), 0.0)
