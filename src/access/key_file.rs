//! The file of keys as text: strict, all or nothing, and no error repeats what may be a key.
//!
//! ```yaml
//! keys:
//! - name: team-a
//!   sha256: 5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5   # or `key:`; each one or a list of them
//!   models: [chat, small]                                                      # or ["*"]
//!   requestsPerMinute: 60
//!   tokensPerMinute: 100000
//!   concurrentRequests: 8
//! ```

use std::collections::BTreeSet;

use serde_yaml::{Mapping, Value};
use sha2::{Digest, Sha256};

/// Keys are few; a file that is larger is none.
pub(super) const MOST_FILE_BYTES: usize = 1 << 20;
/// All are compared for each request.
const MOST_KEYS: usize = 4096;
/// A key that can be guessed is none.
const LEAST_KEY_CHARACTERS: usize = 16;
/// The most that a header of a request may well hold.
const MOST_KEY_CHARACTERS: usize = 1024;
/// Names stand in logs and metrics.
const MOST_NAME_CHARACTERS: usize = 63;
const DIGEST_BYTES: usize = 32;
const FIELDS: &str = "name, key, sha256, models, requestsPerMinute, tokensPerMinute, concurrentRequests";

/// SHA-256 of a key.
pub(super) type KeyDigest = [u8; DIGEST_BYTES];

/// What one key, or several of one name, may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// At least one; several while a key is replaced.
    pub(super) digests: Vec<KeyDigest>,
    pub(super) models: Models,
    pub(super) limits: Limits,
}

/// Models by the names that requests call them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Models {
    All,
    Listed(BTreeSet<String>),
}

/// What a key may use; `None` is without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens in a minute, of prompts and outputs together.
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    pub concurrent_requests: Option<u32>,
}

/// Why a file of keys does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not text.
    #[error("the file of keys is not UTF-8 text: byte {0} is wrong")]
    NotText(usize),
    /// Nothing in it, as while it is being written.
    #[error("the file of keys is empty: write `keys: []` to let nobody in")]
    Empty,
    /// Not YAML. What the parser says may hold a part of a key.
    #[error("the file of keys is not valid YAML: see line {line}, column {column}")]
    Yaml {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Not what is meant.
    #[error("the file of keys does not hold: {0}")]
    Content(String),
}

fn wrong(at: &str, what: impl AsRef<str>) -> KeyFileError {
    KeyFileError::Content(format!("{at} {}", what.as_ref()))
}

/// Reads a file of keys.
///
/// # Errors
/// The first thing that is wrong, by its place in the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Entry>, KeyFileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| KeyFileError::NotText(error.valid_up_to()))?;
    let document: Value = serde_yaml::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        KeyFileError::Yaml { line, column }
    })?;
    let mut document = match document {
        Value::Null => return Err(KeyFileError::Empty),
        Value::Mapping(mapping) => mapping,
        _ => return Err(wrong("it", "is not a mapping with the field `keys`")),
    };
    let keys = document.remove("keys").ok_or_else(|| wrong("it", "has no field `keys`"))?;
    if !document.is_empty() {
        return Err(wrong("it", "has a field beside `keys`, and there is no other"));
    }
    let Value::Sequence(keys) = keys else { return Err(wrong("`keys`", "is not a list")) };
    let entries = keys.into_iter().enumerate();
    let entries: Vec<Entry> =
        entries.map(|(index, value)| entry(&format!("keys[{index}]"), value)).collect::<Result<_, _>>()?;
    check_together(&entries)?;
    Ok(entries)
}

/// What no entry says alone.
fn check_together(entries: &[Entry]) -> Result<(), KeyFileError> {
    let (mut names, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("keys[{index}]");
        if !names.insert(&entry.name) {
            let what = "has the name of another: list several keys of one name under `key` or `sha256`";
            return Err(wrong(&at, what));
        }
        if !entry.digests.iter().all(|digest| digests.insert(digest)) {
            return Err(wrong(&at, "has a key that was there before"));
        }
    }
    if digests.len() > MOST_KEYS {
        return Err(wrong("it", format!("has {} keys, at most {MOST_KEYS} are possible", digests.len())));
    }
    Ok(())
}

fn entry(at: &str, value: Value) -> Result<Entry, KeyFileError> {
    let Value::Mapping(mut fields) = value else { return Err(wrong(at, "is not a mapping")) };
    let name = text(&format!("{at}.name"), fields.remove("name").unwrap_or_default())?;
    let entry = Entry {
        digests: digests(at, &mut fields)?,
        models: models(&format!("{at}.models"), fields.remove("models").unwrap_or_default())?,
        limits: Limits {
            requests_per_minute: limit(at, "requestsPerMinute", &mut fields)?,
            tokens_per_minute: limit(at, "tokensPerMinute", &mut fields)?,
            concurrent_requests: limit(at, "concurrentRequests", &mut fields)?,
        },
        name,
    };
    // An unknown field may be a key in the wrong place: it is not repeated.
    if !fields.is_empty() {
        return Err(wrong(at, format!("has a field that is not known; there are: {FIELDS}")));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=MOST_NAME_CHARACTERS).contains(&entry.name.len()) && entry.name.bytes().all(plain);
    if !is_name {
        let what = format!("is not 1 to {MOST_NAME_CHARACTERS} letters, digits, `-`, `_` and `.`");
        return Err(wrong(&format!("{at}.name"), what));
    }
    Ok(entry)
}

fn text(at: &str, value: Value) -> Result<String, KeyFileError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Err(wrong(at, "is missing")),
        _ => Err(wrong(at, "is not a text: put it in quotes")),
    }
}

/// One text, or a list of them; none where there is no such field.
fn texts(at: &str, value: Option<Value>) -> Result<Vec<String>, KeyFileError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Sequence(values)) => {
            let values = values.into_iter().enumerate();
            values.map(|(index, value)| text(&format!("{at}[{index}]"), value)).collect()
        }
        Some(value) => Ok(vec![text(at, value)?]),
    }
}

fn digests(at: &str, fields: &mut Mapping) -> Result<Vec<KeyDigest>, KeyFileError> {
    let mut digests = Vec::new();
    for key in texts(&format!("{at}.key"), fields.remove("key"))? {
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || !(LEAST_KEY_CHARACTERS..=MOST_KEY_CHARACTERS).contains(&key.len()) {
            let what = format!(
                "is not {LEAST_KEY_CHARACTERS} to {MOST_KEY_CHARACTERS} visible ASCII characters: make one with \
                 `openssl rand -hex 32`"
            );
            return Err(wrong(&format!("{at}.key"), what));
        }
        digests.push(digest_of(&key));
    }
    for digest in texts(&format!("{at}.sha256"), fields.remove("sha256"))? {
        let digest = hexadecimal(&digest).ok_or_else(|| {
            wrong(
                &format!("{at}.sha256"),
                "is not 64 hexadecimal digits: `printf %s KEY | sha256sum` prints them",
            )
        })?;
        digests.push(digest);
    }
    if digests.is_empty() {
        return Err(wrong(at, "has neither `key` nor `sha256`"));
    }
    Ok(digests)
}

/// SHA-256 of what a client sends.
pub(super) fn digest_of(key: &str) -> KeyDigest {
    Sha256::digest(key.as_bytes()).into()
}

fn hexadecimal(text: &str) -> Option<KeyDigest> {
    if text.len() != DIGEST_BYTES * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = KeyDigest::default();
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(digest)
}

fn models(at: &str, value: Value) -> Result<Models, KeyFileError> {
    let Value::Sequence(_) = value else {
        return Err(wrong(at, "is not a list: write the names of models, or `[\"*\"]` for all"));
    };
    let names: BTreeSet<String> = texts(at, Some(value))?.into_iter().collect();
    match names.contains("*") {
        true if names.len() == 1 => Ok(Models::All),
        true => Err(wrong(at, "has `*` beside names: write `[\"*\"]` alone for all models")),
        false if names.is_empty() || names.contains("") => Err(wrong(at, "names no model")),
        false => Ok(Models::Listed(names)),
    }
}

fn limit(at: &str, name: &str, fields: &mut Mapping) -> Result<Option<u32>, KeyFileError> {
    let Some(value) = fields.remove(name) else { return Ok(None) };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    let what = format!("is not a whole number from 1 to {}", u32::MAX);
    number.map(Some).ok_or_else(|| wrong(&format!("{at}.{name}"), what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "correct-horse-battery-staple";

    #[test]
    fn a_key_and_its_digest_are_the_same() {
        let plain = format!("keys: [{{name: a, key: {KEY}, models: ['*']}}]");
        // `printf %s correct-horse-battery-staple | sha256sum`
        let hex = "87CBEBFEEBC05F7C54AC9336C4B4BBEC831227A641951A4BDE7EDD56020F8590";
        let hashed = format!("keys: [{{name: a, sha256: {hex}, models: ['*']}}]");
        let entries = parse(plain.as_bytes()).unwrap();
        assert_eq!(entries, parse(hashed.as_bytes()).unwrap());
        assert_eq!((entries[0].models.clone(), entries[0].limits), (Models::All, Limits::default()));
        // As `printf %s abc | sha256sum` has it.
        assert!(
            hexadecimal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
                .is_some_and(|digest| digest == digest_of("abc"))
        );
    }

    #[test]
    fn a_name_may_have_several_keys_while_one_replaces_the_other() {
        let text = format!(
            "keys:\n- name: team.a_1\n  key: [{KEY}-1, {KEY}-2]\n  sha256: {}\n  models: [chat, small]\n  \
             requestsPerMinute: 60\n  tokensPerMinute: 4294967295\n  concurrentRequests: 1\n",
            "0a".repeat(32)
        );
        let entries = parse(text.as_bytes()).unwrap();
        assert_eq!(entries[0].digests.len(), 3);
        assert_eq!(entries[0].models, Models::Listed(["chat", "small"].map(str::to_owned).into()));
        assert_eq!(entries[0].limits.tokens_per_minute, Some(u32::MAX));
    }

    #[test]
    fn nobody_is_let_in_on_purpose_only() {
        assert_eq!(parse(b"keys: []").unwrap(), []);
        for empty in ["", "\n", "# nothing yet\n", "---\n", "~"] {
            assert_eq!(parse(empty.as_bytes()), Err(KeyFileError::Empty), "{empty:?}");
        }
    }

    #[test]
    fn every_mistake_is_told_by_its_place_and_no_error_repeats_a_key() {
        let with = |fields: &str| format!("keys: [{{name: a, key: {KEY}, models: ['*']}}, {{{fields}}}]");
        let secret = "sk-0123456789abcdef";
        let cases = [
            (format!("[{secret}]"), "it is not a mapping"),
            (format!("{{keys: [], {secret}: 1}}"), "a field beside `keys`"),
            ("{}".to_owned(), "it has no field `keys`"),
            (format!("keys: {secret}"), "`keys` is not a list"),
            (format!("keys: [{secret}]"), "keys[0] is not a mapping"),
            (with(&format!("key: {secret}, models: ['*']")), "keys[1].name is missing"),
            (with(&format!("name: b c, key: {secret}, models: ['*']")), "keys[1].name is not 1 to 63"),
            (with(&format!("name: a, key: {secret}, models: ['*']")), "keys[1] has the name of another"),
            (with(&format!("name: b, key: {KEY}, models: ['*']")), "keys[1] has a key that was there before"),
            (with("name: b, models: ['*']"), "keys[1] has neither `key` nor `sha256`"),
            (with("name: b, key: 1234567890123456789, models: ['*']"), "keys[1].key is not a text"),
            (with("name: b, key: short, models: ['*']"), "keys[1].key is not 16 to 1024 visible"),
            (with(&format!("name: b, key: '{secret} {secret}', models: ['*']")), "keys[1].key is not 16"),
            (with(&format!("name: b, sha256: {secret}, models: ['*']")), "keys[1].sha256 is not 64"),
            (with(&format!("name: b, key: {secret}")), "keys[1].models is not a list"),
            (with(&format!("name: b, key: {secret}, models: '*'")), "keys[1].models is not a list"),
            (with(&format!("name: b, key: {secret}, models: []")), "keys[1].models names no model"),
            (with(&format!("name: b, key: {secret}, models: ['*', x]")), "keys[1].models has `*` beside"),
            (with(&format!("name: b, key: {secret}, models: [x], {secret}: 1")), "keys[1] has a field that"),
            (
                with(&format!("name: b, key: {secret}, models: [x], requestsPerMinute: 0")),
                "keys[1].requestsPerMinute is not a whole number",
            ),
            (
                with(&format!("name: b, key: {secret}, models: [x], tokensPerMinute: 1.5")),
                "keys[1].tokensPerMinute is not a whole number",
            ),
            (
                with(&format!("name: b, key: {secret}, models: [x], concurrentRequests: -1")),
                "keys[1].concurrentRequests is not a whole number",
            ),
            (format!("keys: [{{name: a, key: {secret}, key: {secret}}}]"), "not valid YAML: see line 1"),
            (format!("keys: [\n{secret}"), "not valid YAML: see line"),
        ];
        for (text, expected) in cases {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains(&secret[..8]) && !error.contains(KEY), "{error}");
        }
        assert_eq!(parse(b"keys: \xff"), Err(KeyFileError::NotText(6)));
    }
}
