"""The command line: what is run, in which order, and what is done whatever happens."""

import argparse
import fcntl
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e import bed as beds
from e2e import fleet as fleets
from e2e import machine, models, services
from e2e.bed import Bed
from e2e.cluster import Cluster
from e2e.console import CheckFailed, Report, Unusable, check, say
from e2e.fleet import Fleet
from e2e.images import build
from e2e.node.node import Node
from e2e.parts import access, config_map, env, monitoring, restart, rollouts, upgrade

RELEASES: dict[str, tuple[str, Callable[[Bed], None]]] = {
    "env": ("mode env, model from a server in the cluster", env.from_the_cluster),
    "host": ("mode env, model from a folder of the host", env.from_the_host),
    "configmap": ("mode configMap, list changed under load", config_map.run),
    "access": ("keys, users of the cluster, TLS; changed while it serves", access.run),
}
"""Parts with a release of their own."""
OF_THE_FLEET: dict[str, tuple[str, Callable[[Fleet], None]]] = {
    "crd": ("mode crd, three gateways, a Model", lambda fleet: None),
    "update": ("a Model is updated under load", rollouts.update),
    "broken": ("broken updates under load", rollouts.broken),
    "delete": ("pods are deleted one by one under load", rollouts.delete_pods),
    "metrics": ("a real Prometheus scrapes every pod", monitoring.run),
    "upgrade": ("pods are replaced under streams", upgrade.run),
    "crash": ("control: a crash under load is noticed", rollouts.crash),
    "restart": ("the node is switched off and on", restart.run),
}
"""Parts that share one release in mode crd, in this order."""
PARTS = {**RELEASES, **OF_THE_FLEET}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make e2e", description="The end-to-end test on a real node")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)}; all of them by default"
    )
    parser.add_argument(
        "--image", type=lambda path: Path(path).resolve(), help="an archive of the gateway's image, in place of building it"
    )
    parsed = parser.parse_args()
    if parsed.parts == ["list"]:
        for name, (text, _) in PARTS.items():
            print(f"  {name:12} {text}")
        sys.exit(0)
    if unknown := [part for part in parsed.parts if part not in PARTS]:
        parser.error(f"unknown part '{unknown[0]}' (parts: {', '.join(PARTS)})")
    parsed.parts = parsed.parts or list(PARTS)
    return parsed


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Everything, in this order. A part that fails does not keep the next one from being tried."""
    with report.step("images: the gateway's and those of the cluster"):
        files = models.make(machine.TARGET / "models")
        images = build.small_images(files.folder)
        gateway = arguments.image or build.gateway_image(beds.version())
        unpacked, compressed = build.bytes_of(gateway)
        report.number("image", f"{unpacked / 2**20:.1f} MiB, {compressed / 2**20:.1f} MiB compressed")
    node = Node(machine.TARGET / "node")
    try:
        with report.step("node: switched on, with network, mounts and processes of its own"):
            node.boot([*images, gateway])
            node.wait_ready()
        with report.step("node: no link leads out of it, so nothing comes from outside"):
            check(not node.ways_out(), f"links that lead elsewhere: {node.ways_out()}")
        cluster = Cluster(node)
        bed = Bed(cluster, report, files)
        with report.step("cluster: CoreDNS and a server of files"):
            services.start(cluster)
        with report.step("reference: what each model answers"):
            beds.learn_texts(bed)
        for part in [part for part in RELEASES if part in arguments.parts]:
            with keep_going(bed, part):
                RELEASES[part][1](bed)
        parts = [part for part in OF_THE_FLEET if part in arguments.parts]
        if parts:
            with keep_going(bed, "crd"), fleets.installed(bed) as fleet:
                for part in parts:
                    with keep_going(bed, part):
                        OF_THE_FLEET[part][1](fleet)
    finally:
        with report.step("node: removed"):
            node.remove()


@contextmanager
def keep_going(bed: Bed, part: str) -> Iterator[None]:
    """A part that fails is told, and the next one is tried."""
    try:
        yield
    except Exception as error:
        say(f"part {part} ends here: {type(error).__name__}")
        # Steps tell what fails in them. What fails between them must not pass.
        if not bed.report.was_told(error):
            bed.report.steps.append((f"part {part}", 0.0, str(error)))
            traceback.print_exc()
        keep_evidence(bed.cluster, part)


def keep_evidence(cluster: Cluster, part: str) -> None:
    """What somebody will want to see once the cluster is gone, in target/e2e/failures/PART."""
    folder = machine.TARGET / "failures" / part
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in {
        "objects": ["get", "all", "--all-namespaces", "--output=wide"],
        "events": ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
        "pods": ["describe", "pods", "--all-namespaces"],
        "models": [
            "get",
            "models.inference-gateway.io,modelreplicas.inference-gateway.io",
            "-A",
            "--output=yaml",
        ],
    }.items():
        (folder / name).write_text(cluster.node.kubectl(*command).stdout)
    shutil.copytree(machine.TARGET / "node" / "log", folder / "log", dirs_exist_ok=True, symlinks=True)
    for log in (machine.TARGET / "node").glob("*.log"):
        shutil.copy(log, folder)
    say(f"     objects, events and logs are in {folder}")


def main() -> int:
    """Returns the exit status."""
    arguments = parse_arguments()
    # Whoever ends it wants nothing left, as with Ctrl-C.
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, signal.default_int_handler)
    report = Report()
    try:
        machine.require()
        machine.TARGET.mkdir(parents=True, exist_ok=True)
        with (machine.TARGET / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unusable("another `make e2e` runs in this checkout") from None
            shutil.rmtree(machine.TARGET / "failures", ignore_errors=True)
            # What a killed run left.
            Node(machine.TARGET / "node").remove()
            run(arguments, report)
    except Unusable as error:
        print(f"e2e: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("e2e: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not report.failures() or not isinstance(error, CheckFailed):
            raise
    if report.steps:
        report.summary()
    return 1 if report.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
