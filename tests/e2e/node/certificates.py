"""Keys, certificates and kubeconfigs of the cluster, made by openssl."""

import json
import subprocess
from pathlib import Path

DAYS = "30"


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.certificate = folder / f"{name}.crt"
        self.key = folder / f"{name}.key"
        folder.mkdir(parents=True, exist_ok=True)
        _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", self.key)
        extensions = [
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,digitalSignature,keyCertSign,cRLSign",
        ]
        added = [part for extension in extensions for part in ("-addext", extension)]
        command = ["req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days", DAYS]
        _openssl(*command, "-out", self.certificate, *added)

    def issue(self, name: str, subject: str, usage: str, names: str = "") -> None:
        """NAME.crt and NAME.key, for `usage` clientAuth or serverAuth under `names` (as DNS:a,IP:b)."""
        key, request, extensions = (self.folder / f"{name}.{suffix}" for suffix in ("key", "csr", "ext"))
        _openssl("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
        _openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
        lines = [f"extendedKeyUsage={usage}", "keyUsage=critical,digitalSignature,keyEncipherment"]
        lines += [f"subjectAltName={names}"] if names else []
        extensions.write_text("\n".join(lines) + "\n")
        signed = ["-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", DAYS]
        result = self.folder / f"{name}.crt"
        _openssl("x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", result)

    def kubeconfig(self, name: str, server: str) -> Path:
        """A kubeconfig of the client NAME, which also other programs can read: JSON is YAML."""
        user = {"client-certificate": f"{self.folder / name}.crt", "client-key": f"{self.folder / name}.key"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "e2e", "cluster": {"server": server, "certificate-authority": str(self.certificate)}}
            ],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
            "current-context": "e2e",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(content))
        return path


def signing_key(folder: Path) -> None:
    """service-accounts.key and .pub, with which tokens of pods are signed."""
    _openssl("genrsa", "-out", folder / "service-accounts.key", "2048")
    _openssl(
        "rsa", "-in", folder / "service-accounts.key", "-pubout", "-out", folder / "service-accounts.pub"
    )


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
