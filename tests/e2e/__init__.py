"""The end-to-end test: a real single-node Kubernetes cluster, the real image, the real chart.

    make e2e                    everything
    make e2e STEPS="env crd"    parts; `make e2e STEPS=list` names them

    host      ── buildah: image ── tars ──┐
    namespaces of their own               ▼
      node    etcd, kube-apiserver, controller-manager, scheduler, containerd, runc, kubelet, kube-proxy
      driver  this program, in the node's network: kubectl, helm, the clients that load the gateway

Nothing in the cluster is a stand-in: pods are containers, Services are rules of the kernel, probes are the
kubelet's. The network has no way out, so every model comes from inside.
"""
