"""Command lines and configuration of every component of the node."""

import json
from dataclasses import dataclass
from pathlib import Path

from e2e.machine import program
from e2e.node.certificates import Authority, signing_key

NODE_NAME = "node"
NODE_ADDRESS = "10.250.0.2"
NODE_LINK = "node0"
API_SERVER = f"https://{NODE_ADDRESS}:6443"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
CONTAINERD_SOCKET = "/run/containerd.sock"  # In the node's own /run.
ETCD = "http://127.0.0.1:2379"
PAUSE_IMAGE = "localhost/e2e/pause:1"


@dataclass(frozen=True)
class Settings:
    """Of a node that keeps everything below `folder` and its containers in the cgroup `cgroup`."""

    folder: Path
    cgroup: str

    @property
    def keys(self) -> Path:
        """The folder of keys, certificates and kubeconfigs."""
        return self.folder / "keys"

    def kubeconfig(self, name: str) -> Path:
        """The kubeconfig of a client."""
        return self.keys / f"{name}.kubeconfig"

    def make(self) -> None:
        """Write every key and every file; once in the life of a cluster."""
        front = Authority(self.keys, "front-proxy-ca")
        front.issue("front-proxy", "/CN=front-proxy-client", "clientAuth")
        authority = Authority(self.keys, "ca")
        service = "kubernetes.default.svc"
        names = ["kubernetes", "kubernetes.default", service, f"{service}.{DOMAIN}", "localhost"]
        addresses = ["127.0.0.1", NODE_ADDRESS, API_SERVICE_ADDRESS]
        names = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
        authority.issue("apiserver", "/CN=kube-apiserver", "serverAuth", ",".join(names))
        authority.issue(
            "kubelet-server", f"/CN={NODE_NAME}", "serverAuth", f"DNS:{NODE_NAME},IP:{NODE_ADDRESS}"
        )
        authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", "clientAuth")
        for name, subject in {
            "admin": "/O=system:masters/CN=admin",
            "controller-manager": "/CN=system:kube-controller-manager",
            "scheduler": "/CN=system:kube-scheduler",
            "proxy": "/CN=system:kube-proxy",
            "kubelet": f"/O=system:nodes/CN=system:node:{NODE_NAME}",
        }.items():
            authority.issue(name, subject, "clientAuth")
            authority.kubeconfig(name, API_SERVER)
        signing_key(self.keys)
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self._network()))
        (self.folder / "containerd.toml").write_text(self._containerd())
        (self.folder / "kubelet.yaml").write_text(json.dumps(self._kubelet()))
        (self.folder / "proxy.yaml").write_text(json.dumps(self._proxy()))

    def command(self, component: str) -> list[str]:
        """The command line of a component."""
        return {
            "containerd": self._containerd_command,
            "etcd": self._etcd_command,
            "kube-apiserver": self._apiserver_command,
            "kube-controller-manager": self._controller_manager_command,
            "kube-scheduler": self._scheduler_command,
            "kubelet": self._kubelet_command,
            "kube-proxy": self._proxy_command,
        }[component]()

    def _containerd_command(self) -> list[str]:
        return ["containerd", "--config", f"{self.folder}/containerd.toml"]

    def _etcd_command(self) -> list[str]:
        peers = "http://127.0.0.1:2380"
        return [
            str(program("etcd")),
            "--name=e2e",
            f"--data-dir={self.folder}/etcd",
            "--unsafe-no-fsync",  # Processes are killed here, machines are not.
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=e2e={peers}",
        ]

    def _apiserver_command(self) -> list[str]:
        keys = self.keys
        return [
            str(program("kube-apiserver")),
            f"--etcd-servers={ETCD}",
            f"--bind-address={NODE_ADDRESS}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--tls-cert-file={keys}/apiserver.crt",
            f"--tls-private-key-file={keys}/apiserver.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--kubelet-client-certificate={keys}/kubelet-client.crt",
            f"--kubelet-client-key={keys}/kubelet-client.key",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--service-account-key-file={keys}/service-accounts.pub",
            f"--service-account-signing-key-file={keys}/service-accounts.key",
            f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={keys}/front-proxy.crt",
            f"--proxy-client-key-file={keys}/front-proxy.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Names of nodes are known to nobody; logs and exec go by address.
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
        ]

    def _controller_manager_command(self) -> list[str]:
        keys, kubeconfig = self.keys, self.kubeconfig("controller-manager")
        return [
            str(program("kube-controller-manager")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--root-ca-file={keys}/ca.crt",
            f"--service-account-private-key-file={keys}/service-accounts.key",
            f"--cluster-signing-cert-file={keys}/ca.crt",
            f"--cluster-signing-key-file={keys}/ca.key",
            f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={POD_NETWORK}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
        ]

    def _scheduler_command(self) -> list[str]:
        kubeconfig = self.kubeconfig("scheduler")
        return [
            str(program("kube-scheduler")),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ]

    def _kubelet_command(self) -> list[str]:
        return [
            str(program("kubelet")),
            f"--config={self.folder}/kubelet.yaml",
            f"--kubeconfig={self.kubeconfig('kubelet')}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
            "--v=2",
        ]

    def _proxy_command(self) -> list[str]:
        return [str(program("kube-proxy")), f"--config={self.folder}/proxy.yaml"]

    def _network(self) -> dict:
        """Pods on a bridge, as most small clusters have them."""
        ranges = [[{"subnet": "10.244.0.0/24"}]]
        addresses = {"type": "host-local", "ranges": ranges, "dataDir": f"{self.folder}/addresses"}
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {**addresses, "routes": [{"dst": "0.0.0.0/0"}]},
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}

    def _containerd(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        unused = ", ".join(
            f'"io.containerd.snapshotter.v1.{name}"' for name in ("btrfs", "zfs", "devmapper", "aufs")
        )
        # restrict_oom_score_adj: without CAP_SYS_RESOURCE none may be less likely to be killed than this.
        return f"""version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
disabled_plugins = [{unused}]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [{cri}.containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [{cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self.folder}/cni"
"""

    def _kubelet(self) -> dict:
        keys = self.keys
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{keys}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{keys}/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{keys}/kubelet-server.key",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": f"{self.folder}/resolv.conf",
            "podLogsDir": "/var/log/pods",
            "volumePluginDir": f"{self.folder}/volume-plugins",
            # The machine may be small or nearly full: that is not what is tested here.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "4s",
        }

    def _proxy(self) -> dict:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": NODE_NAME,
            "clusterCIDR": POD_NETWORK,
            "bindAddress": NODE_ADDRESS,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "clientConnection": {"kubeconfig": str(self.kubeconfig("proxy"))},
            "oomScoreAdj": 0,
            # Only the first network namespace of a machine may set these.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
