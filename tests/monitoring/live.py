"""A gateway with models, a controller, and a Prometheus that scrapes both every second."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import yaml
from monitored import ALERTS, ROOT, tool
from programs import PATIENCE_SECONDS, Programs, until

KEY, OTHER_KEY = "key-of-the-tests", "key-of-somebody-else"
LONG_PROMPT = "one two three four five " * 4
"""Long enough that its beginning is kept."""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
"""The trace that every request is a part of."""


class Setting(Programs):
    """Everything that runs; use as a context."""

    def __init__(self) -> None:
        super().__init__()
        self.models = self.folder / "models"
        self.list = self.folder / "models.yaml"
        self.api = self.ops = self.prometheus = ""

    def _begin(self) -> None:
        tiny = ROOT / "prepared" / "tiny"
        assert tiny.exists(), f"{tiny} is missing: run `make prepare-tests`"
        for name in ("llama", "gpt2"):
            shutil.copytree(tiny / name, self.models / name)
        shutil.copytree(self.models / "gpt2", self.models / "broken")
        (self.models / "broken" / "model.onnx").write_bytes(b"<html>not found</html>")
        script = ROOT / "tests" / "fixtures" / "poisoned_model.py"
        poison = [sys.executable, script, tiny / "gpt2" / "model.onnx", "100"]
        shutil.copytree(self.models / "gpt2", self.models / "poisoned")
        subprocess.run([*poison, self.models / "poisoned" / "model.onnx"], check=True)
        self.write_list(chat="gpt2", code="llama", ill="gpt2", broken="broken")
        server = self.start(
            "gateway",
            {
                "INFERENCE_MODELS_FILE": str(self.list),
                "INFERENCE_MODEL_ROOT": str(self.models),
                "INFERENCE_PICKER_METRICS": "true",
                # A collector that is not there.
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "100",
                **self._keys(),
            },
        )
        controller = self.start("controller", self._away(), "controller")
        self.api = server.address(r'"api":"([^"]+)"')
        ops = r'"ops":"([^"]+)"'
        self.ops = server.address(ops)
        self._start_prometheus({"gateway": server.address(ops), "controller": controller.address(ops)})

    def _keys(self) -> dict[str, str]:
        """Keys of the gateway's clients."""
        keys = [
            {"name": "tests", "key": KEY, "models": ["*"]},
            {"name": "others", "key": OTHER_KEY, "models": ["none-of-these"]},
        ]
        file = self.folder / "keys.yaml"
        file.write_text(yaml.safe_dump({"keys": keys}))
        return {"INFERENCE_AUTH_MODE": "apiKeys", "INFERENCE_AUTH_KEYS_FILE": str(file)}

    def _away(self) -> dict[str, str]:
        """A cluster that is not there."""
        cluster = {"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}
        context = {"name": "away", "context": {"cluster": "away", "user": "nobody", "namespace": "models"}}
        user = {"name": "nobody", "user": {}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "away"}
        config |= {"clusters": [cluster], "contexts": [context], "users": [user]}
        file = self.folder / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        return {"KUBECONFIG": str(file), "INFERENCE_GATEWAY_NAME": "default"}

    def _start_prometheus(self, targets: dict[str, str]) -> None:
        jobs = []
        for job, target in targets.items():
            labels = {"namespace": "models", "pod": f"{job}-0"}
            jobs.append({"job_name": job, "static_configs": [{"targets": [target], "labels": labels}]})
        intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = {"global": intervals, "rule_files": [str(ALERTS)], "scrape_configs": jobs}
        file = self.folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [
            str(tool("prometheus")),
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder / 'samples'}",
            "--web.listen-address=127.0.0.1:0",
            "--enable-feature=exemplar-storage",
        ]
        program = self.run("prometheus", command, {"HOME": str(self.folder)})
        self.prometheus = program.address(r'msg="Listening on" .*?address=(127\.0\.0\.1:\d+)')
        until("prometheus", lambda: urllib.request.urlopen(f"http://{self.prometheus}/-/ready").status)

    def write_list(self, **models: str) -> None:
        """Writes the list of models, at once."""
        entries = [{"name": name, "spec": {"source": {"path": path}}} for name, path in models.items()]
        new = self.folder / "new.yaml"
        new.write_text(yaml.safe_dump(entries))
        new.replace(self.list)

    def ask(self, key: str = KEY, **body: Any) -> int:
        """A request; its status."""
        url = f"http://{self.api}/api/v1/inference"
        headers = {"x-api-key": key, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def metrics(self, accept: str = "*/*") -> str:
        """What the gateway tells whoever asks so."""
        request = urllib.request.Request(f"http://{self.ops}/metrics", headers={"accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.read().decode()

    def get(self, path: str, **parameters: str) -> Any:
        """What the HTTP API of Prometheus answers; an error of ours is an `AssertionError` with its words."""
        url = f"http://{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        return self.get("query", query=expression)["result"]
