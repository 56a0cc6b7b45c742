//! Artifacts in a registry: manifest, token, one layer for each file.
//!
//! ```text
//! /v2/{repository}/manifests/{reference} ──401──▶ realm of WWW-Authenticate ─▶ token ─▶ again
//!        │ index of one manifest: that one by its digest
//!        ▼
//! layers: title → name, size, digest ─▶ Listing, whose files are /v2/{repository}/blobs/{digest}
//! ```
//!
//! Every request, the one to the realm too, passes the guard; a token goes to the registry alone and not
//! along with a redirect to another host.
//!
//! From: OCI distribution specification 1.1 ("Pull"), OCI image specification 1.1 (manifest, annotations), the token
//! authentication of the Distribution registry.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::archive;
use super::error::FetchError;
use super::http::Http;
use super::listed::Listing;
use crate::model::hexadecimal::hexadecimal;
use crate::model::manifest::{MANIFEST_FILE, MOST_BYTES, Manifest, ManifestFile};
use crate::model::spec::{OciSource, without_query};

/// Registries refuse manifests above 4 MiB.
const MOST_MANIFEST_BYTES: u64 = 4 << 20;
/// Registries give tokens for a minute at least; a large file that has begun needs no new one.
const TOKEN_LIFE: Duration = Duration::from_secs(50);
/// The file name of a layer.
const TITLE: &str = "org.opencontainers.image.title";
/// Set by ORAS on a layer that is a packed folder.
const UNPACK: &str = "io.deis.oras.content.unpack";

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// An index or a manifest: both are objects, and a registry may leave the media type out.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Who we are for a registry. Credentials of a mounted file will stand here beside the anonymous way.
pub(super) struct Session {
    /// Where tokens are made, once the registry has said so.
    realm: Option<Url>,
    token: Option<(HeaderValue, Instant)>,
}

/// What an artifact consists of.
pub(super) async fn listing(http: &Http, source: &OciSource) -> Result<Listing, FetchError> {
    let mut session = Session { realm: None, token: None };
    let base = base(http, source);
    let mut document = manifest(http, &mut session, &base, source.reference()).await?;
    if !document.manifests.is_empty() {
        let [only] = document.manifests.as_slice() else {
            let many = document.manifests.len();
            let message = format!("it is an index of {many} artifacts: name one by its digest (@sha256:…)");
            return Err(FetchError::Listing { place: source.to_string(), message });
        };
        let digest = only.digest.clone();
        document = manifest(http, &mut session, &base, &digest).await?;
    }
    let (files, own) = files(source, &document.layers)?;
    let invalid = |message| FetchError::Listing { place: source.to_string(), message };
    let mut listed = Manifest::from_files(files).map_err(invalid)?;
    let mut manifest_bytes = listed.to_bytes();
    if let Some(layer) = own {
        let headers = session.headers(http).await?;
        manifest_bytes = http.document(&blob(&base, &layer.digest), &headers, MOST_BYTES).await?;
        check_digest(source, &layer.digest, &manifest_bytes)?;
        let own = Manifest::parse(&manifest_bytes).map_err(invalid)?;
        if let Some(missing) = own.files().iter().find(|file| !listed.files().contains(file)) {
            let message = format!("its manifest.json lists {}, which no layer is", missing.name);
            return Err(FetchError::Listing { place: source.to_string(), message });
        }
        listed = own;
    }
    let urls = listed.files().iter().map(|file| blob(&base, &format!("sha256:{}", file.sha256))).collect();
    Ok(Listing { manifest: listed, manifest_bytes, urls, session: Some(session) })
}

/// The files that layers are, and the layer of our own manifest, if there is one.
fn files<'a>(
    source: &OciSource,
    layers: &'a [Descriptor],
) -> Result<(Vec<ManifestFile>, Option<&'a Descriptor>), FetchError> {
    let (mut files, mut own) = (Vec::new(), None);
    for layer in layers {
        let Descriptor { media_type, digest, size, annotations } = layer;
        let title = annotations.get(TITLE);
        let name = title.map_or(digest.as_str(), String::as_str);
        let unpacked = annotations.get(UNPACK).is_some_and(|unpack| unpack != "false");
        if archive::is_archive_type(media_type) || unpacked {
            let place = format!("the layer {:?} of {source}", name.escape_debug().to_string());
            return Err(FetchError::Archive { place, what: "an archive by its media type or annotation" });
        }
        archive::refuse_name(&source.to_string(), name)?;
        let message = match (title, digest.strip_prefix("sha256:")) {
            (Some(name), Some(_)) if name == MANIFEST_FILE => {
                own = Some(layer);
                continue;
            }
            (Some(name), Some(sha256)) => {
                files.push(ManifestFile { name: name.clone(), size: *size, sha256: sha256.to_owned() });
                continue;
            }
            (None, _) => format!("the layer {digest} has no file name ({TITLE})"),
            (Some(name), None) => format!("the layer {name:?} is not named by a sha256"),
        };
        return Err(FetchError::Listing { place: source.to_string(), message });
    }
    Ok((files, own))
}

/// The manifest or index behind a tag or digest; what a digest names is checked against it.
async fn manifest(
    http: &Http,
    session: &mut Session,
    base: &Url,
    reference: &str,
) -> Result<Document, FetchError> {
    let url = below(base, "manifests", reference);
    let invalid = |message: String| FetchError::Listing { place: without_query(&url), message };
    let mut headers = session.headers(http).await?;
    headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
    let mut response = http.get(&url, &headers).await?;
    if response.status() == StatusCode::UNAUTHORIZED && session.realm.is_none() {
        let challenge = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        session.realm = challenge.and_then(realm);
        if session.realm.is_some() {
            headers.extend(session.headers(http).await?);
            response = http.get(&url, &headers).await?;
        }
    }
    let bytes = http.read(checked(response)?, MOST_MANIFEST_BYTES).await?;
    if reference.starts_with("sha256:") {
        let found = format!("sha256:{}", hexadecimal(&Sha256::digest(&bytes)));
        if found != reference {
            let expected = reference.to_owned();
            return Err(FetchError::Digest { url: without_query(&url), expected, found });
        }
    }
    serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))
}

/// Turns a status that is not a success into an error that says what to do.
fn checked(response: reqwest::Response) -> Result<reqwest::Response, FetchError> {
    let status = response.status();
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; the artifact must be readable without a login, or it does not exist"
        }
        StatusCode::NOT_FOUND => "; check registry, repository, tag and digest",
        status if status.is_success() => return Ok(response),
        _ => "",
    };
    let retry_after = super::http::retry_after(response.headers());
    Err(FetchError::Status { url: without_query(response.url()), status, hint, retry_after })
}

impl Session {
    /// What to send along as `Authorization`; `None` while the registry has not asked.
    pub(super) async fn authorization(&mut self, http: &Http) -> Result<Option<HeaderValue>, FetchError> {
        let Some(realm) = &self.realm else {
            return Ok(None);
        };
        if let Some((token, made)) = &self.token
            && made.elapsed() < TOKEN_LIFE
        {
            return Ok(Some(token.clone()));
        }
        let refuse = |reason| FetchError::Response { url: without_query(realm), reason };
        let bytes = http.read(checked(http.get(realm, &HeaderMap::new()).await?)?, MOST_BYTES).await?;
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| refuse("it gives no token in JSON"))?;
        let token = answer.token.or(answer.access_token).ok_or_else(|| refuse("it gives no token"))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| refuse("it gives a token that no header can carry"))?;
        header.set_sensitive(true);
        self.token = Some((header.clone(), Instant::now()));
        Ok(Some(header))
    }

    async fn headers(&mut self, http: &Http) -> Result<HeaderMap, FetchError> {
        let authorization = self.authorization(http).await?;
        Ok(authorization.into_iter().map(|value| (AUTHORIZATION, value)).collect())
    }
}

/// `Bearer realm="…",service="…",scope="…"` → where to ask for a token, query included.
fn realm(challenge: &str) -> Option<Url> {
    let (scheme, mut rest) = challenge.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = BTreeMap::new();
    while let Some((name, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        parameters.insert(name.trim_matches([' ', ',']).to_ascii_lowercase(), value);
        rest = after.trim_start_matches([' ', ',']);
    }
    let mut url = Url::parse(parameters.get("realm")?).ok()?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    for name in ["service", "scope"] {
        if let Some(value) = parameters.get(name) {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    Some(url)
}

fn check_digest(source: &OciSource, digest: &str, bytes: &[u8]) -> Result<(), FetchError> {
    let found = format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)));
    if found == digest {
        return Ok(());
    }
    Err(FetchError::Digest {
        url: format!("{MANIFEST_FILE} of {source}"),
        expected: digest.to_owned(),
        found,
    })
}

/// `{registry}/v2/{repository}`. Plain http to hosts that the settings name for it, and to this machine.
fn base(http: &Http, source: &OciSource) -> Url {
    let mut url = source.registry().as_url().clone();
    let host = url.host_str().unwrap_or_default();
    if http.may_be_plain(host) || matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        // From https with a default port to http the parser keeps no port, which is what is meant.
        url = Url::parse(&url.as_str().replacen("https", "http", 1)).unwrap_or(url);
    }
    url.set_path(&format!("/v2/{}", source.repository()));
    url
}

fn blob(base: &Url, digest: &str) -> Url {
    below(base, "blobs", digest)
}

fn below(base: &Url, kind: &str, reference: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{kind}/{reference}", base.path()));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_where_tokens_are_made() {
        let asked = |challenge: &str| realm(challenge).map(|url| url.to_string());
        assert_eq!(
            asked(
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#
            )
            .as_deref(),
            Some("https://auth.example/token?service=r.example&scope=repository%3Aa%2Fb%3Apull")
        );
        assert_eq!(
            asked(r#"bearer service=x, realm="http://a/t?k=v""#).as_deref(),
            Some("http://a/t?k=v&service=x")
        );
        for other in [
            r#"Basic realm="https://auth.example""#,
            r#"Bearer realm="file:///etc/passwd""#,
            r#"Bearer realm="https://u:p@a/""#,
            r#"Bearer service="x""#,
            "Bearer realm=\"https://a",
            "Bearer",
            "",
        ] {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
