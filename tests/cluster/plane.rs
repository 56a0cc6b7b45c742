//! The control plane: etcd and kube-apiserver as processes, and Kubernetes' controllers for those who ask for them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use axum::http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Client, ResourceExt};
use rustix::process::Signal;
use tokio::sync::{Mutex, OnceCell};

use crate::access::{Access, client};
use crate::certificates::{Authority, token_keys};
use crate::folders::{new_folder, program};
use crate::namespace::Namespace;
use crate::ports::free_address;
use crate::processes::Process;
use crate::{PATIENCE, eventually};

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

/// A running etcd and kube-apiserver. Dropping it ends them.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    access: Access,
    authority: Authority,
    etcd_address: SocketAddr,
    apiserver: Process,
    controllers: Mutex<Option<Process>>,
    // Last: an apiserver without its etcd would say so at length.
    etcd: Process,
}

impl ControlPlane {
    /// The one that tests share. It cannot be stopped, and it lives as long as the tests.
    pub(crate) async fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start("shared")).await
    }

    /// One of a test's own, which that may stop. Takes some seconds and 400 MB.
    pub(crate) async fn start(name: &str) -> Self {
        let folder = new_folder(name);
        let authority = Authority::new();
        let access = Access { server: free_address(), authority: authority.certificate(), through: None };
        let identity = authority.apiserver();
        let [token_key, token_public_key] = token_keys();
        for (file, content) in [
            ("ca.crt", access.authority.clone()),
            ("apiserver.crt", identity.certificate),
            ("apiserver.key", identity.key),
            ("tokens.key", token_key),
            ("tokens.pub", token_public_key),
        ] {
            fs::write(folder.join(file), content).unwrap();
        }
        let admin = authority.user("admin", Some("system:masters"));
        access.write_for_certificate(&admin, &folder.join("admin.kubeconfig"));
        let etcd_address = free_address();
        let etcd = start_etcd(&folder, etcd_address);
        let apiserver = start_apiserver(&folder, access.server, etcd_address);
        let controllers = Mutex::new(None);
        let mut plane = Self { folder, access, authority, etcd_address, apiserver, controllers, etcd };
        plane.wait_ready().await;
        plane
    }

    /// A client that may do everything.
    pub(crate) async fn admin(&self) -> Client {
        client(&self.admin_kubeconfig()).await
    }

    /// The kubeconfig of a user without rights, until somebody binds a role to the name.
    pub(crate) fn user_kubeconfig(&self, name: &str) -> PathBuf {
        let file = self.folder.join(format!("{name}.kubeconfig"));
        self.access.write_for_certificate(&self.authority.user(name, None), &file);
        file
    }

    /// A new namespace, whose name begins with `name`.
    pub(crate) async fn namespace(&self, name: &str) -> Namespace {
        Namespace::create(self.admin().await, self.access.clone(), name).await
    }

    /// Applies a definition and waits until its objects can be made.
    pub(crate) async fn apply_definition(&self, definition: &CustomResourceDefinition) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.admin().await);
        let name = definition.name_any();
        let manager = PatchParams::apply("tests").force();
        definitions.patch(&name, &manager, &Patch::Apply(definition)).await.unwrap();
        let established = await_condition(definitions, &name, conditions::is_crd_established());
        tokio::time::timeout(PATIENCE, established).await.expect("the definition is established").unwrap();
    }

    /// Changes the schema of models, as another version of this project may have it. The apiserver serves it a moment later.
    pub(crate) async fn change_model_schema(&self, change: impl FnOnce(&mut JSONSchemaProps)) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.admin().await);
        let mut definition = definitions.get("models.inference-gateway.io").await.unwrap();
        change(definition.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap());
        let changed =
            definitions.replace("models.inference-gateway.io", &PostParams::default(), &definition).await;
        changed.unwrap();
    }

    /// From now on objects without owners are removed, and deleted namespaces end.
    ///
    /// Only these two controllers run: the one that cleans up after nodes would remove pods whose node does not exist.
    pub(crate) async fn collect_garbage(&self) {
        self.run_controllers(&["garbage-collector-controller", "namespace-controller"]).await;
    }

    /// From now on these controllers of Kubernetes' own run; a second call changes nothing.
    pub(crate) async fn run_controllers(&self, names: &[&str]) {
        let mut controllers = self.controllers.lock().await;
        if controllers.is_none() {
            let mut command = Command::new(program("kube-controller-manager"));
            command
                .arg(format!("--kubeconfig={}", self.admin_kubeconfig().display()))
                .arg(format!("--controllers={}", names.join(",")))
                .args(["--leader-elect=false", "--secure-port=0"]);
            *controllers = Some(Process::start(command, &self.folder.join("controller-manager.log")));
        }
    }

    /// The kubeconfig of somebody who may do everything.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Ends the apiserver at once: connections break, and nobody answers any more.
    pub(crate) fn stop_apiserver(&mut self) {
        self.apiserver.kill();
    }

    /// Starts it again at the same address, with what etcd has, and waits until it is ready.
    pub(crate) async fn start_apiserver(&mut self) {
        self.apiserver = start_apiserver(&self.folder, self.access.server, self.etcd_address);
        self.wait_ready().await;
    }

    /// The apiserver takes connections and does not answer, until it is thawed.
    pub(crate) fn freeze_apiserver(&mut self) {
        self.apiserver.signal(Signal::STOP);
    }

    pub(crate) fn thaw_apiserver(&mut self) {
        self.apiserver.signal(Signal::CONT);
    }

    /// Mostly 3 to 5 seconds, now and then 50.
    async fn wait_ready(&mut self) {
        let admin = self.admin().await;
        eventually("the apiserver", async || {
            for process in [&mut self.etcd, &mut self.apiserver] {
                let ended = process.exit_status();
                assert!(ended.is_none(), "it ended, {ended:?}:\n{}", process.last_words());
            }
            let request = Request::get("/readyz").body(Vec::new()).unwrap();
            admin.request_text(request).await.ok().filter(|answer| answer == "ok")
        })
        .await;
    }
}

fn start_etcd(folder: &Path, address: SocketAddr) -> Process {
    let (clients, peers) = (format!("http://{address}"), format!("http://{}", free_address()));
    let mut command = Command::new(program("etcd"));
    command
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .args(["--name=tests", "--log-level=warn"])
        // The data end with the tests.
        .arg("--unsafe-no-fsync")
        .arg(format!("--listen-client-urls={clients}"))
        .arg(format!("--advertise-client-urls={clients}"))
        .arg(format!("--listen-peer-urls={peers}"))
        .arg(format!("--initial-advertise-peer-urls={peers}"))
        .arg(format!("--initial-cluster=tests={peers}"));
    Process::start(command, &folder.join("etcd.log"))
}

fn start_apiserver(folder: &Path, address: SocketAddr, etcd: SocketAddr) -> Process {
    let file = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new(program("kube-apiserver"));
    command
        .arg(format!("--etcd-servers=http://{etcd}"))
        .arg(format!("--bind-address={}", address.ip()))
        .arg(format!("--advertise-address={}", address.ip()))
        .arg(format!("--secure-port={}", address.port()))
        .arg(format!("--tls-cert-file={}", file("apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", file("apiserver.key")))
        .arg(format!("--client-ca-file={}", file("ca.crt")))
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .arg(format!("--service-account-key-file={}", file("tokens.pub")))
        .arg(format!("--service-account-signing-key-file={}", file("tokens.key")))
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        // There is one apiserver, and its address is a loopback one, which no endpoint may have.
        .arg("--endpoint-reconciler-type=none")
        .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]);
    Process::start(command, &folder.join("apiserver.log"))
}
