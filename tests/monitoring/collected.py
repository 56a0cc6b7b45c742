"""The collector of the OpenTelemetry project, and what it has received."""

import http.server
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from monitored import tool
from programs import Programs

SERVER_KIND = 2
"""`SPAN_KIND_SERVER` of OTLP."""


@dataclass(frozen=True)
class Span:
    """A span as the collector tells it. From: OTLP 1.x, JSON encoding."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begin_nanoseconds: int
    end_nanoseconds: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


class Collected(Programs):
    """The collector, which receives OTLP in both ways and hands everything on to us; use as a context."""

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[str] = []
        self.grpc = self.http = ""

    def _begin(self) -> None:
        batches = self._batches

        class Sink(http.server.BaseHTTPRequestHandler):
            """Takes what the collector hands on."""

            def do_POST(self) -> None:
                """A batch."""
                batches.append(self.rfile.read(int(self.headers["content-length"])).decode())
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        sink = self._stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink))
        threading.Thread(target=sink.serve_forever, daemon=True).start()
        self._stack.callback(sink.shutdown)
        here = {"endpoint": "127.0.0.1:0"}
        receiver, exporter = "otlp", "otlp_http"
        handed_on = {
            "endpoint": f"http://127.0.0.1:{sink.server_port}",
            "encoding": "json",
            "compression": "none",
        }
        config = {
            "receivers": {receiver: {"protocols": {"grpc": here, "http": here}}},
            "exporters": {exporter: handed_on},
            "service": {"pipelines": {"traces": {"receivers": [receiver], "exporters": [exporter]}}},
        }
        file = self.folder / "collector.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [str(tool("otel-collector")), f"--config={file}"]
        program = self.run("collector", command, {"HOME": str(self.folder)})
        self.grpc = program.address(r'"Starting GRPC server".*?"endpoint":"(127\.0\.0\.1:\d+)"')
        self.http = program.address(r'"Starting HTTP server".*?"endpoint":"(127\.0\.0\.1:\d+)"')

    def text(self) -> str:
        """All that has come, as it was handed on."""
        return "\n".join(self._batches)

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of a trace that have come so far."""
        return [
            span
            for batch in list(self._batches)
            for resource in json.loads(batch)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in (_span(one, resource["resource"]) for one in scope["spans"])
            if span.trace_id == trace_id
        ]


def _span(span: dict[str, Any], resource: dict[str, Any]) -> Span:
    return Span(
        name=span["name"],
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        kind=span["kind"],
        begin_nanoseconds=int(span["startTimeUnixNano"]),
        end_nanoseconds=int(span["endTimeUnixNano"]),
        attributes=_attributes(span),
        resource=_attributes(resource),
    )


def _attributes(of: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in of.get("attributes", [])}
