//! The download of one file: lock, resume or start, check, publish.
//!
//! Called by the sources that have an address (`web.rs`, `hub.rs`). A failure leaves what has arrived for the next
//! attempt and never anything under the final name. There is no loop over passing errors in here: the caller waits
//! and calls again, which costs only the missing bytes.

use std::path::Path;
use std::time::Instant;

use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tracing::{info, warn};
use url::Url;

use super::error::FetchError;
use super::http::{Body, Http};
use super::partial::{Identity, Partial};
use super::progress::Progress;
use crate::model::spec::without_query;

/// Chunks between the network and the disk: enough to keep both busy, at most a few megabytes.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Begins the name of a version that is known by its hash alone.
const HASH: &str = "sha256:";

/// A file to fetch and what is known about it beforehand.
pub(super) struct RemoteFile<'a> {
    pub(super) url: &'a Url,
    /// Final place. Its folder is created.
    pub(super) target: &'a Path,
    /// What was at `target` when the caller decided to download.
    pub(super) seen: Identity,
    /// Size as announced by the hub.
    pub(super) expected_bytes: Option<u64>,
    /// Digest as announced by the hub, 64 lower-case hexadecimal digits.
    pub(super) sha256: Option<&'a str>,
    /// Sent along, but not to another host that a redirect names.
    pub(super) authorization: Option<HeaderValue>,
}

/// What an answer to our request means for the bytes we have.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The bytes after ours; the size of the whole file if told.
    Rest { total_bytes: Option<u64> },
    /// The file from its first byte.
    Whole { total_bytes: Option<u64> },
    /// We have everything.
    Complete,
    /// Something that does not fit our bytes: ask again without them.
    Restart,
    /// A success without a file.
    Strange(&'static str),
    /// Not a success.
    Failed,
}

/// Downloads `file`, or waits for somebody else who does. Returns the server's name for the version (`ETag` or
/// `Last-Modified`) if it was downloaded here and the server told one.
pub(super) async fn download(
    http: &Http,
    file: &RemoteFile<'_>,
    progress: &Progress,
) -> Result<Option<String>, FetchError> {
    let started = Instant::now();
    check_size(http, file, file.expected_bytes)?;
    progress.start(&file.name(), 0, file.expected_bytes);
    let Some(partial) = Partial::lock(file.target, file.seen).await? else {
        progress.finish();
        return Ok(None);
    };
    let partial = fill(http, file, partial, progress).await?;
    let partial = match verify(file, partial).await? {
        Ok(partial) => partial,
        Err((partial, error)) => {
            warn!(%error, "downloading again from the first byte");
            let partial = fill(http, file, partial.restart(None).await?, progress).await?;
            match verify(file, partial).await? {
                Ok(partial) => partial,
                Err((partial, error)) => {
                    partial.discard().await?;
                    return Err(error);
                }
            }
        }
    };
    let (validator, bytes) = (partial.validator().map(str::to_owned), partial.length_bytes());
    let resumed_from_bytes = partial.resumed_from_bytes();
    partial.publish().await?;
    progress.finish();
    let duration_ms = started.elapsed().as_millis() as u64;
    info!(source = %without_query(file.url), bytes, duration_ms, resumed_from_bytes, "downloaded");
    Ok(validator)
}

/// Brings the partial file to its full length.
async fn fill(
    http: &Http,
    file: &RemoteFile<'_>,
    mut partial: Partial,
    progress: &Progress,
) -> Result<Partial, FetchError> {
    let announced = file.sha256.is_some() && file.expected_bytes == Some(partial.length_bytes());
    if announced && partial.length_bytes() > 0 {
        return Ok(partial);
    }
    let resume = resume_headers(&partial);
    if resume.is_empty() && partial.length_bytes() > 0 {
        partial = partial.restart(None).await?;
    } else if file.sha256.is_some() {
        // Before the request: the server would wait while old bytes are hashed.
        partial = partial.sha256().await?.0;
    }
    let plain: HeaderMap = file.authorization.iter().map(|value| (AUTHORIZATION, value.clone())).collect();
    let mut headers = plain.clone();
    headers.extend(resume);
    let mut response = http.get(file.url, &headers).await?;
    let mut answer = understand(&response, &partial);
    if answer == Answer::Restart {
        partial = partial.restart(None).await?;
        response = http.get(file.url, &plain).await?;
        answer = understand(&response, &partial);
    }
    let refuse = |reason| Err(FetchError::Response { url: without_query(file.url), reason });
    let total_bytes = match answer {
        Answer::Complete => return Ok(partial),
        Answer::Rest { total_bytes } => total_bytes,
        Answer::Whole { total_bytes } => {
            partial = partial.restart(version(file, response.headers())).await?;
            total_bytes
        }
        Answer::Restart => return refuse("it answers a plain request with a range"),
        Answer::Strange(reason) => return refuse(reason),
        Answer::Failed => {
            http.check_status(response)?;
            return refuse("its status has no meaning here");
        }
    };
    if total_bytes.zip(file.expected_bytes).is_some_and(|(told, announced)| told != announced) {
        return refuse("its size is not the one that the hub announced");
    }
    if let Err(error) = check_size(http, file, total_bytes) {
        partial.discard().await?;
        return Err(error);
    }
    let expected_bytes = total_bytes.or(file.expected_bytes);
    progress.start(&file.name(), partial.length_bytes(), expected_bytes);
    let partial = transfer(http, file, partial, http.body(response), progress).await?;
    match expected_bytes {
        Some(expected_bytes) if expected_bytes != partial.length_bytes() => Err(FetchError::Truncated {
            url: without_query(file.url),
            received_bytes: partial.length_bytes(),
            expected_bytes,
        }),
        Some(_) | None => Ok(partial),
    }
}

/// Moves the body into the partial file. What arrived before a failure is on disk when this returns.
async fn transfer(
    http: &Http,
    file: &RemoteFile<'_>,
    partial: Partial,
    mut body: Body,
    progress: &Progress,
) -> Result<Partial, FetchError> {
    // What says beforehand how long it is gets no byte more.
    let limit_bytes = http.maximum_file_bytes().min(file.expected_bytes.unwrap_or(u64::MAX));
    let room_bytes = limit_bytes.saturating_sub(partial.length_bytes());
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let receive = async move {
        while let Some(chunk) = body.next().await? {
            check_room(file, body.received_bytes, (room_bytes, limit_bytes))?;
            progress.add(chunk.len() as u64);
            if sender.send(chunk).await.is_err() {
                // The writer has failed; its own error says why.
                break;
            }
        }
        Ok(())
    };
    let (transport, storage) = tokio::join!(receive, partial.write(receiver, file.sha256.is_some()));
    match (transport, storage?) {
        (Err(error @ FetchError::TooLarge { .. }), partial) => {
            partial.discard().await?;
            Err(error)
        }
        (Err(error), _) => Err(error),
        (Ok(()), partial) => Ok(partial),
    }
}

/// The partial file if its digest is the announced one, or none was announced; else the file and the error.
async fn verify(
    file: &RemoteFile<'_>,
    partial: Partial,
) -> Result<Result<Partial, (Partial, FetchError)>, FetchError> {
    let Some(expected) = file.sha256 else {
        return Ok(Ok(partial));
    };
    let (partial, found) = partial.sha256().await?;
    if found == expected {
        return Ok(Ok(partial));
    }
    let error = FetchError::Digest { url: without_query(file.url), expected: expected.to_owned(), found };
    Ok(Err((partial, error)))
}

impl RemoteFile<'_> {
    /// What a person calls the file: the last segment of its address.
    fn name(&self) -> String {
        self.url.path().rsplit('/').next().unwrap_or_default().to_owned()
    }
}

fn check_size(http: &Http, file: &RemoteFile<'_>, bytes: Option<u64>) -> Result<(), FetchError> {
    let limit_bytes = http.maximum_file_bytes();
    check_room(file, bytes.unwrap_or(0), (limit_bytes, limit_bytes))
}

fn check_room(
    file: &RemoteFile<'_>,
    bytes: u64,
    (room_bytes, limit_bytes): (u64, u64),
) -> Result<(), FetchError> {
    if bytes <= room_bytes {
        return Ok(());
    }
    Err(FetchError::TooLarge { url: without_query(file.url), limit_bytes })
}

/// Asks for the bytes after ours, if the version they belong to has a name that ranges may rely on.
fn resume_headers(partial: &Partial) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // From: RFC 9110 §13.1.5, a weak validator must not be used with If-Range.
    let strong = partial.validator().filter(|validator| !validator.starts_with("W/"));
    if let Some(validator) = strong.and_then(|validator| HeaderValue::from_str(validator).ok())
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", partial.length_bytes()))
        && partial.length_bytes() > 0
    {
        headers.insert(RANGE, range);
        if !is_hash(partial.validator()) {
            headers.insert(IF_RANGE, validator);
        }
    }
    headers
}

fn understand(response: &Response, partial: &Partial) -> Answer {
    let have = Some(partial.length_bytes()).filter(|bytes| *bytes > 0).zip(partial.validator());
    answer(response.status(), response.headers(), have)
}

/// What an answer means if we have `have` = (bytes, validator).
fn answer(status: StatusCode, headers: &HeaderMap, have: Option<(u64, &str)>) -> Answer {
    let range = text(headers, &CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
    match (status, have) {
        (StatusCode::OK, _) => {
            let total_bytes = text(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok());
            Answer::Whole { total_bytes }
        }
        (StatusCode::PARTIAL_CONTENT, Some((have_bytes, version))) => {
            let same = is_hash(Some(version)) || validator(headers).is_none_or(|told| told == version);
            match range.and_then(parse_range) {
                Some((first, total_bytes)) if first == have_bytes && same => Answer::Rest { total_bytes },
                Some(_) | None => Answer::Restart,
            }
        }
        (StatusCode::PARTIAL_CONTENT, None) => Answer::Strange("it answers a plain request with a range"),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some((have_bytes, _))) => {
            // With If-Range, this status means that the version is still ours.
            let total_bytes = range.and_then(|range| range.strip_prefix("*/")?.parse().ok());
            if total_bytes == Some(have_bytes) { Answer::Complete } else { Answer::Restart }
        }
        (status, _) if status.is_success() => Answer::Strange("it answers with success but without a file"),
        _ => Answer::Failed,
    }
}

/// `first-last/total` or `first-last/*` → (first, total).
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

/// What the bytes of this answer are a version of: the server's name for it, else the announced hash, by
/// which bytes may be resumed too, because the whole is checked against it.
fn version(file: &RemoteFile<'_>, headers: &HeaderMap) -> Option<String> {
    let strong = validator(headers).filter(|validator| !validator.starts_with("W/"));
    strong.or_else(|| file.sha256.map(|sha256| format!("{HASH}{sha256}"))).or_else(|| validator(headers))
}

fn is_hash(version: Option<&str>) -> bool {
    version.is_some_and(|version| version.starts_with(HASH))
}

/// What the server calls this version of the file.
pub(super) fn validator(headers: &HeaderMap) -> Option<String> {
    text(headers, &ETAG).or_else(|| text(headers, &LAST_MODIFIED)).map(str::to_owned)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
