#!/usr/bin/env python3
"""Prepare everything that `cargo` does not: ONNX Runtime, the model, tiny models, what else the tests need.

    python3 scripts/prepare.py [--precision w8a8|int8|fp32]... [TARGET]...

    library        prepared/lib/libonnxruntime.so (of another processor: --machine)
    model          prepared/models/smollm2-135m-instruct-PRECISION/
    tiny           prepared/tiny/NAME/
    python-chat    prepared/venv/ with what `make chat-fixtures` imports
    python-formats prepared/venv/ with what `make formats` imports
    python-browser prepared/venv/ with what `make browser-test` imports
    python-tests   prepared/venv/ with what the Python tests and the benchmark import
    kubernetes     prepared/kubernetes/ with etcd, kube-apiserver, kube-controller-manager (needs Go)
    tools          prepared/tools/ with helm, kubeconform, promtool, prometheus, otel-collector (needs Go),
                   prepared/schemas/ with schemas of all that manifests hold, and the python-tests
    node           prepared/node/ with the programs of a cluster of one real node, for `make e2e` (needs Go)
    load           prepared/tools/ with vegeta, for `make load` (needs Go)

Without a target: library and model. What is there and current is left alone, so run it as often as you like.
It may be killed at any time: the next run goes on with what was finished. Downloads (about 120 MB), and what
was built with Go (Kubernetes 240 MB, the tools 200 MB, the node 420 MB), are kept in
$XDG_CACHE_HOME/inference-gateway (default ~/.cache/inference-gateway).
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("prepare.py: error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])

import argparse
import errno
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from preparation import pins
from preparation.console import PrepareError, run_command, say, step
from preparation.folders import (
    Stamps,
    build_folder,
    default_cache_folder,
    exclusive_lock,
    hash_of_inputs,
    require_free_space,
)
from preparation.kubernetes import prepare_control_plane
from preparation.node import prepare_node
from preparation.python_environment import PythonEnvironment
from preparation.schemas import prepare_schemas
from preparation.tools import load_tools, prepare_tools, tools
from preparation.wheels import Downloader, fetch, notice_in_cache, pip_downloader

CHECKOUT = Path(__file__).resolve().parent.parent
TARGETS = (
    "library", "model", "tiny", "python-tests", "python-chat", "python-formats", "python-browser", "kubernetes", "tools", "node",
    "load",
)  # fmt: skip
MODEL_MEBIBYTES = {"w8a8": 170, "int8": 160, "fp32": 560}


class Preparation:
    """The state of `prepared/` against what was asked for; holds the lock while it exists."""

    def __init__(self, checkout: Path, cache: Path, lock: int, machine: str | None = None) -> None:
        self.scripts = checkout / "scripts"
        self.fixtures = checkout / "tests" / "fixtures"
        self.prepared = checkout / "prepared"
        self.cache = cache
        self.lock = lock
        self.machine = machine
        self.stamps = Stamps(self.prepared)
        self.environment = PythonEnvironment(self.prepared / "venv", self.scripts, lock)

    def inputs(self, result: str) -> str:
        """Hash of everything that the content of `result` depends on."""
        converter = [*(self.scripts / "convert").glob("*.py"), self.scripts / "requirements.txt"]
        if result == "lib":
            pin = pins.onnx_runtime(self.machine)
            return hash_of_inputs([], pin.member_sha256, *pin.notices)
        if result == "tiny":
            return hash_of_inputs([*converter, *self.fixtures.glob("tiny_*.py")])
        return hash_of_inputs(
            converter, result, pins.MODEL.member_sha256, *_model_options(_precision_of(result))
        )

    def make(self, results: list[str], requirement_files: list[str]) -> None:
        """Make what is outdated: the environment first, then downloads side by side, then conversions."""
        outdated = [result for result in results if not self.stamps.is_current(result, self.inputs(result))]
        models = [result for result in outdated if result.startswith("models/")]
        if models or "tiny" in outdated:
            requirement_files = list(dict.fromkeys(["requirements.txt", *requirement_files]))
        current = [result for result in results if result not in outdated]
        if requirement_files and self.environment.has(requirement_files):
            current.append("venv")
        if current:
            say(f"up to date: {', '.join(current)}")
        if not outdated and self.environment.has(requirement_files):
            return

        self.environment.create()
        download = pip_downloader(self.environment.python, self.lock)
        with ThreadPoolExecutor() as pool:
            packages = pool.submit(self.environment.install, requirement_files)
            library = pool.submit(self.make_library, download) if "lib" in outdated else None
            gguf = pool.submit(fetch, pins.MODEL, self.cache, download, "model") if models else None
            _wait_for_all([packages, library, gguf])
            conversions = [pool.submit(self.make_model, result, gguf.result()) for result in models]
            _wait_for_all([*conversions, pool.submit(self.make_tiny_models) if "tiny" in outdated else None])

    def make_library(self, download: Downloader) -> None:
        """prepared/lib: ONNX Runtime's library, under the names with which it is loaded and linked, and its
        licences.
        """
        pin = pins.onnx_runtime(self.machine)
        cached = fetch(pin, self.cache, download, "library")

        def build(folder: Path) -> None:
            require_free_space(folder, pin.member_bytes)
            shutil.copyfile(cached, folder / "libonnxruntime.so")
            (folder / "libonnxruntime.so").chmod(0o755)
            # Its soname: what a program that was linked with it asks for.
            (folder / "libonnxruntime.so.1").symlink_to("libonnxruntime.so")
            for notice in pin.notices:
                shutil.copyfile(notice_in_cache(pin, notice, self.cache), folder / Path(notice).name)

        with step(f"library: onnxruntime {pin.version} in prepared/lib"):
            build_folder(self.prepared, "lib", self.inputs("lib"), build)

    def make_model(self, result: str, gguf: Path) -> None:
        """prepared/models/NAME: the model as ONNX graph with its Hugging Face side files."""
        precision = _precision_of(result)

        def build(folder: Path) -> None:
            require_free_space(folder, MODEL_MEBIBYTES[precision] * 2**20)
            self._run_python("-m", "convert", str(gguf), str(folder), *_model_options(precision))

        with step(f"model: {pins.MODEL_NAME} converted to ONNX {precision}"):
            build_folder(self.prepared, result, self.inputs(result), build)

    def make_tiny_models(self) -> None:
        """prepared/tiny: random models of a few hundred KB, for tests."""
        with step("tiny: test models made"):
            build_folder(
                self.prepared,
                "tiny",
                self.inputs("tiny"),
                lambda folder: self._run_python(str(self.fixtures / "tiny_models.py"), str(folder)),
            )

    def _run_python(self, *arguments: str) -> None:
        variables = {**os.environ, "PYTHONPATH": str(self.scripts)}
        run_command([self.environment.python, *arguments], environment=variables, keep_open=[self.lock])


def _model_result(precision: str) -> str:
    return f"models/{pins.MODEL_NAME}-{precision}"


def _precision_of(model_result: str) -> str:
    return model_result.rpartition("-")[2]


def _model_options(precision: str) -> list[str]:
    """The shape that the gateway serves best: attention in one operator, logits only where they are wanted."""
    return ["--attention", "gqa", "--logits", "last", "--weights", precision]


def _wait_for_all(tasks: list[Future | None]) -> None:
    """Let every task end, then raise the first failure: what succeeds is kept for the next run."""
    failures = [failure for task in tasks if task and (failure := task.exception()) is not None]
    if failures:
        raise failures[0]


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; see the text at the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of: {', '.join(TARGETS)}")
    parser.add_argument(
        "--precision",
        action="append",
        choices=sorted(MODEL_MEBIBYTES),
        help="of the target 'model'; may be given more than once (default: w8a8)",
    )
    parser.add_argument(
        "--machine",
        choices=sorted(pins.ONNX_RUNTIME),
        help="of the target 'library': the processor it is for (default: this one)",
    )
    parsed = parser.parse_args(arguments)
    unknown = [target for target in parsed.targets if target not in TARGETS]
    if unknown:
        parser.error(f"unknown target '{unknown[0]}' (targets: {', '.join(TARGETS)})")
    parsed.targets = parsed.targets or ["library", "model"]
    parsed.precision = parsed.precision or ["w8a8"]
    return parsed


def main() -> int:
    """Returns the exit status."""
    wanted = parse_arguments(sys.argv[1:])
    results = (["lib"] if "library" in wanted.targets else []) + (
        ["tiny"] if "tiny" in wanted.targets else []
    )
    if "model" in wanted.targets:
        results += [_model_result(precision) for precision in dict.fromkeys(wanted.precision)]
    for_python = {"python-tests", "tools"} & set(wanted.targets)
    parts = ["tests", "clients", "formats", "openapi"] if for_python else []
    others = ("formats", "chat", "browser")
    parts += [part for part in others if f"python-{part}" in wanted.targets and part not in parts]
    requirements = [f"requirements-{part}.txt" for part in parts]
    if requirements:
        requirements.insert(0, "requirements.txt")
    try:
        with exclusive_lock(CHECKOUT / "prepared" / ".lock", "this checkout") as lock:
            cache = default_cache_folder()
            preparation = Preparation(CHECKOUT, cache, lock, wanted.machine)
            if results or requirements:
                preparation.make(results, requirements)
            scripts, prepared = CHECKOUT / "scripts", CHECKOUT / "prepared"
            if "kubernetes" in wanted.targets:
                prepare_control_plane(scripts / "kubernetes", cache, prepared, lock)
            if "tools" in wanted.targets:
                prepare_tools("tools", tools(scripts / "tools"), cache, prepared, lock)
                prepare_schemas(CHECKOUT, cache, prepared, preparation.environment.python, lock)
            if "node" in wanted.targets:
                prepare_node(scripts, cache, prepared, lock)
            if "load" in wanted.targets:
                prepare_tools("load", load_tools(scripts / "tools"), cache, prepared, lock)
    except PrepareError as error:
        print(f"prepare.py: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        advice = (
            "free some space and run again" if error.errno == errno.ENOSPC else "nothing half-made was left"
        )
        print(f"prepare.py: error: {error} ({advice})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare.py: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
