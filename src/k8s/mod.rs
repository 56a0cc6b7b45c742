//! The cluster's side: the only folder that names `kube`.
//!
//! ```text
//! in the gateway's pod      Model, ModelReplica ─▶ agent ─▶ desired models;   registry ─▶ agent ─▶ its ModelReplica's status
//! in the controller's pod   Model, ModelReplica, Pod ─▶ controller ─▶ rollout::plan ─▶ ModelReplica's spec, Model's status
//! ```
//!
//! A pod writes nothing but the status of its own replicas; the controller writes everything else, and only while it holds
//! the lease. Neither needs the other to go on serving.

pub mod crd;
