//! `inference-gateway check`: whether a gateway that runs somewhere answers, as a client sees it.
//!
//! The image has no shell and no curl, so the program itself is what a pod runs to try its Service (`helm test`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

/// Between two looks at a gateway that is not ready.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A gateway that takes longer for its probe is asked again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Short, and within the context of any model.
const PROMPT: &str = "Hello";
const TOKENS: u32 = 8;
/// The state of a model that nobody has used for long: a request brings it back.
const UNLOADED: &str = "unloaded";

/// What is asked for.
struct Request {
    address: Url,
    model: Option<String>,
    wait: Duration,
    /// What lets in, where that is asked for.
    key: Option<String>,
    /// Whether nothing is to be generated.
    ready_only: bool,
}

/// What `/readyz` says. Fields of later versions are no trouble.
#[derive(Debug, Default, Deserialize)]
struct Readiness {
    ready: bool,
    reason: Option<String>,
    #[serde(default)]
    models: Vec<Model>,
}

#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    state: String,
    ready: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Answer {
    generated_text: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    tokens_generated: u32,
    processing_time_ms: f64,
}

pub(super) fn arguments(command: Command) -> Command {
    command
        .about("Try a running gateway: wait until it is ready, then let each model generate a little")
        .arg(
            Arg::new("address")
                .value_name("ADDRESS")
                .required(true)
                .value_parser(address)
                .help("Of its API, as http://inference-gateway:3000"),
        )
        .arg(
            Arg::new("model").long("model").value_name("NAME").help(
                "Try this model alone, and fail without it. Default: every model that is there, also none",
            ),
        )
        .arg(
            Arg::new("key-file")
                .long("key-file")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("A file with a key or token, where the gateway asks who comes"),
        )
        .arg(
            Arg::new("ready-only")
                .long("ready-only")
                .action(ArgAction::SetTrue)
                .conflicts_with("key-file")
                .help("Generate nothing: look at readiness alone, also at the address for probes"),
        )
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("DURATION")
                .default_value("60s")
                .value_parser(value_parser!(humantime::Duration))
                .help("Time for all of it"),
        )
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}: write it as http://HOST:PORT"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        scheme => Err(format!("{scheme} is not understood: write it as http://HOST:PORT")),
    }
}

/// Does what the command line says.
///
/// # Errors
/// Something did not answer as it should within the time.
pub(super) fn check(matches: &ArgMatches) -> anyhow::Result<()> {
    let request = Request {
        address: matches.get_one::<Url>("address").context("clap asks for the address")?.clone(),
        model: matches.get_one::<String>("model").cloned(),
        key: matches.get_one::<PathBuf>("key-file").map(|file| key(file)).transpose()?,
        ready_only: matches.get_flag("ready-only"),
        wait: **matches.get_one::<humantime::Duration>("wait").context("clap gives the default")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    runtime.block_on(check_gateway(&request))
}

fn key(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

async fn check_gateway(request: &Request) -> anyhow::Result<()> {
    // `main` may have installed it already; the second to come is refused, which is fine.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::builder()
        .user_agent(concat!("inference-gateway/", env!("CARGO_PKG_VERSION")))
        // Somebody who names an address means that one.
        .no_proxy()
        .build()
        .context("failed to set up an HTTP client")?;
    let deadline = Instant::now() + request.wait;
    let models = wait_until_ready(&client, request, deadline).await?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready: {} with {} models", request.address, models.len())?;
    if models.is_empty() {
        writeln!(out, "there is no model to try yet")?;
    }
    if request.ready_only {
        return Ok(());
    }
    for model in &models {
        let line = timeout_at(deadline, generate(&client, request, model))
            .await
            .with_context(|| format!("model {model} did not answer within {:?}", request.wait))??;
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The names of the models to try, once all of them answer.
async fn wait_until_ready(
    client: &Client,
    request: &Request,
    deadline: Instant,
) -> anyhow::Result<Vec<String>> {
    loop {
        let trouble = match look(client, request).await {
            Ok(readiness) => match wanted(&readiness, request.model.as_deref()) {
                Ok(models) => return Ok(models),
                Err(trouble) => trouble,
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() + LOOK_AGAIN >= deadline {
            bail!("{} is not ready after {:?}: {trouble}", request.address, request.wait);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn look(client: &Client, request: &Request) -> anyhow::Result<Readiness> {
    let url = request.address.join("/readyz").context("failed to write the address of /readyz")?;
    let response = client.get(url).timeout(PROBE_TIMEOUT).send().await.context("no answer")?;
    let status = response.status();
    let body = response.bytes().await.context("the answer is cut short")?;
    match status {
        StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => serde_json::from_slice(&body)
            .with_context(|| format!("status {status} without what a gateway says: is this its API?")),
        _ => bail!("status {status}: is this the address of a gateway's API?"),
    }
}

/// The models to try, or what is still missing.
fn wanted(readiness: &Readiness, model: Option<&str>) -> Result<Vec<String>, String> {
    let Readiness { ready, reason, models } = readiness;
    if let Some(name) = model
        && !models.iter().any(|model| model.name == name)
    {
        let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
        let others = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(format!("there is no model {name} (there are: {others})"));
    }
    let tried = || models.iter().filter(|tried| model.is_none_or(|name| tried.name == name));
    let missing: Vec<_> = tried()
        .filter(|model| !model.ready && model.state != UNLOADED)
        .map(|Model { name, state, reason, ready: _ }| match reason.as_str() {
            "" => format!("model {name} is {state}"),
            reason => format!("model {name} is {state}: {reason}"),
        })
        .collect();
    if !missing.is_empty() {
        return Err(missing.join("; "));
    }
    if !ready {
        return Err(reason.clone().unwrap_or_else(|| "it says that it is not ready".to_owned()));
    }
    Ok(tried().map(|model| model.name.clone()).collect())
}

async fn generate(client: &Client, request: &Request, model: &str) -> anyhow::Result<String> {
    let url = request.address.join("/api/v1/inference").context("failed to write the address of the API")?;
    let body = serde_json::json!({
        "model": model, "text": PROMPT, "max_tokens": TOKENS, "temperature": 0, "return_full_text": false,
    });
    let mut sent = client.post(url);
    if let Some(key) = &request.key {
        sent = sent.bearer_auth(key);
    }
    let response = sent
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string())
        .send()
        .await
        .with_context(|| format!("model {model} did not answer"))?;
    let status = response.status();
    let revision = response.headers().get("x-model-revision").and_then(|value| value.to_str().ok());
    let revision = revision.unwrap_or("unknown").to_owned();
    let body = response.text().await.with_context(|| format!("the answer of model {model} is cut short"))?;
    if status != StatusCode::OK {
        bail!("model {model} answered with status {status}: {body}");
    }
    let Answer { generated_text, metadata } = serde_json::from_str(&body)
        .with_context(|| format!("model {model} answered in an unknown form: {body}"))?;
    let Metadata { tokens_generated, processing_time_ms } = metadata;
    Ok(format!(
        "{model}: revision {revision} made {tokens_generated} tokens in {processing_time_ms:.0} ms: {generated_text:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(models: &[(&str, &str, bool)]) -> Readiness {
        let models = models.iter().map(|(name, state, ready)| Model {
            name: (*name).to_owned(),
            state: (*state).to_owned(),
            ready: *ready,
            reason: String::new(),
        });
        Readiness { ready: true, reason: None, models: models.collect() }
    }

    #[test]
    fn a_model_that_sleeps_is_tried_and_one_that_loads_is_waited_for() {
        let seen = readiness(&[("awake", "ready", true), ("asleep", "unloaded", false)]);
        assert_eq!(wanted(&seen, None), Ok(vec!["awake".to_owned(), "asleep".to_owned()]));
        let seen = readiness(&[("awake", "ready", true), ("new", "loading", false)]);
        assert_eq!(wanted(&seen, None), Err("model new is loading".to_owned()));
        assert_eq!(wanted(&seen, Some("awake")), Ok(vec!["awake".to_owned()]));
    }

    #[test]
    fn a_gateway_without_models_is_ready_unless_one_is_named() {
        assert_eq!(wanted(&readiness(&[]), None), Ok(Vec::new()));
        assert_eq!(
            wanted(&readiness(&[]), Some("chat")),
            Err("there is no model chat (there are: none)".to_owned())
        );
    }
}
