"""The node goes down: what was there comes back by itself, with the apiserver and without."""

import time
from datetime import datetime
from pathlib import Path

from e2e import traffic
from e2e.bed import TOKENS
from e2e.cluster import eventually
from e2e.console import check
from e2e.fleet import MODEL, NAMESPACE, Fleet
from e2e.models import FIRST, SECOND

LATE_SECONDS = 40
WATCHED_SECONDS = 60
"""For so long pods keep the revision before: the power goes earlier."""


def run(fleet: Fleet) -> None:
    """Switched off and on; the same with a late apiserver; every container killed without an apiserver."""
    fleet.apply(_spec(fleet, SECOND))
    revision = fleet.rolled_out(SECOND)
    _power_cycle(fleet, revision, "everything is killed and started again", 0)
    late = f"the same, with the apiserver {LATE_SECONDS} s late"
    _power_cycle(fleet, revision, late, LATE_SECONDS)
    _without_apiserver(fleet, revision)


def _spec(fleet: Fleet, model: str) -> dict:
    spec = fleet.spec(model)
    spec["rollout"]["watch"]["windowSeconds"] = WATCHED_SECONDS
    return spec


def _power_cycle(fleet: Fleet, revision: str, what: str, api_after_seconds: float) -> None:
    node = fleet.cluster.node
    with fleet.report.step(f"{NAMESPACE}: {what}; all come back by themselves"):
        pods = {pod["metadata"]["uid"] for pod in fleet.pods()}
        node.power_off()
        began = time.time()
        node.boot(api_after_seconds=api_after_seconds)
        node.wait_ready()
        # What the apiserver remembers of before the end is not what is meant.
        eventually("all pods, started anew", lambda: _started_since(fleet, began), pause=0.5)
        fleet.report.number(f"{what}, until every pod was ready", f"{time.time() - began:.0f} s")
        check({pod["metadata"]["uid"] for pod in fleet.pods()} == pods, "pods were made anew")
        _answers(fleet, revision)
    with fleet.report.step(f"{NAMESPACE}: and follow an update"):
        _follows_updates(fleet)


def _started_since(fleet: Fleet, began: float) -> bool:
    pods = fleet.all_ready() or []
    starts = [
        one["state"]["running"]["startedAt"] for pod in pods for one in pod["status"]["containerStatuses"]
    ]
    return bool(starts) and all(datetime.fromisoformat(start).timestamp() >= int(began) for start in starts)


def _without_apiserver(fleet: Fleet, revision: str) -> None:
    node = fleet.cluster.node
    with fleet.report.step(
        f"{NAMESPACE}: every container is killed while there is no apiserver; gateways answer again"
    ):
        node.stop("kube-apiserver")
        before = set(_addresses(node.folder))
        killed = node.kill_containers()
        check(killed > 0, "no container was killed")
        began = time.time()
        # Nobody can be asked where the pods are, but the plug-in that gave them their addresses keeps a list.
        # Containers that died before are started after pauses that grow, as always.
        eventually(
            "three gateways",
            lambda: len(_gateways(node.folder, before)) >= _size(fleet),
            seconds=300,
            pause=0.5,
        )
        fleet.report.number(
            "all containers killed without an apiserver, until every gateway answered",
            f"{time.time() - began:.0f} s",
        )
        for address, answer in _gateways(node.folder, before).items():
            expected = traffic.Answer(revision, fleet.bed.text(SECOND))
            check(answer == expected, f"{address} answers {answer}")
    with fleet.report.step(f"{NAMESPACE}: the apiserver is back; pods are ready and follow an update"):
        node.start("kube-apiserver")
        eventually("all pods, started anew", lambda: _started_since(fleet, began), pause=0.5)
        _answers(fleet, revision)
        _follows_updates(fleet)


def _size(fleet: Fleet) -> int:
    """The number of gateways, also where nobody can be asked."""
    return int(fleet.values["replicaCount"])


def _addresses(folder: Path) -> list[str]:
    return [file.name for file in (folder / "addresses" / "pods").glob("10.*")]


def _gateways(folder: Path, old: set[str]) -> dict[str, traffic.Answer]:
    """Answers of all pods that have begun since and are gateways."""
    found = {}
    for address in set(_addresses(folder)) - old:
        try:
            found[address] = traffic.ask_once(address, traffic.question(MODEL, False, TOKENS))
        except (OSError, traffic.Refused):
            continue
    return found


def _answers(fleet: Fleet, revision: str) -> None:
    expected = traffic.Answer(revision, fleet.bed.text(SECOND))
    eventually(
        f"{revision} in every pod",
        lambda: all(fleet.bed.ask_pod(pod, MODEL) == expected for pod in fleet.pods()),
        seconds=120,
    )
    # kube-proxy has to hear of new addresses; it asks a lost apiserver after pauses of up to half a minute.
    eventually("an answer of the Service", lambda: _service_answers(fleet, expected), seconds=120)


def _service_answers(fleet: Fleet, expected: traffic.Answer) -> bool:
    try:
        return all(fleet.bed.ask(NAMESPACE, MODEL) == expected for _ in range(10))
    except OSError:
        return False


def _follows_updates(fleet: Fleet) -> None:
    """To the other model and back: the controller leads, pods watch, names are found, files are served."""
    for model in (FIRST, SECOND):
        fleet.apply(_spec(fleet, model))
        fleet.rolled_out(model)
