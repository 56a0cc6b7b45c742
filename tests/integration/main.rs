//! The gateway as a whole: real HTTP, real ONNX Runtime, no cluster. One binary, so that it links once.
//!
//! Models are small and made by `tests/fixtures/tiny_models.py`, except where the tokens of a real model are the point.
//! Missing files fail a test with the command that makes them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod abuse;
mod access;
mod adapters;
mod admin;
mod architecture;
mod batching;
mod cancellation;
mod cli;
mod clients;
mod company;
mod connections;
mod exactness;
mod fairness;
mod faults;
mod floods;
mod formats;
mod generated;
mod golden;
mod harness;
mod layouts;
mod layouts_stored;
mod metrics;
mod native;
mod native_lists;
mod oip;
mod openai;
mod openapi;
mod playground;
mod private_servers;
mod probes;
mod seeds;
mod shutdown;
mod soak;
mod sources;
mod store;
mod streaming;
mod templates;
mod tgi;
mod tls;
mod token_options;
mod traces;
mod verify;
mod watchdog;

#[path = "../fixtures/tricky_server.rs"]
#[expect(dead_code, reason = "the tests of the fetcher play more than these")]
mod tricky_server;
