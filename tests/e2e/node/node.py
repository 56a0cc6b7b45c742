"""A node that can be switched on, switched off and removed."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from e2e.console import CheckFailed, say
from e2e.machine import checkout_name, program
from e2e.node import cgroups
from e2e.node.settings import CONTAINERD_SOCKET, NODE_ADDRESS, NODE_LINK, NODE_NAME, Settings

BEFORE_API = ("containerd", "etcd", "kube-apiserver")
AFTER_API = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
CLONE_NEWNET = 0x40000000
# Usually five seconds. Where many build at once a minute was seen.
PATIENCE = 180


class Node:
    """The only node of a cluster. Whoever makes one removes it."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(folder, f"inference-gateway-e2e-{checkout_name()}")
        self.folder = folder
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._namespaces: subprocess.Popen | None = None
        self._init = 0
        self._booted = 0.0
        self._components: dict[str, subprocess.Popen] = {}

    def boot(self, images: Sequence[Path] = (), api_after_seconds: float = 0) -> None:
        """Start everything, the apiserver perhaps later. Then this process is in the node's network."""
        first = not self.settings.keys.exists()
        if first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.settings.make()
        self._booted = time.time()
        cgroups.make(self.settings.cgroup)
        self._make_namespaces()
        self.start("containerd")
        self._wait("containerd", lambda: self._containers("version").returncode == 0)
        for image in images:
            done = self._containers("--namespace", "k8s.io", "images", "import", str(image))
            if done.returncode != 0:
                raise CheckFailed(f"{image} cannot be imported: {done.stderr.strip()}")
        self.start("etcd")
        if api_after_seconds:
            for component in AFTER_API:
                self.start(component)
            time.sleep(api_after_seconds)
        self.start("kube-apiserver")
        self._wait("kube-apiserver", lambda: self.kubectl("get", "--raw", "/readyz").returncode == 0)
        if first:
            self._grant()
        for component in AFTER_API:
            self.start(component)

    def wait_ready(self) -> None:
        """Wait until the kubelet has said that the node is ready, since the last boot."""
        ready = '@.type=="Ready"'
        fields = f"-ojsonpath={{.status.conditions[?({ready})]['status','lastHeartbeatTime']}}"

        def said_so() -> bool:
            status, _, when = self.kubectl("get", "node", NODE_NAME, fields).stdout.partition(" ")
            return status == "True" and datetime.fromisoformat(when).timestamp() > self._booted

        self._wait("node", said_so)

    @staticmethod
    def ways_out() -> list[str]:
        """Links by which the node reaches anything but itself and its pods: there must be none."""
        shown = subprocess.run(
            ["ip", "-json", "-details", "link"], capture_output=True, text=True, check=True
        )
        links = {link["ifname"]: link for link in json.loads(shown.stdout)}
        del links["lo"]
        # Links of pods are on the bridge; the two ends of the node's own link are both here.
        ours = {"cni0", NODE_LINK, f"{NODE_LINK}-peer"}
        here = {name for name in ours & links.keys() if "link_netnsid" not in links[name]}
        return [name for name, link in links.items() if name not in here and link.get("master") != "cni0"]

    def power_off(self) -> None:
        """Kill every process of the node at once."""
        if self._namespaces is None:
            return
        # Back home first: this process must not keep the network of the dead.
        self._enter(self._home)
        # `unshare` does not mind SIGTERM. Its end is that of the first process, and so of all.
        self._namespaces.kill()
        self._namespaces.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{self._init}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for component in self._components.values():
            component.wait()
        self._namespaces, self._components = None, {}
        cgroups.remove(self.settings.cgroup)

    def remove(self) -> None:
        """Leave nothing: no process, mount, link, cgroup or file."""
        self.power_off()
        cgroups.kill(self.settings.cgroup)
        cgroups.remove(self.settings.cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, component: str) -> None:
        """Start a component, and again whenever it ends, as an init system does."""
        if component in self._components:
            return
        again = 'while :; do "$@"; sleep 1; done'
        command = [*self._inside(), "bash", "-c", again, component, *self.settings.command(component)]
        self._components[component] = self._begin(command, component)

    def stop(self, component: str) -> None:
        """Kill a component, and do not start it again."""
        process = self._components.pop(component)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_containers(self) -> int:
        """Kill every process of every container; the kubelet starts them again."""
        return cgroups.kill(self.settings.cgroup)

    def name_image(self, image: str, name: str) -> None:
        """Give an image that is here another name too."""
        done = self._containers("--namespace", "k8s.io", "images", "tag", image, name)
        if done.returncode != 0:
            raise CheckFailed(f"{image} cannot be named {name}: {done.stderr.strip()}")

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess:
        """One kubectl as the administrator; never raises."""
        command = [program("kubectl"), f"--kubeconfig={self.settings.kubeconfig('admin')}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)

    def _begin(self, command: list[str | Path], name: str) -> subprocess.Popen:
        """Start a process in a session of its own, which writes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(),
            )

    def _make_namespaces(self) -> None:
        script = Path(__file__).with_name("namespaces.sh")
        kinds = [
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
            "--propagation=private",
        ]
        # If this process is killed, everything is.
        command = [
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            *kinds,
            "bash",
            script,
            self.folder,
            NODE_ADDRESS,
            NODE_LINK,
        ]
        self._namespaces = self._begin(command, "namespaces")
        self._wait("first process", self._find_init)
        made = Path(f"/proc/{self._init}/root/run/namespaces-are-made")
        self._wait("namespaces", made.exists)
        network = os.open(f"/proc/{self._init}/ns/net", os.O_RDONLY)
        self._enter(network)
        os.close(network)

    def _find_init(self) -> bool:
        parent = self._namespaces.pid
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                    self._init = int(status.parent.name)
                    return True
        return False

    @staticmethod
    def _enter(network: int) -> None:
        """Put this thread, and whatever it starts from now on, into a network namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(network, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def _inside(self) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--mount", "--net", "--pid", "--"]

    def _containers(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [*self._inside(), "ctr", "--address", CONTAINERD_SOCKET, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())

    def _grant(self) -> None:
        """What installers of clusters give to the components beyond the roles that are there."""
        for name, role, user in (
            ("e2e:node-proxier", "system:node-proxier", "system:kube-proxy"),
            ("e2e:kubelet-api", "system:kubelet-api-admin", "kube-apiserver-kubelet-client"),
        ):
            self.kubectl("create", "clusterrolebinding", name, f"--clusterrole={role}", f"--user={user}")

    def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if self._namespaces.poll() is not None:
                raise CheckFailed(f"the node's namespaces ended; see {self.folder}/namespaces.log")
            if time.monotonic() > deadline:
                say(f"the end of {self.folder}/{what}.log tells more")
                raise CheckFailed(f"{what} was not ready within {PATIENCE} s")
            time.sleep(0.1)


def _environment() -> dict[str, str]:
    """With the folders of daemons in the path, and no proxy of this machine."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return {**kept, "PATH": os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"}
