#!/usr/bin/env python3
"""Tries the image by itself with podman, as root, before a cluster does. `make image-check` runs it.

    python3 tests/e2e/images/check.py IMAGE

Prints sizes and memory and fails at the first thing that is not so: what is and is not in the image, that it
answers with a read-only root and without capabilities, tries models in a child process, and finds hosts by
/etc/hosts and by the DNS. All of it in a network of its own, from which nothing outside is reached. Needs
prepared/tiny (`python3 scripts/prepare.py tiny`).
"""

import contextlib
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
TINY = CHECKOUT / "prepared" / "tiny" / "llama"
USER = "65532"
# crun refuses some layouts of cgroups, and podman's own limits need a capability that a container may lack.
PODMAN = ["podman", "--runtime", "runc"]
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network=host"]
CONFINED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
# A volume without a name takes its owner from the image, and goes with the container.
WRITABLE = ["--tmpfs=/tmp:mode=1777", "--volume=/var/cache/inference-gateway"]
OWN_NETWORK = "IMAGE_CHECK_HAS_OWN_NETWORK"
NAMESERVER = "127.0.0.153"
FORBIDDEN_NAMES = {"sh", "bash", "dash", "busybox", "perl", "python3", "dpkg", "apt", "apk", "curl"}
MEBIBYTE = 2**20


class CheckError(Exception):
    """What is not as it must be."""


def check(is_so: bool, text: str) -> None:
    """Print one line of the report, or fail."""
    if not is_so:
        raise CheckError(text)
    print(f"    ok: {text}", flush=True)


def check_files(image: str, work: Path) -> None:
    """Sizes, and what is and is not in the image."""
    archive = work / "image.tar"
    container = output(["podman", "create", image]).strip()
    try:
        output(["podman", "export", "--output", str(archive), container])
    finally:
        output(["podman", "rm", container])
    gzipped = int(output(["sh", "-c", f"gzip --stdout {archive} | wc --bytes"]))
    with tarfile.open(archive) as members:
        files = {member.name.removeprefix("./"): member for member in members.getmembers()}
    size = sum(member.size for member in files.values())
    print(f"==> files of {image}: {size / MEBIBYTE:.1f} MiB, compressed {gzipped / MEBIBYTE:.1f} MiB")
    for name in ("usr/local/bin/inference-gateway", "usr/local/lib/libonnxruntime.so"):
        check(name in files, f"/{name}: {files[name].size / MEBIBYTE:.1f} MiB")
    found = {name for name in files if name.rpartition("/")[2] in FORBIDDEN_NAMES and files[name].isfile()}
    check(not found, f"no shell, no interpreter, no package manager {sorted(found) or ''}")
    programs = {
        name for name, file in files.items() if file.isfile() and file.mode & 0o111 and ".so" not in name
    }
    check(programs == {"usr/local/bin/inference-gateway"}, f"one program: {', '.join(programs)}")
    models = {name for name in files if name.endswith((".onnx", ".gguf", ".ort", "tokenizer.json"))}
    check(not models, f"no model {sorted(models) or ''}")
    check(files["tmp"].mode & 0o7777 == 0o1777, "/tmp has mode 1777")
    owner = files["var/cache/inference-gateway"]
    check((owner.uid, owner.gid) == (int(USER), int(USER)), f"the cache folder belongs to {USER}")
    owned = {name for name, file in files.items() if file.uid and name != "var/cache/inference-gateway"}
    check(not owned, f"all else belongs to root {sorted(owned) or ''}")
    for name in (
        "usr/share/doc/onnxruntime/LICENSE",
        "usr/share/doc/libc6/copyright",
        "var/lib/dpkg/status.d/libc6",
    ):
        check(name in files, f"/{name} is there")


def check_settings(image: str) -> None:
    """User, entry point, labels."""
    settings = json.loads(output(["podman", "image", "inspect", image]))[0]
    print(f"==> settings: {settings['Architecture']}, {len(settings['RootFS']['Layers'])} layers")
    check(settings["Config"]["User"] == f"{USER}:{USER}", "a numeric user")
    labels = settings["Config"]["Labels"]
    for name in ("title", "description", "source", "licenses", "version", "revision", "created"):
        value = labels.get(f"org.opencontainers.image.{name}")
        check(bool(value), f"label {name}: {value}")


def check_service(image: str) -> None:
    """Read-only root, no capability: serves, and says what it takes when idle."""
    print("==> serve: read-only root, no capability, only /tmp and the cache can be written")
    api, ops, admin = (free_port() for _ in range(3))
    settings = {
        "INFERENCE_DEFAULT_MODEL_NAME": "tiny",
        "INFERENCE_DEFAULT_MODEL_PATH": "/models/tiny",
        "INFERENCE_LISTEN_ADDRESS": f"127.0.0.1:{api}",
        "INFERENCE_OPS_ADDRESS": f"127.0.0.1:{ops}",
        "INFERENCE_ADMIN_ADDRESS": f"127.0.0.1:{admin}",
    }
    variables = [f"--env={name}={value}" for name, value in settings.items()]
    command = [*PODMAN, "run", "--detach", *LIMITS, *CONFINED, *WRITABLE, *variables]
    container = output([*command, f"--volume={TINY}:/models/tiny:ro", image]).strip()
    try:
        ready = wait_until_ready(f"http://127.0.0.1:{ops}/readyz", container)
        print(f"    ready after {ready:.1f} s")
        body = json.dumps({"text": "Hello", "max_tokens": 8, "temperature": 0}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{api}/api/v1/inference", body) as answer:
            generated = json.load(answer)
        check(generated["metadata"]["tokens_generated"] == 8, "a request is answered with 8 tokens")
        process = output([*PODMAN, "inspect", "--format", "{{.State.Pid}}", container]).strip()
        status = process_status(process)
        check(status["Uid"].split() == [USER] * 4, f"the process runs as {USER}")
        check(int(status["CapEff"], 16) == 0, "without a capability")
        time.sleep(2)
        status = process_status(process)
        resident, own = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
        print(f"==> memory: idle, a tiny model: {resident:.1f} MiB resident, {own:.1f} MiB of it its own")
        started = time.monotonic()
        output([*PODMAN, "stop", "--time", "30", container])
        code = output([*PODMAN, "inspect", "--format", "{{.State.ExitCode}}", container]).strip()
        check(code == "0", f"stops with status {code} in {time.monotonic() - started:.1f} s")
    finally:
        output([*PODMAN, "rm", "--force", "--volumes", "--time", "0", container])


def check_trial(image: str) -> None:
    """`verify` starts the program again as a child, by /proc/self/exe."""
    print("==> verify: a child process loads the model")
    said = output([*run_once(), f"--volume={TINY}:/models/tiny:ro", image, "verify", "/models/tiny"])
    check("context" in said, said.strip().splitlines()[0])


def check_names(image: str, work: Path) -> None:
    """A model comes from a server that has only a name: first in /etc/hosts, then in the DNS."""
    print("==> names: a model from a server of this machine")
    folder = work / "model"
    shutil.copytree(TINY, folder)
    folder.chmod(0o777)
    output([*run_once(), f"--volume={folder}:/model", image, "pack", "/model"])
    handler = functools.partial(QuietHandler, directory=str(folder))
    allow = ["--env=INFERENCE_INSECURE_HOSTS=*.test", "--env=INFERENCE_ALLOWED_PRIVATE_NETWORKS=127.0.0.0/8"]
    start_name_server("models-in-dns.test")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        for how, name, flags in (
            ("/etc/hosts", "models-in-hosts.test", ["--add-host=models-in-hosts.test:127.0.0.1"]),
            ("the DNS", "models-in-dns.test", [f"--dns={NAMESERVER}"]),
        ):
            source = f"http://{name}:{server.server_address[1]}/manifest.json"
            said = output([*run_once(), *flags, *allow, image, "fetch", source])
            check("sha256:" in said, f"found by {how}: {said.splitlines()[0]}")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(server: http.server.ThreadingHTTPServer) -> Iterator[http.server.ThreadingHTTPServer]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


def start_name_server(known: str) -> None:
    """A name server that knows one name, with the address 127.0.0.1, until this process ends."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in known.split(".")) + b"\0"
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((NAMESERVER, 53))

    def answer() -> None:
        while True:
            query, client = listener.recvfrom(4096)
            end = query.index(b"\0", 12) + 5
            is_known, is_a = query[12:].startswith(question), query[end - 4 : end - 2] == b"\0\1"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if is_known and is_a else b""
            flags = b"\x81\x80" if is_known else b"\x81\x83"
            counts = b"\0\1" + (b"\0\1" if record else b"\0\0") + bytes(4)
            listener.sendto(query[:2] + flags + counts + query[12:end] + record, client)

    threading.Thread(target=answer, daemon=True).start()


def run_once() -> list[str]:
    """The command that runs the image once, confined as in a cluster."""
    return [*PODMAN, "run", "--rm", *LIMITS, *CONFINED, *WRITABLE]


def wait_until_ready(address: str, container: str) -> float:
    """Seconds until `address` answers with 200."""
    started = time.monotonic()
    while time.monotonic() - started < 60:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return time.monotonic() - started
        time.sleep(0.1)
    raise CheckError(
        f"not ready after 60 s; its log ends: {output([*PODMAN, 'logs', '--tail', '5', container])}"
    )


def process_status(process: str) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def output(command: list[str]) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CheckError(
            f"'{' '.join(command[:4])} … {' '.join(command[-3:])}' ended with {done.returncode}: {said}"
        )
    return done.stdout or done.stderr


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    image = sys.argv[1]
    if os.environ.get(OWN_NETWORK) is None:
        inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv]
        return subprocess.run(["unshare", "--net", *inside], env=os.environ | {OWN_NETWORK: "1"}).returncode
    if not TINY.exists():
        print(f"check.py: error: {TINY} is missing: python3 scripts/prepare.py tiny", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="image-check-") as work:
            check_settings(image)
            check_files(image, Path(work))
            check_trial(image)
            check_service(image)
            check_names(image, Path(work))
    except CheckError as error:
        print(f"check.py: {image}: failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
