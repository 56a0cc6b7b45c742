"""What this machine must have: root, programs that Debian packages, those that `scripts/prepare.py` makes."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from e2e.console import Unusable, say

CHECKOUT = Path(__file__).resolve().parents[2]
PREPARED = CHECKOUT / "prepared"
TARGET = CHECKOUT / "target" / "e2e"
"""Everything that a run writes, but for images, which are kept from run to run beside it."""

PACKAGED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
"""A program or a file, and the Debian package that has it."""

PREPARED_PROGRAMS = {
    "kubernetes": ("etcd", "kube-apiserver", "kube-controller-manager"),
    "node": ("kubectl", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "scrape-config"),
    "tools": ("helm", "prometheus"),
}
"""Folder below prepared/, which is also the target of scripts/prepare.py, and the programs in it."""


def checkout_name() -> str:
    """Names what belongs to this checkout: two may run at once, and what a killed run left is found again."""
    return hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]


def program(name: str) -> Path:
    """A program that scripts/prepare.py made; those of KUBEBUILDER_ASSETS are the user's."""
    for folder, names in PREPARED_PROGRAMS.items():
        if name in names:
            assets = os.environ.get("KUBEBUILDER_ASSETS") if folder == "kubernetes" else None
            return (Path(assets) if assets else PREPARED / folder) / name
    raise KeyError(name)


def require() -> None:
    """Fail with what to do about the first thing that is missing. On Debian packages are installed."""
    if os.geteuid() != 0:
        raise Unusable("make e2e needs root: it makes namespaces, mounts and containers")
    _require_packages()
    for folder, names in PREPARED_PROGRAMS.items():
        missing = [name for name in names if not program(name).exists()]
        if missing:
            raise Unusable(f"{', '.join(missing)} missing: run `python3 scripts/prepare.py {folder}`")
    for path, target in {"tiny/llama": "tiny", "lib/libonnxruntime.so": "library"}.items():
        if not (PREPARED / path).exists():
            raise Unusable(f"prepared/{path} is missing: run `python3 scripts/prepare.py {target}`")


def _require_packages() -> None:
    packages = _missing_packages()
    if not packages:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        raise Unusable(f"install what has these names in Debian: {' '.join(packages)}")
    say(f"installing what is missing: {' '.join(install)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The lists may be missing or old: then the first try fails.
    for command in (install, ["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        if command is install and done.returncode == 0:
            break
    if _missing_packages():
        raise Unusable(f"the packages could not be installed; try: {' '.join(install)}")


def _missing_packages() -> list[str]:
    # Packages of daemons lie in folders that are not in every user's path.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return sorted(
        {
            package
            for name, package in PACKAGED.items()
            if shutil.which(name, path=path) is None and not (name.startswith("/") and Path(name).exists())
        }
    )
