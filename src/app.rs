//! The composition root: builds every part, runs them, and joins them when the process ends.

mod access;
mod cluster;
mod one;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::cluster::control;
pub use self::one::{OneModel, load_one};
use crate::access::KeyRing;
use crate::config::{EngineSettings, ModelSettings, Settings, SourceSettings};
use crate::engine::ort::library::{self, Search};
use crate::engine::ort::{Runtime, RuntimeOptions};
use crate::http::{self, Admin, Api, HttpLimits, ListedIn, Server, Tls};
use crate::k8s::{Agent, ConfigMapModels};
use crate::memory;
use crate::metrics::Metrics;
use crate::model::manifest::{Digest, Manifest};
use crate::model::source::{CaBundle, FetchSettings, Fetcher, Guard, GuardRules, HubToken, Progress};
use crate::model::spec::{HttpUrl, Source, VerifySpec};
use crate::model::store::{Store, StoreSettings, Wanted};
use crate::model::verify::{self, ChildBounds, StaticReport, VerifyReport, VerifyRequest};
use crate::model::{
    Defaults, Desired, Fleet, InvalidTemplate, LiveLimits, LoadLimits, MemoryLimits, Registry, RunningStep,
    StateFolder, Target, TemplateField, TemplateSources, Templates, Trial, Workshop,
};
use crate::models_file::{FileStatus, ModelsFile};
use crate::shutdown::{Phase, ReloadHandle, ReloadRequests, StopRequests, Tasks};
use crate::telemetry::{LogControl, SpanExport, Traces};

/// Time for a connection to the hub or another server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often steps are looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Spans that are left have so long to reach the collector when everything else is over.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// After the deadline has ended all generations, answers have so long to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The bound listeners; tests bring their own.
pub struct Listeners {
    /// The API.
    pub api: TcpListener,
    /// Probes and metrics alone.
    pub ops: TcpListener,
    /// For those who run the gateway.
    pub admin: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings.
    ///
    /// # Errors
    /// An address is taken or not ours.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            api: bind(settings.listen.listen_address, "INFERENCE_LISTEN_ADDRESS").await?,
            ops: bind(settings.listen.ops_address, "INFERENCE_OPS_ADDRESS").await?,
            admin: bind(settings.listen.admin_address, "INFERENCE_ADMIN_ADDRESS").await?,
        })
    }
}

async fn bind(address: SocketAddr, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}: set {variable} to a free address"))
}

/// What the process is asked from outside while it serves.
pub struct Requests {
    /// To end.
    pub stop: StopRequests,
    /// To read the list of models again.
    pub reload: ReloadRequests,
    /// The other end of `reload`, for the admin listener.
    pub reload_handle: ReloadHandle,
    /// What is logged, where that is this program's to change.
    pub log: Option<LogControl>,
}

/// Serves until told to stop, and then until everything has ended.
///
/// # Errors
/// The ONNX Runtime library cannot be used, or an engine has died.
pub async fn run(settings: Settings, listeners: Listeners, requests: Requests) -> anyhow::Result<()> {
    let Requests { stop, reload, reload_handle, log } = requests;
    let metrics = Arc::new(metrics(&settings));
    if let Some(bytes) = settings.engine.memory_limit.or_else(memory::limit_bytes) {
        metrics.memory_limit(bytes);
    }
    let (over, over_seen) = watch::channel(false);
    let trace_tasks = Tasks::default();
    let traces = start_traces(&settings, &metrics, (&trace_tasks, over_seen))?;
    let registry = Arc::new(Registry::default());
    let (phase, phase_seen) = watch::channel(Phase::Serving);
    let defaults = defaults(&settings);
    let target = environment_target(&settings, &defaults)?;
    let workshop = Workshop::new(
        store_of(&settings, target.as_ref())?,
        start_runtime(&settings.engine)?,
        Arc::clone(&registry),
        (Arc::clone(&metrics), traces.clone()),
        (StateFolder::open(settings.sources.state_folder()), trial(&settings)?),
    )?;
    let (fleet, commands) = Fleet::new(workshop, defaults.clone());
    let wanted = target.map(|target| Desired::from([(target.key.clone(), Arc::new(target))]));
    let (desired, desired_seen) = watch::channel(wanted);
    let file_status = Arc::new(FileStatus::default());
    let file = settings.model.models_file.clone().map(|path| ModelsFile {
        path,
        defaults,
        metrics: Arc::clone(&metrics),
        desired: desired.clone(),
        status: Arc::clone(&file_status),
        registry: Arc::clone(&registry),
    });
    let door = access::door(&settings, &metrics).await?;
    let agent = cluster::agent(&settings, (&registry, &metrics), &commands, &desired).await?;
    let config_map = cluster::config_map(&settings, (&registry, &metrics), &desired, &file_status).await?;
    let listed_in = settings.model.models_file.clone();
    let listed_in = listed_in
        .or_else(|| Some(format!("configmap/{}", settings.cluster.models_config_map.clone()?).into()));
    let admin = Arc::new(Admin {
        registry: Arc::clone(&registry),
        fleet: commands,
        models_file: listed_in.map(|path| ListedIn {
            path,
            status: Arc::clone(&file_status),
            reload: reload_handle,
        }),
        log,
        memory_limit: settings.engine.memory_limit,
    });
    let api = Arc::new(Api {
        registry: Arc::clone(&registry),
        metrics: Arc::clone(&metrics),
        traces,
        access: door.access,
        scrapers: door.scrapers,
        tls: door.tls.clone(),
        phase: phase_seen.clone(),
        limits: HttpLimits {
            body_bytes: settings.listen.max_body_bytes,
            body_timeout: settings.connections.body_timeout,
            request_timeout: settings.listen.request_timeout,
            step_timeout: settings.engine.step_timeout,
            metrics_on_api: settings.listen.metrics_on_api,
            playground: settings.listen.playground,
        },
    });

    let (api_tasks, ops_tasks) = (Tasks::default(), Tasks::default());
    let limits = access::connection_limits(&settings);
    let api_server = Server::public(listeners.api, limits, door.tls.clone(), metrics);
    let [ops_server, admin_server] = [listeners.ops, listeners.admin].map(Server::internal);
    tracing::info!(api = %api_server.local_addr()?, ops = %ops_server.local_addr()?, admin = %admin_server.local_addr()?, tls = door.tls.is_some(), "listening");
    api_tasks.spawn(serve(api_server, http::api_router(&api), phase_seen.clone(), Phase::Draining));
    // Probes and scrapes are answered until the very end.
    ops_tasks.spawn(serve(ops_server, http::ops_router(&api), phase_seen.clone(), Phase::Aborting));
    ops_tasks.spawn(serve(admin_server, http::admin_router(&admin), phase_seen, Phase::Aborting));

    let outcome = tokio::select! {
        () = wait_for_stop(stop.clone()) => Ok(()),
        died = fleet.run(desired_seen) => died.map(|never| match never {}).map_err(Into::into),
        never = follow(file, config_map, reload) => match never {},
        Some(never) = optional(agent.map(Agent::run)) => match never {},
        Some(never) = optional(door.keys.as_deref().map(KeyRing::follow)) => match never {},
        Some(never) = optional(door.tls.as_deref().map(Tls::follow)) => match never {},
        never = watch_steps(&registry, settings.engine.step_timeout) => match never {},
    };
    end(&settings, &phase, stop, &registry, &api_tasks).await;
    ops_tasks.joined().await;
    over.send_replace(true);
    if tokio::time::timeout(LAST_SPANS, trace_tasks.joined()).await.is_err() {
        tracing::warn!("the last spans did not reach the collector in time");
    }
    tracing::info!("stopped");
    outcome
}

/// Starts the task that sends spans, if they are to go anywhere.
fn start_traces(
    settings: &Settings,
    metrics: &Arc<Metrics>,
    (tasks, over): (&Tasks, watch::Receiver<bool>),
) -> anyhow::Result<Traces> {
    let Some(options) = settings.traces.options()? else { return Ok(Traces::default()) };
    let (traces, export) = SpanExport::new(&options, metrics)?;
    tracing::info!(endpoint = options.endpoint, protocol = ?options.protocol, "traces are sent");
    tasks.spawn(export.run(over));
    Ok(traces)
}

fn metrics(settings: &Settings) -> Metrics {
    if settings.listen.picker_metrics {
        Metrics::new().for_pickers(settings.engine.prefill_chunk_tokens.get())
    } else {
        Metrics::new()
    }
}

/// What `inference-gateway verify` tells of a model.
pub struct Report {
    /// The manifest's digest, number of files and their bytes; `None` when the folder has no manifest.
    pub manifest: Option<(Digest, usize, u64)>,
    /// What the files say.
    pub files: StaticReport,
    /// What trying it has shown.
    pub found: VerifyReport,
}

/// Checks the model that the settings name: the bytes of its files, if they are listed, then the files themselves, then in
/// a process of its own everything that `serve` does before the model answers.
///
/// # Errors
/// The first check that failed.
pub async fn verify(settings: &Settings) -> anyhow::Result<Report> {
    let target = default_target(settings, &defaults(settings))?;
    let mut manifest = None;
    if let Source::Path(folder) = &target.source
        && let Some((listed, digest)) = Manifest::read(folder)?
    {
        listed.verify(folder)?;
        manifest = Some((digest, listed.files().len(), listed.files().iter().map(|file| file.size).sum()));
    }
    let wanted =
        Wanted { source: &target.source, tokenizer: target.tokenizer.as_ref(), digest: None, in_place: true };
    let prepared = store_of(settings, Some(&target))?.prepare(&wanted, &Progress::default()).await?;
    let request = VerifyRequest {
        name: target.key.clone(),
        graph: std::path::absolute(&prepared.graph)?,
        tokenizer: std::path::absolute(&prepared.tokenizer)?,
        limits: target.load,
        chat_template: target.templates.chat.clone(),
        verify: VerifySpec::default(),
    };
    let bounds = ChildBounds {
        executable: std::env::current_exe().context("failed to find this program")?,
        memory_bytes: target.load.memory.process_bytes.unwrap_or(u64::MAX / 2),
        timeout: Duration::from_secs(request.verify.timeout_seconds.into()),
        library: std::path::absolute(library::find(&library_search(&settings.engine))?)?,
        threads: settings.engine.thread_count(),
    };
    let files = {
        let request = request.clone();
        tokio::task::spawn_blocking(move || verify::check_files(&request)).await??
    };
    let found = verify::in_child(&request, &bounds).await?;
    Ok(Report { manifest, files, found })
}

/// How models are tried.
fn trial(settings: &Settings) -> anyhow::Result<Trial> {
    let executable = settings.model.verify_executable.clone().map_or_else(std::env::current_exe, Ok);
    let executable = executable.context("failed to find this program")?;
    Ok(Trial { executable, threads: settings.engine.thread_count() })
}

/// The store that the settings describe, for sources that they name.
///
/// # Errors
/// A setting is not understood.
pub fn store(settings: &Settings) -> anyhow::Result<Store> {
    let target = default_target(settings, &defaults(settings))?;
    store_of(settings, Some(&target))
}

/// The store; what `target` names is not guarded against.
fn store_of(settings: &Settings, target: Option<&Target>) -> anyhow::Result<Store> {
    let sources = &settings.sources;
    let folder = sources.cache_folder();
    let mut fetch = fetch_settings(sources, target)?;
    fetch.download_cache = folder.join("downloads");
    let store = StoreSettings { folder, limit_bytes: sources.cache_limit };
    Ok(Store::new(store, Fetcher::new(fetch)).with_most_model_bytes(sources.max_model_bytes))
}

/// Follows the list of models, if there is one.
async fn follow(
    file: Option<ModelsFile>,
    config_map: Option<ConfigMapModels>,
    mut reload: ReloadRequests,
) -> std::convert::Infallible {
    if let Some(file) = file {
        return file.follow(reload).await;
    }
    if let Some(config_map) = config_map {
        return config_map.follow(reload).await;
    }
    loop {
        reload.asked().await;
        tracing::warn!("there is no list of models to read again: INFERENCE_MODELS_FILE is not set");
    }
}

/// Logs a step that takes longer than `bound`, once, with what it runs.
async fn watch_steps(registry: &Registry, bound: Duration) -> std::convert::Infallible {
    let mut told = Vec::new();
    loop {
        tokio::time::sleep(WATCH_INTERVAL.min(bound)).await;
        let stuck = registry.stuck(bound);
        for (model, step) in stuck.iter().filter(|(model, _)| !told.contains(model)) {
            let RunningStep { age, rows, chunk_tokens } = step;
            let age_ms = age.as_millis() as u64;
            tracing::error!(%model, age_ms, rows, chunk_tokens, "an engine step takes too long: the model is not ready");
        }
        told = stuck.into_iter().map(|(model, _)| model).collect();
    }
}

async fn wait_for_stop(mut stop: StopRequests) {
    stop.asked(1).await;
}

/// Leaving → Draining → Aborting, each as long as the settings say.
async fn end(
    settings: &Settings,
    phase: &watch::Sender<Phase>,
    mut stop: StopRequests,
    registry: &Registry,
    api_tasks: &Tasks,
) {
    phase.send_replace(Phase::Leaving);
    tracing::info!(delay_ms = settings.shutdown.shutdown_delay.as_millis() as u64, "not ready any more");
    tokio::select! {
        () = tokio::time::sleep(settings.shutdown.shutdown_delay) => {}
        () = stop.asked(2) => {}
    }
    phase.send_replace(Phase::Draining);
    tokio::select! {
        () = api_tasks.joined() => {}
        () = tokio::time::sleep(settings.shutdown.drain_timeout) => {
            tracing::warn!("the drain timeout has passed: ending what is left");
        }
        () = stop.asked(2) => tracing::warn!("asked to stop again: ending what is left"),
    }
    phase.send_replace(Phase::Aborting);
    let models = registry.clear();
    let engines_stopped =
        tokio::task::spawn_blocking(move || models.iter().for_each(|model| model.engine.stop()));
    // An engine ends after its current step; one that is stuck must not keep the process from ending.
    match tokio::time::timeout(settings.engine.step_timeout, engines_stopped).await {
        Ok(Ok(())) => {}
        Ok(Err(_panicked)) => tracing::error!("stopping the engines panicked"),
        Err(_elapsed) => tracing::error!("an engine is stuck in a step: ending without it"),
    }
    if tokio::time::timeout(LAST_WORDS, api_tasks.joined()).await.is_err() {
        tracing::warn!("connections that did not end were dropped");
    }
}

/// Serves a listener until `until`, then lets its requests finish; after `Aborting` for a moment only.
async fn serve(server: Server, router: Router, phase: watch::Receiver<Phase>, until: Phase) {
    let mut closing = phase.clone();
    let mut aborting = phase;
    let closing = async move {
        // The sender lives as long as the application.
        drop(closing.wait_for(|phase| *phase >= until).await);
    };
    let deadline = async move {
        drop(aborting.wait_for(|phase| *phase >= Phase::Aborting).await);
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = server.serve(router, closing) => {}
        () = deadline => {}
    }
}

fn library_search(settings: &EngineSettings) -> Search {
    Search {
        explicit: settings.ort_dylib_path.clone(),
        executable: std::env::current_exe().ok(),
        working_folder: std::env::current_dir().ok(),
        library_path: EngineSettings::library_path(),
    }
}

fn start_runtime(settings: &EngineSettings) -> anyhow::Result<Runtime> {
    let search = library_search(settings);
    let options = RuntimeOptions { threads: settings.thread_count(), spinning: settings.spinning };
    let runtime = Runtime::start(&search, &options)?;
    tracing::info!(
        library = %runtime.library().display(),
        build = runtime.build_info(),
        threads = options.threads,
        "ONNX Runtime loaded"
    );
    Ok(runtime)
}

/// What a document of a model may leave open.
fn defaults(settings: &Settings) -> Defaults {
    let engine = &settings.engine;
    let rows = engine.max_batch_size.get();
    Defaults {
        load: LoadLimits {
            context_tokens: engine.context_length.map(std::num::NonZeroUsize::get),
            rows,
            huge_pages: engine.huge_pages,
            chunk_tokens: engine.prefill_chunk_tokens.get(),
            queue: engine.queue_limit,
            draft_tokens: engine.speculative_tokens.into(),
            memory: MemoryLimits {
                process_bytes: engine.memory_limit.or_else(memory::limit_bytes),
                cache_bytes: engine.cache_memory,
                prefix_bytes: engine.prefix_memory,
            },
        },
        live: LiveLimits {
            concurrent: rows,
            queue: engine.queue_limit,
            output_tokens: None,
            request_timeout: settings.listen.request_timeout,
            unload_after_idle: None,
        },
        model_root: settings.model.model_root.clone(),
        endpoints_delay: settings.cluster.endpoints_delay,
    }
}

/// What a future brings, if there is one.
async fn optional<F: Future>(future: Option<F>) -> Option<F::Output> {
    Some(future?.await)
}

/// The model of the environment, if models are not listed elsewhere.
fn environment_target(settings: &Settings, defaults: &Defaults) -> anyhow::Result<Option<Target>> {
    if settings.model.models_file.is_some() || settings.cluster.is_used() {
        return Ok(None);
    }
    default_target(settings, defaults).map(Some)
}

fn default_target(settings: &Settings, defaults: &Defaults) -> anyhow::Result<Target> {
    let model = &settings.model;
    let from = (model.source()?, model.tokenizer()?);
    Ok(Target::of_environment(model.default_model_name.clone(), from, default_templates(model)?, defaults))
}

/// The templates that the settings give to the model of the environment, if they compile.
fn default_templates(model: &ModelSettings) -> anyhow::Result<Templates> {
    let sources = TemplateSources {
        chat: model.default_chat_template.as_deref(),
        prompt: model.default_prompt_template.as_deref(),
        prompts: model.default_prompt_templates.as_ref().map(|list| list.0.as_slice()).unwrap_or_default(),
    };
    Templates::compile(sources).map_err(|InvalidTemplate { field, message }| {
        let variable = match field {
            TemplateField::Chat => "INFERENCE_DEFAULT_CHAT_TEMPLATE",
            TemplateField::Prompt => "INFERENCE_DEFAULT_PROMPT_TEMPLATE",
            TemplateField::Prompts => "INFERENCE_DEFAULT_PROMPT_TEMPLATES",
        };
        anyhow::anyhow!("{variable} does not hold: {message}")
    })
}

fn fetch_settings(sources: &SourceSettings, target: Option<&Target>) -> anyhow::Result<FetchSettings> {
    let hub_endpoint = sources.hub_endpoint()?;
    // Whoever sets the environment owns the process: what is named there is not guarded against.
    let named = target.map(|target| [Some(&target.source), target.tokenizer.as_ref()]).unwrap_or_default();
    let urls = named.into_iter().flatten().filter_map(Source::url).chain([&hub_endpoint]);
    let trusted_hosts = urls.filter_map(HttpUrl::host).map(str::to_owned).collect();
    Ok(FetchSettings {
        guard: Guard::new(GuardRules {
            allowed_hosts: sources.allowed_hosts.clone(),
            insecure_hosts: sources.insecure_hosts.clone(),
            private_networks: sources.allowed_private_networks.clone(),
            trusted_hosts,
        }),
        ca_bundle: ca_bundle(sources)?,
        hub_endpoint,
        hub_token: sources.hub_token().map(HubToken::parse).transpose()?,
        hub_cache: sources.hub_cache(),
        download_cache: sources.cache_folder(),
        connect_timeout: CONNECT_TIMEOUT,
        stall_timeout: sources.stall_timeout,
        maximum_file_bytes: sources.max_download_bytes,
    })
}

fn ca_bundle(sources: &SourceSettings) -> anyhow::Result<CaBundle> {
    let Some(file) = &sources.ca_bundle else { return Ok(CaBundle::default()) };
    CaBundle::read(file).context("INFERENCE_CA_BUNDLE is not usable")
}
