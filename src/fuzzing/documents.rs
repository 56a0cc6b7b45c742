//! Files that operators write, and the list of files that a stranger may have written.

use std::ffi::OsString;

use clap::{Args, Command};
use serde_yaml::{Mapping, Value};

use super::scratch;
use crate::config::{Resolved, Settings, with_file};
use crate::model::manifest::Manifest;
use crate::model::{Defaults, parse_documents};

/// Most tokens that a model of a list may have drafted at once.
const MOST_DRAFTED_TOKENS: usize = 64;

/// A settings file: an error names the setting or the place; what is taken is in force, as it was written.
pub(super) fn settings(content: &[u8]) {
    let outcome = scratch::with_file("settings.yaml", content, |path| {
        let arguments = [OsString::from("test"), OsString::from("--config-file"), path.into()];
        let command = Settings::augment_args(Command::new("test"));
        let first =
            command.clone().try_get_matches_from(&arguments).expect("the environment sets nothing odd");
        let command = with_file(command, &first).map_err(|error| error.to_string())?;
        let matches = command.clone().try_get_matches_from(&arguments).map_err(|error| error.to_string())?;
        Resolved::from_matches(&command, &matches).map_err(|error| error.to_string())
    });
    let written = serde_yaml::from_slice::<Value>(content).ok();
    let entries: Vec<(&str, &Value)> = written
        .iter()
        .filter_map(Value::as_mapping)
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str()?, value)))
        .collect();
    match outcome {
        Ok(resolved) => {
            // An empty document with a tag is an empty mapping to a reader of mappings, and a text to others.
            let read = serde_yaml::from_slice::<Option<Mapping>>(content);
            let is_empty = read.is_ok_and(|read| read.is_none_or(|read| read.is_empty()));
            let is_mapping = written.as_ref().is_some_and(Value::is_mapping);
            assert!(is_empty || is_mapping, "other things are taken, or a setting that is there twice");
            for (name, _) in entries {
                let shown = resolved.shown.iter().find(|shown| shown.name == name);
                let origin = shown.expect("a setting that is taken is shown").origin;
                assert!(["file", "environment"].contains(&origin), "{name} is from {origin}");
            }
        }
        Err(message) => {
            assert!(message.contains("settings.yaml") || message.contains("--"), "no place: {message}");
            let is_named = entries.iter().any(|(name, _)| message.contains(*name));
            assert!(is_named || entries.is_empty() || message.contains("not understood"), "{message}");
        }
    }
}

/// A list of models: an error says where; what is taken is within bounds, and the same each time.
pub(super) fn models_file(content: &[u8]) {
    match parse_documents(content, &Defaults::small()) {
        Ok(desired) => {
            for target in desired.values() {
                assert!(!target.names.is_empty());
                assert!(target.load.rows > 0 && target.load.chunk_tokens > 0);
                assert!(target.load.context_tokens != Some(0));
                assert!(target.load.draft_tokens <= MOST_DRAFTED_TOKENS);
                assert!(target.live.concurrent > 0 && target.live.output_tokens != Some(0));
                assert!(!target.live.request_timeout.is_zero());
                assert_eq!(target.revision.len(), 10);
            }
            let again = parse_documents(content, &Defaults::small()).expect("what holds holds");
            let revisions = |all: &crate::model::Desired| -> Vec<String> {
                all.values().map(|target| target.revision.clone()).collect()
            };
            assert_eq!(revisions(&again), revisions(&desired));
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("the list of models "), "{message}");
        }
    }
}

/// A manifest: what is taken has plain names and is written as it was read.
pub(super) fn manifest(content: &[u8]) {
    match Manifest::parse(content) {
        Ok(manifest) => {
            for file in manifest.files() {
                assert!(!file.name.is_empty() && !file.name.starts_with('.'));
                assert!(file.name.chars().all(|char| char != '/' && char != '\\' && !char.is_control()));
                assert_eq!(file.sha256.len(), 64);
            }
            let written = manifest.to_bytes();
            let again = Manifest::parse(&written).expect("what is written is read");
            assert!(again == manifest && again.to_bytes() == written);
        }
        Err(message) => assert!(message.len() > 5, "{message}"),
    }
}
