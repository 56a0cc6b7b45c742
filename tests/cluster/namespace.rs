//! What a test has for itself: a namespace, with service accounts and their rights.

use std::path::PathBuf;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Access;
use crate::folders::new_folder;

/// A namespace and a folder of the same name.
#[derive(Clone)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// Of somebody who may do everything.
    pub(crate) client: Client,
    pub(crate) access: Access,
    pub(crate) folder: PathBuf,
}

impl Namespace {
    pub(crate) async fn create(client: Client, access: Access, name: &str) -> Self {
        let folder = new_folder(name);
        // Its number makes the name one that no other test has.
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let metadata = named(&name);
        let namespace = NamespaceObject { metadata, ..NamespaceObject::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Self { name, client, access, folder }
    }

    /// The objects of one kind.
    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub(crate) async fn create_object<K>(&self, object: &K) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        self.all().create(&PostParams::default(), object).await.unwrap()
    }

    /// A service account that may do what the rules say, and nothing else.
    pub(crate) async fn service_account(&self, name: &str, rules: Vec<PolicyRule>) {
        let metadata = named(name);
        self.create_object(&ServiceAccount { metadata: metadata.clone(), ..ServiceAccount::default() }).await;
        self.create_object(&Role { metadata: metadata.clone(), rules: Some(rules) }).await;
        let subject = Subject {
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            namespace: Some(self.name.clone()),
            ..Subject::default()
        };
        let role_ref = RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.to_owned(),
        };
        self.create_object(&RoleBinding { metadata, role_ref, subjects: Some(vec![subject]) }).await;
    }

    /// A kubeconfig with a token of a service account, bound to a pod if there is one: such a token says which pod has it,
    /// and ends with the pod.
    pub(crate) async fn kubeconfig(&self, account: &str, pod: Option<&Pod>) -> PathBuf {
        let bound_object_ref = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        });
        let spec =
            TokenRequestSpec { audiences: Vec::new(), bound_object_ref, expiration_seconds: Some(3600) };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = self.all();
        let granted = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        let holder = pod.map_or_else(|| account.to_owned(), ResourceExt::name_any);
        let token = self.folder.join(format!("{holder}.token"));
        std::fs::write(&token, granted.status.unwrap().token).unwrap();
        let file = self.folder.join(format!("{holder}.kubeconfig"));
        self.access.write_for_token_file(&token, &file);
        file
    }
}

/// Metadata with a name and nothing else.
pub(crate) fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// A rule over resources of one group.
pub(crate) fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(owned(&[group])),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}
