"""What is known about the machine and about processes on it, all from /proc."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> list[tuple[str, str]]:
    """The machine and the versions, as rows of a table."""
    return [
        ("CPU", f"{_processor()}, {len(os.sched_getaffinity(0))} cores used"),
        ("Memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("ONNX Runtime", metadata.version("onnxruntime")),
        ("onnxruntime-genai", metadata.version("onnxruntime-genai")),
    ]


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def idle_cpu_share(process_id: int, seconds: float) -> float:
    """Share of one core that a process uses while nobody asks it anything."""
    before, started = cpu_seconds(process_id), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(process_id) - before) / (time.monotonic() - started)


def resident_bytes(process_id: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {process_id} has no resident memory")


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    features = [name for name in ("avx2", "avx512f", "avx512_vnni", "asimddp", "i8mm") if f" {name}" in text]
    return f"{name} ({', '.join(features)})" if features else name
