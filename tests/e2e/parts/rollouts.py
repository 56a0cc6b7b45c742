"""Changes of a Model under load that nobody who asks may notice, and one crash that must be noticed."""

import os
import signal

from e2e.bed import LONG_TOKENS
from e2e.cluster import eventually
from e2e.console import check
from e2e.fleet import NAMESPACE, Fleet, condition, container_id
from e2e.models import BROKEN, FIRST, SECOND
from e2e.node import cgroups
from e2e.traffic import Phase, require_unnoticed


def update(fleet: Fleet) -> None:
    """From the first model to the second."""
    report = fleet.report
    with report.step(f"{NAMESPACE}: update to a second model in {len(fleet.pods())} pods, under load"):
        fleet.apply(fleet.spec(FIRST))
        first = fleet.rolled_out(FIRST)
        clients = fleet.traffic("before")
        try:
            clients.at_least(50)
            phase = clients.phase("update")
            fleet.apply(fleet.spec(SECOND))
            second = fleet.rolled_out(SECOND)
            fleet.table()
            # What was under way when the last pod had changed ends in this phase too.
            clients.at_least(phase.requests + 100)
            after = clients.phase("after")
            clients.at_least(100)
        finally:
            clients.stop()
        _judge(fleet, clients, "update", phase, requests=200)
        check(set(phase.revisions()) == {first, second}, f"the load did not see both: {phase.line()}")
        check(set(after.revisions()) == {second}, f"after the update: {after.line()}")


def broken(fleet: Fleet) -> None:
    """Two updates that must go away: one that cannot be loaded, one that does badly while it serves."""
    report = fleet.report
    fleet.apply(fleet.spec(SECOND))
    stable = fleet.rolled_out(SECOND)
    clients = fleet.traffic("before")
    try:
        with report.step(
            f"{NAMESPACE}: an update whose graph is broken is given up before it serves, under load"
        ):
            phase = clients.phase("broken")
            fleet.apply(fleet.spec(BROKEN))
            status = fleet.wait("failure", lambda status: condition(status, "Stalled") != "-")
            fleet.table()
            report.number("broken update, told as", _failure(status))
            check(condition(status, "Ready") == "False PreflightFailed", f"{status['conditions']}")
            clients.at_least(phase.requests + 100)
            _require_all_serve(fleet, stable)
            _judge(fleet, clients, "broken update", phase, requests=100)
            check(set(phase.revisions()) == {stable}, f"something else answered: {phase.line()}")
        with report.step(
            f"{NAMESPACE}: an update that does badly in its first pod is rolled back, under load"
        ):
            phase = clients.phase("slow")
            fleet.apply(slow(fleet))
            status = fleet.wait("failure", lambda status: condition(status, "Ready") == "False RolledBack")
            fleet.table()
            report.number("bad update, told as", _failure(status))
            fleet.texts[status["lastFailure"]["revision"]] = FIRST
            clients.at_least(phase.requests + 100)
            _require_all_serve(fleet, stable)
            _judge(fleet, clients, "update that was rolled back", phase, requests=150)
            check(len(phase.revisions()) == 2, f"nobody was answered by the bad revision: {phase.line()}")
        fleet.apply(fleet.spec(SECOND))
        fleet.rolled_out(SECOND)
    finally:
        clients.stop()


def slow(fleet: Fleet) -> dict:
    """The first model again, which is to be quicker than anything can be."""
    spec = fleet.spec(FIRST, runtime={"maxBatchSize": 8})
    watch = {"windowSeconds": 60, "minimumRequests": 3, "maxFirstTokenMilliseconds": 0}
    return {**spec, "rollout": {**spec["rollout"], "minReadySeconds": 30, "watch": watch}}


def delete_pods(fleet: Fleet) -> None:
    """Each pod, one after the other, as a drain of its node would."""
    report = fleet.report
    stable = fleet.wait("a stable revision", lambda status: "stable" in status)["stable"]["revision"]
    old = [pod["metadata"]["name"] for pod in fleet.pods()]
    with report.step(f"{NAMESPACE}: the old pods are deleted one by one, under load"):
        clients = fleet.traffic("before")
        try:
            clients.at_least(50)
            phase = clients.phase("deleted")
            for name in old:
                fleet.cluster.kubectl("delete", "pod", name, f"--namespace={NAMESPACE}", "--timeout=120s")
                eventually("three ready pods", fleet.all_ready)
            clients.at_least(phase.requests + 100)
        finally:
            clients.stop()
        left = {pod["metadata"]["name"] for pod in fleet.pods()} & set(old)
        check(not left, f"old pods that stayed: {left}")
        _judge(fleet, clients, "pods deleted one by one", phase, requests=300)
        check(phase.connections >= 1, "no client had to leave a pod that ended")
        _require_all_serve(fleet, stable)


def crash(fleet: Fleet) -> None:
    """The negative control: clients that do not notice a gateway killed outright notice nothing."""
    report = fleet.report
    with report.step(f"{NAMESPACE}: control: a gateway that is killed amid its answers is noticed"):
        clients = fleet.traffic("before", tokens=LONG_TOKENS, streams_only=True)
        try:
            clients.at_least(50)
            phase = clients.phase("crash")
            # Until a stream was under way in the one that is killed, which is the first time nearly always.
            for pod in fleet.pods():
                _kill(fleet, pod)
                clients.at_least(phase.requests + 30)
                if cut := [failure for failure in phase.failures if "IncompleteRead" in failure]:
                    break
        finally:
            clients.stop()
        report.number("control, a gateway killed", phase.line())
        check(bool(cut), f"nobody noticed a stream that was cut: the clients are blind; {phase.failures}")
        report.number("control, what a client said", cut[0])
        eventually("three ready pods", fleet.all_ready)


def _kill(fleet: Fleet, pod: dict) -> None:
    for folder in cgroups.of_container(fleet.cluster.node.settings.cgroup, container_id(pod)):
        for process in (folder / "cgroup.procs").read_text().split():
            os.kill(int(process), signal.SIGKILL)
        return


def _judge(fleet: Fleet, clients: object, what: str, phase: Phase, requests: int) -> None:
    fleet.report.number(what, phase.line())
    require_unnoticed(phase, requests, streams=requests // 3)
    clients.require_texts(fleet.expected())


def _require_all_serve(fleet: Fleet, revision: str) -> None:
    eventually(
        f"{revision} in all pods",
        lambda: (
            set(serving := fleet.serving().values()) == {revision} and len(list(serving)) == len(fleet.pods())
        ),
        seconds=60,
    )


def _failure(status: dict) -> str:
    failure = status["lastFailure"]
    return f"{condition(status, 'Stalled')}; {failure['reason']}: {failure['message'][:160]}"
