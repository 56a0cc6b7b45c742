//! How somebody reaches the apiserver: kubeconfig files, and the clients that are made from them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::certificates::Identity;

/// Where the apiserver is, and by which authority it is known.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) server: SocketAddr,
    /// PEM.
    pub(crate) authority: String,
    /// Where who gets a kubeconfig finds it instead: somebody in between, who speaks plain HTTP.
    pub(crate) through: Option<SocketAddr>,
}

impl Access {
    /// Writes a kubeconfig for the owner of a certificate.
    pub(crate) fn write_for_certificate(&self, identity: &Identity, file: &Path) {
        let user = json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        });
        self.write(&user, file);
    }

    /// Writes a kubeconfig that names a file with a token, which may be replaced later.
    pub(crate) fn write_for_token_file(&self, token: &Path, file: &Path) {
        self.write(&json!({"tokenFile": token}), file);
    }

    fn write(&self, user: &Value, file: &Path) {
        let straight = || format!("https://{}", self.server);
        let cluster = json!({
            "server": self.through.map_or_else(straight, |proxy| format!("http://{proxy}")),
            "certificate-authority-data": STANDARD.encode(&self.authority),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": "user"}}],
            "current-context": "context",
        });
        // JSON is YAML.
        fs::write(file, config.to_string()).unwrap();
    }
}

/// A client for whoever a kubeconfig is for. Its connections belong to the runtime of the test that asks.
pub(crate) async fn client(kubeconfig: &Path) -> Client {
    // Another test of this process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
