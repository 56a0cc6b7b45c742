//! A stand-in for the node: what a kubelet does for a pod with one gateway in it.
//!
//! ```text
//! create Pod (nodeName is set) ─▶ token bound to it ─▶ process ─▶ probe /readyz ─▶ conditions of the pod's status
//!                                                        ▲   ended, or /livez fails for too long?    │
//!                                                        └─ restartCount + 1
//! ```
//!
//! All pods have the address 127.0.0.1; their ports are those of their container. There is no pause between restarts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, Pod, PodSpec};
use kube::api::{Api, DeleteParams, ObjectMeta, Preconditions};
use tokio::task::JoinHandle;

use crate::namespace::Namespace;
use crate::node_status::{Observed, is_ready, write_status};
use crate::ports::free_address;
use crate::program::Program;
use crate::traffic::{body, http_client};
use crate::{eventually, spawn};

/// Kubelets probe each second at the most; tests need not wait so long.
const PROBE_PERIOD: Duration = Duration::from_millis(100);
/// Of the liveness probe, which nobody waits for.
const LIVENESS_PERIOD: Duration = Duration::from_secs(1);
/// The default of a pod's `readinessProbe.timeoutSeconds`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The defaults of a pod's `livenessProbe`: three failures, ten seconds apart.
pub(crate) const LIVENESS_PATIENCE: Duration = Duration::from_secs(30);

/// What the pods of one gateway have in common.
#[derive(Clone)]
pub(crate) struct Template {
    /// Of the pods, beside those that say that they are a gateway's.
    pub(crate) gateway: String,
    pub(crate) service_account: String,
    /// Of the program, beside its addresses, folders and threads.
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// A container whose `/livez` fails for so long is killed.
    pub(crate) liveness_patience: Duration,
}

/// A pod whose container runs on this machine. Dropping it ends the container and leaves the object.
pub(crate) struct GatewayPod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) admin: SocketAddr,
    pods: Api<Pod>,
    container: Arc<Mutex<Option<Program>>>,
    kubelet: JoinHandle<()>,
}

impl GatewayPod {
    /// Creates the object and starts its container. Ready is it later.
    pub(crate) async fn start(namespace: &Namespace, name: &str, template: &Template) -> Self {
        let [api, ops, admin] = [(); 3].map(|()| free_address());
        let ports = [("http", api), ("ops", ops), ("admin", admin)];
        let object = namespace.create_object(&pod_object(name, template, &ports)).await;
        let uid = object.metadata.uid.clone().unwrap();
        let kubeconfig = namespace.kubeconfig(&template.service_account, Some(&object)).await;
        let folder = namespace.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut arguments = addresses_and_folders(&ports, &folder);
        arguments.extend(template.arguments.iter().cloned());
        let mut environment: Vec<_> = [
            ("POD_NAME", name),
            ("POD_NAMESPACE", &namespace.name),
            ("POD_UID", &uid),
            ("KUBECONFIG", kubeconfig.to_str().unwrap()),
            ("INFERENCE_MEMORY_LIMIT", "2Gi"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        environment.extend(template.environment.iter().cloned());
        let program = Program::start(arguments, environment, &folder.join("log"));
        let container = Arc::new(Mutex::new(Some(program)));
        let pods: Api<Pod> = namespace.all();
        let probes = Probes { ops, liveness_patience: template.liveness_patience };
        let kubelet = spawn(keep_running(object, pods.clone(), probes, Arc::clone(&container)));
        Self { name: name.to_owned(), uid, api, ops, admin, pods, container, kubelet }
    }

    /// Waits until the object's status says that it is ready.
    pub(crate) async fn wait_ready(&self) {
        self.wait_readiness(true).await;
    }

    pub(crate) async fn wait_unready(&self) {
        self.wait_readiness(false).await;
    }

    async fn wait_readiness(&self, ready: bool) {
        let what = format!("pod {} with ready {ready}", self.name);
        eventually(&what, async || {
            let object = self.pods.get_opt(&self.name).await.ok().flatten();
            object.filter(|object| is_ready(object) == ready)
        })
        .await;
    }

    /// What `/readyz` says; `None` while nobody answers.
    pub(crate) async fn readiness(&self) -> Option<String> {
        self.told("/readyz").await
    }

    /// What `/metrics` says; `None` while nobody answers.
    pub(crate) async fn metrics(&self) -> Option<String> {
        self.told("/metrics").await
    }

    async fn told(&self, path: &str) -> Option<String> {
        http_client().get(format!("http://{}{path}", self.ops)).send().await.ok()?.text().await.ok()
    }

    /// Waits until a model is not there any more for those who ask.
    pub(crate) async fn wait_without(&self, model: &str) {
        let url = format!("http://{}/api/v1/inference", self.api);
        eventually(&format!("{} without {model}", self.name), async || {
            let answer = http_client().post(&url).json(&body(model, "a", false)).send().await.ok()?;
            (answer.status() == 404).then_some(())
        })
        .await;
    }

    /// Does something to what runs in the pod: `pod.container(Program::kill)`.
    pub(crate) fn container<T>(&self, act: impl FnOnce(&mut Program) -> T) -> T {
        act(self.container.lock().unwrap().as_mut().expect("the container runs until the pod is deleted"))
    }

    /// As `kubectl delete pod`: the object says that it ends, the container gets SIGTERM, and when it has ended the object
    /// goes. How it ended.
    pub(crate) async fn delete(self) -> ExitStatus {
        let of_this = Preconditions { uid: Some(self.uid.clone()), ..Preconditions::default() };
        let gracefully = DeleteParams::default().preconditions(of_this);
        self.pods.delete(&self.name, &gracefully).await.unwrap();
        self.kubelet.abort();
        self.container(Program::terminate);
        let status =
            eventually("the end of the container", async || self.container(Program::exit_status)).await;
        self.pods.delete(&self.name, &gracefully.grace_period(0)).await.unwrap();
        status
    }
}

impl Drop for GatewayPod {
    fn drop(&mut self) {
        self.kubelet.abort();
        // Here and not with the task, so that a failed test's thread shows what the program said.
        drop(self.container.lock().unwrap().take());
    }
}

/// Where a container is asked how it is.
struct Probes {
    ops: SocketAddr,
    liveness_patience: Duration,
}

/// Restarts what ended or is not alive, asks whether it is ready, and writes what has changed.
async fn keep_running(object: Pod, pods: Api<Pod>, probes: Probes, container: Arc<Mutex<Option<Program>>>) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(PROBE_TIMEOUT).build().unwrap();
    let succeeds = async |path: &str| {
        let answer = client.get(format!("http://{}{path}", probes.ops)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    let (mut restarts, mut written, mut alive_at, mut asked_at) = (0, None, Instant::now(), Instant::now());
    loop {
        {
            let mut container = container.lock().unwrap();
            let Some(program) = container.as_mut() else { return };
            let dead = alive_at.elapsed() >= probes.liveness_patience;
            if dead || program.exit_status().is_some() {
                program.restart();
                restarts += 1;
                alive_at = Instant::now();
            }
        }
        if asked_at.elapsed() >= LIVENESS_PERIOD {
            asked_at = Instant::now();
            if succeeds("/livez").await {
                alive_at = Instant::now();
            }
        }
        let ready = succeeds("/readyz").await;
        let observed = Observed { ready, restarts };
        // While the apiserver is away the newest state waits. Of a write that got no answer it is not known what it has done.
        if written != Some(observed) {
            written = write_status(&pods, &object, observed).await.then_some(observed);
        }
        tokio::time::sleep(PROBE_PERIOD).await;
    }
}

fn pod_object(name: &str, template: &Template, ports: &[(&str, SocketAddr)]) -> Pod {
    let labels = [
        ("app.kubernetes.io/name", "inference-gateway"),
        ("app.kubernetes.io/component", "gateway"),
        ("app.kubernetes.io/instance", &template.gateway),
        ("inference-gateway.io/gateway", &template.gateway),
    ];
    let port = |(name, address): &(&str, SocketAddr)| ContainerPort {
        name: Some((*name).to_owned()),
        container_port: address.port().into(),
        ..ContainerPort::default()
    };
    let variable = |(name, value): &(String, String)| EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        value_from: None,
    };
    let container = Container {
        name: "gateway".to_owned(),
        image: Some("inference-gateway".to_owned()),
        args: Some(template.arguments.clone()),
        env: Some(template.environment.iter().map(variable).collect()),
        ports: Some(ports.iter().map(port).collect()),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container],
            node_name: Some("this-machine".to_owned()),
            service_account_name: Some(template.service_account.clone()),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn addresses_and_folders(ports: &[(&str, SocketAddr); 3], folder: &Path) -> Vec<String> {
    let [(_, api), (_, ops), (_, admin)] = ports;
    vec![
        format!("--listen-address={api}"),
        format!("--ops-address={ops}"),
        format!("--admin-address={admin}"),
        format!("--cache-dir={}", folder.join("cache").display()),
        format!("--state-dir={}", folder.join("state").display()),
        // What the pause of a chart's preStop hook is for: clients may not know yet that the pod ends.
        "--shutdown-delay=1s".to_owned(),
        "--model-root=/".to_owned(),
        "--threads=1".to_owned(),
        "--spinning=false".to_owned(),
    ]
}
