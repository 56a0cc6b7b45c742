//! Settings: flags, environment, file, defaults, in this order, into one checked struct.
//!
//! The only file that reads the environment. Each field says its flag and variable (clap derives both), its unit and
//! its effect; `inference-gateway config` prints what is in force and where it came from.

mod access;
mod cluster;
mod connections;
mod reference;
mod sources;
mod templates;
mod traces;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

pub use self::access::{AccessSettings, AuthMode, MetricsAuth};
pub use self::cluster::{ClusterSettings, ControllerSettings};
pub use self::connections::ConnectionSettings;
pub use self::reference::reference;
pub use self::sources::SourceSettings;
pub use self::templates::NamedTemplates;
pub use self::traces::{TraceSenderSettings, TraceSettings};
use crate::model::spec::{Bytes, Source, SourceError};
use crate::model::{HugePages, ModelName};
use crate::telemetry::LogFormat;

/// GPT-2 on the Hugging Face hub, for a gateway that was told nothing.
pub const DEFAULT_MODEL_PATH: &str =
    "https://huggingface.co/openai-community/gpt2/resolve/main/onnx/decoder_model_merged.onnx";
/// Tokenizer of the default model.
pub const DEFAULT_TOKENIZER: &str = "openai-community/gpt2";

/// The logits of all drafted tokens are kept at once, a vocabulary each.
const MOST_SPECULATIVE_TOKENS: i64 = 64;

/// Everything that can be set.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// YAML file with settings, named as the flags are: `queue-limit: 128`.
    #[arg(long, env = "INFERENCE_CONFIG_FILE", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Addresses and limits of the listeners.
    #[command(flatten)]
    pub listen: ListenSettings,
    /// What connections of the API may take.
    #[command(flatten)]
    pub connections: ConnectionSettings,
    /// Who may use the API.
    #[command(flatten)]
    pub access: AccessSettings,
    /// The model that is served.
    #[command(flatten)]
    pub model: ModelSettings,
    /// Models from the cluster.
    #[command(flatten)]
    pub cluster: ClusterSettings,
    /// How the engine runs.
    #[command(flatten)]
    pub engine: EngineSettings,
    /// Where models come from and are kept.
    #[command(flatten)]
    pub sources: SourceSettings,
    /// How the process ends.
    #[command(flatten)]
    pub shutdown: ShutdownSettings,
    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,
    /// Traces.
    #[command(flatten)]
    pub traces: TraceSettings,
}

/// Addresses and limits of the listeners.
#[derive(Debug, Clone, Args)]
pub struct ListenSettings {
    /// Address of the API, with probes and metrics.
    #[arg(long, env = "INFERENCE_LISTEN_ADDRESS", default_value = "0.0.0.0:3000", value_name = "ADDRESS")]
    pub listen_address: SocketAddr,
    /// Address for probes and metrics alone, so that load on the API cannot fail them.
    #[arg(long, env = "INFERENCE_OPS_ADDRESS", default_value = "0.0.0.0:3001", value_name = "ADDRESS")]
    pub ops_address: SocketAddr,
    /// Address for those who run the gateway: state of the models, reload, retry, log filter. There is no password.
    #[arg(long, env = "INFERENCE_ADMIN_ADDRESS", default_value = "127.0.0.1:3002", value_name = "ADDRESS")]
    pub admin_address: SocketAddr,
    /// Time after which a generation fails if it has not ended, the wait in the queue included.
    #[arg(long, env = "INFERENCE_REQUEST_TIMEOUT", default_value = "10m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub request_timeout: Duration,
    /// Whether the API address serves /metrics too.
    #[arg(long, env = "INFERENCE_METRICS_ON_API", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub metrics_on_api: bool,
    /// Whether the API address serves a page at / on which a person can try the models.
    #[arg(long, env = "INFERENCE_PLAYGROUND", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub playground: bool,
    /// Whether /metrics also has the families that endpoint pickers of the Gateway API Inference Extension look for, under the
    /// names that they know (`vllm:num_requests_waiting` and others).
    #[arg(long, env = "INFERENCE_PICKER_METRICS", default_value = "false", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub picker_metrics: bool,
    /// Largest request body, in bytes.
    #[arg(long, env = "INFERENCE_MAX_BODY_BYTES", default_value = "2097152", value_name = "BYTES")]
    pub max_body_bytes: usize,
}

/// The model that is served.
#[derive(Debug, Clone, Args)]
pub struct ModelSettings {
    /// Name under which the model is served.
    #[arg(long, env = "INFERENCE_DEFAULT_MODEL_NAME", default_value = "gpt2", value_name = "NAME")]
    pub default_model_name: ModelName,
    /// The model: a folder, an .onnx file, a URL, or a hub repository as `hf://owner/repo`.
    #[arg(long, env = "INFERENCE_DEFAULT_MODEL_PATH", default_value = DEFAULT_MODEL_PATH, value_name = "SOURCE")]
    pub default_model_path: String,
    /// The tokenizer: a hub id, a folder or a tokenizer.json. Default: the model's own folder; for the built-in model
    /// openai-community/gpt2.
    #[arg(long, env = "INFERENCE_DEFAULT_TOKENIZER", value_name = "SOURCE")]
    pub default_tokenizer: Option<String>,
    /// The chat template, in place of the model's own, at most 16 KiB.
    #[arg(long, env = "INFERENCE_DEFAULT_CHAT_TEMPLATE", value_name = "TEMPLATE")]
    pub default_chat_template: Option<String>,
    /// Makes the prompt of every text that comes without the name of a template, which is its variable `text`; at most
    /// 16 KiB.
    #[arg(long, env = "INFERENCE_DEFAULT_PROMPT_TEMPLATE", value_name = "TEMPLATE")]
    pub default_prompt_template: Option<String>,
    /// Templates that requests name: a list in YAML or JSON, `[{"name": …, "template": …}]`, at most 16.
    #[arg(long, env = "INFERENCE_DEFAULT_PROMPT_TEMPLATES", value_name = "LIST")]
    pub default_prompt_templates: Option<NamedTemplates>,
    /// A file that lists the models to serve, watched for changes; in place of the default model.
    #[arg(long, env = "INFERENCE_MODELS_FILE", value_name = "FILE")]
    pub models_file: Option<PathBuf>,
    /// The folder below which the paths of such a list lie.
    #[arg(long, env = "INFERENCE_MODEL_ROOT", default_value = "/models", value_name = "FOLDER")]
    pub model_root: PathBuf,
    /// The program that tries models: this one, but for tests, whose own executable cannot.
    #[arg(long, env = "INFERENCE_VERIFY_EXECUTABLE", value_name = "FILE", hide = true)]
    pub verify_executable: Option<PathBuf>,
}

/// How the engine runs.
#[derive(Debug, Clone, Args)]
pub struct EngineSettings {
    /// Threads that compute. Default: what the cgroup quota and the CPU affinity of the process allow.
    #[arg(long, env = "INFERENCE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Whether compute threads spin for a moment before they sleep: faster between steps, burns CPU.
    #[arg(long, env = "INFERENCE_SPINNING", default_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub spinning: bool,
    /// Tokens that a sequence may have, prompt and output together. Default: what the model's files say.
    #[arg(long, env = "INFERENCE_CONTEXT_LENGTH", value_name = "TOKENS")]
    pub context_length: Option<NonZeroUsize>,
    /// Sequences that are generated at once.
    #[arg(long, env = "INFERENCE_MAX_BATCH_SIZE", default_value = "16", value_name = "N")]
    pub max_batch_size: NonZeroUsize,
    /// Requests that may wait for their turn; one more is refused with status 429.
    #[arg(long, env = "INFERENCE_QUEUE_LIMIT", default_value = "256", value_name = "N")]
    pub queue_limit: usize,
    /// Tokens of a prompt that are computed between two steps of the streams of others.
    #[arg(long, env = "INFERENCE_PREFILL_CHUNK_TOKENS", default_value = "64", value_name = "TOKENS")]
    pub prefill_chunk_tokens: NonZeroUsize,
    /// Tokens that are drafted at most where a text that is generated alone repeats itself or its prompt, and verified in
    /// one run; 0 drafts none. For graphs that write their cache in place; may change the texts of quantised ones.
    #[arg(long, env = "INFERENCE_SPECULATIVE_TOKENS", default_value = "0", value_name = "TOKENS", value_parser = clap::value_parser!(u8).range(..=MOST_SPECULATIVE_TOKENS))]
    pub speculative_tokens: u8,
    /// Bytes that the process may use, as 2Gi or 500M. Default: the limit of its cgroup, or the machine's memory.
    #[arg(long, env = "INFERENCE_MEMORY_LIMIT", value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: Option<u64>,
    /// Bytes for the caches of running sequences. Default: half of what is free when the model is loaded.
    #[arg(long, env = "INFERENCE_CACHE_MEMORY", value_name = "BYTES", value_parser = parse_bytes)]
    pub cache_memory: Option<u64>,
    /// Bytes for kept beginnings of prompts; 0 keeps none. Default: a quarter of what is free, at most 1Gi.
    #[arg(long, env = "INFERENCE_PREFIX_MEMORY", value_name = "BYTES", value_parser = parse_bytes)]
    pub prefix_memory: Option<u64>,
    /// Whether weights and caches lie in huge pages (auto, always, never). Weights cost nothing there, and a text generated alone
    /// comes a tenth faster. Caches: up to a few percent faster in batches, but each row costs the memory of its whole context as
    /// soon as it is used; with `auto` only where all rows at their longest take at most an eighth of the process's memory.
    #[arg(long, env = "INFERENCE_HUGE_PAGES", default_value = "auto", value_name = "WHEN")]
    pub huge_pages: HugePages,
    /// An engine step that takes longer makes its model unready, and twice as long fails /livez.
    #[arg(long, env = "INFERENCE_STEP_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub step_timeout: Duration,
    /// The ONNX Runtime library. Default: beside the executable, the project's prepared folder, the system.
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub ort_dylib_path: Option<PathBuf>,
}

/// How the process ends.
#[derive(Debug, Clone, Args)]
pub struct ShutdownSettings {
    /// Time after the signal in which new requests are still accepted, while /readyz says 503.
    #[arg(long, env = "INFERENCE_SHUTDOWN_DELAY", default_value = "0s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub shutdown_delay: Duration,
    /// Time for requests in flight to finish, after which they end with an error.
    #[arg(long, env = "INFERENCE_DRAIN_TIMEOUT", default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
}

/// What is logged.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// Which log lines are written, by target and level.
    #[arg(
        long,
        env = "RUST_LOG",
        default_value = "info,ort=warn,tower_http=info,kube_client::client=off",
        value_name = "FILTER"
    )]
    pub log_filter: String,
    /// How log lines look.
    #[arg(long, env = "INFERENCE_LOG_FORMAT", default_value = "auto", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// A value that is not printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self(value.to_owned()))
    }
}

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag or variable is not understood.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("failed to read the settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The file is not a mapping of settings.
    #[error("the settings file {path} is not understood: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A list of names and values is none.
    #[error("{variable} has a part that is no `name=value`: {part}")]
    Pairs {
        /// The variable.
        variable: &'static str,
        /// Which part; not what it says.
        part: String,
    },
    /// Certificates cannot be read.
    #[error("failed to read the certificates {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Settings do not go together.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A model source is not understood.
    #[error("failed to understand {variable}: {cause}")]
    Source {
        /// The variable that holds it.
        variable: &'static str,
        /// Why.
        #[source]
        cause: SourceError,
    },
}

/// A setting as `inference-gateway config` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The flag, without dashes.
    pub name: String,
    /// The variable.
    pub variable: String,
    /// The value in force; secrets are not shown.
    pub value: String,
    /// `flag`, `environment`, `file` or `default`.
    pub origin: &'static str,
}

/// Settings, with where each came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The checked struct.
    pub settings: Settings,
    /// Every setting, in the order of the help text.
    pub shown: Vec<Shown>,
}

/// Adds the settings file, if one is named, as defaults to `command`; `matches` are of a first parse.
///
/// # Errors
/// The file cannot be read, is no mapping, or names a setting that does not exist.
pub fn with_file(command: Command, matches: &ArgMatches) -> Result<Command, ConfigError> {
    let Some(path) = matches.get_one::<PathBuf>("config_file") else {
        return Ok(command);
    };
    let mut command = command;
    for (name, value) in read_file(path)? {
        let known = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(name.as_str()) && name != "config-file")
            // Other flags of a subcommand are no settings.
            .filter(|argument| argument.get_env().is_some())
            .map(|argument| argument.get_id().clone());
        let Some(id) = known else {
            return Err(ConfigError::File {
                path: path.clone(),
                message: format!("there is no setting `{name}`; `inference-gateway config` lists them"),
            });
        };
        command = command.mut_arg(id, |argument| argument.default_value(value));
    }
    Ok(command)
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    let invalid = |message: String| ConfigError::File { path: path.to_owned(), message };
    // A mapping of its own kind: a map of texts would take the second of two values of one setting, and say nothing.
    let values: Option<serde_yaml::Mapping> =
        serde_yaml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let scalar = |(name, value): (serde_yaml::Value, serde_yaml::Value)| {
        let serde_yaml::Value::String(name) = name else {
            return Err(invalid(
                "the name of a setting is a text, and each has a value of its own".to_owned(),
            ));
        };
        match value {
            serde_yaml::Value::String(text) => Ok((name, text)),
            serde_yaml::Value::Number(number) => Ok((name, number.to_string())),
            serde_yaml::Value::Bool(flag) => Ok((name, flag.to_string())),
            _ => Err(invalid(format!("the value of `{name}` is not a text, number or truth value"))),
        }
    };
    values.unwrap_or_default().into_iter().map(scalar).collect()
}

impl Resolved {
    /// The settings of a parse of `command`.
    ///
    /// # Errors
    /// A value is not understood.
    pub fn from_matches(command: &Command, matches: &ArgMatches) -> Result<Self, ConfigError> {
        let settings = Settings::from_arg_matches(matches)?;
        let from_file = settings.config_file.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let shown = command
            .get_arguments()
            .filter_map(|argument| {
                let name = argument.get_long()?;
                let variable = argument.get_env()?.to_string_lossy().into_owned();
                let id = argument.get_id().as_str();
                let given = matches
                    .get_raw(id)
                    .map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
                let value = match given {
                    Some(_) if argument.is_hide_env_values_set() => "(set, not shown)".to_owned(),
                    Some(value) => value,
                    None => settings.computed_default(id),
                };
                let origin = match matches.value_source(id) {
                    Some(ValueSource::CommandLine) => "flag",
                    Some(ValueSource::EnvVariable) => "environment",
                    _ if from_file.contains_key(name) => "file",
                    _ => "default",
                };
                Some(Shown { name: name.to_owned(), variable, value, origin })
            })
            .collect();
        Ok(Self { settings, shown })
    }
}

impl Settings {
    /// What a setting without a value amounts to.
    fn computed_default(&self, id: &str) -> String {
        match id {
            "threads" => self.engine.thread_count().to_string(),
            "memory_limit" => "(the limit of the cgroup, or the machine's memory)".to_owned(),
            "cache_memory" => "(half of what is free when the model is loaded)".to_owned(),
            "prefix_memory" => "(a quarter of what is free, at most 1Gi)".to_owned(),
            "context_length" => "(what the model's files say)".to_owned(),
            "default_tokenizer" if self.model.is_built_in() => DEFAULT_TOKENIZER.to_owned(),
            "default_tokenizer" => "(the model's own folder)".to_owned(),
            "cache_limit" => "(none)".to_owned(),
            "cache_dir" => self.sources.cache_folder().display().to_string(),
            "state_dir" => self.sources.state_folder().display().to_string(),
            "hf_home" => self.sources.hub_home().display().to_string(),
            "ort_dylib_path" => "(beside the executable, prepared/lib, the system)".to_owned(),
            _ => "(not set)".to_owned(),
        }
    }
}

impl EngineSettings {
    /// Threads that compute: as set, or what cgroup quota and affinity allow.
    pub fn thread_count(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// The folders of `LD_LIBRARY_PATH`.
    pub fn library_path() -> Vec<PathBuf> {
        variable("LD_LIBRARY_PATH").map(|value| std::env::split_paths(&value).collect()).unwrap_or_default()
    }
}

impl ModelSettings {
    fn is_built_in(&self) -> bool {
        self.default_model_path == DEFAULT_MODEL_PATH
    }

    /// Where the model comes from.
    ///
    /// # Errors
    /// The text is no source.
    pub fn source(&self) -> Result<Source, ConfigError> {
        Source::parse(&self.default_model_path)
            .map_err(|cause| ConfigError::Source { variable: "INFERENCE_DEFAULT_MODEL_PATH", cause })
    }

    /// Where the tokenizer comes from, when it is not in the model's own folder.
    ///
    /// # Errors
    /// The text is no source.
    pub fn tokenizer(&self) -> Result<Option<Source>, ConfigError> {
        let built_in = self.is_built_in().then(|| DEFAULT_TOKENIZER.to_owned());
        let text = self.default_tokenizer.clone().or(built_in);
        text.map(|text| Source::parse_tokenizer(&text))
            .transpose()
            .map_err(|cause| ConfigError::Source { variable: "INFERENCE_DEFAULT_TOKENIZER", cause })
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    text.parse().map(|Bytes(bytes)| bytes)
}

#[expect(clippy::disallowed_methods, reason = "this is the file that reads the environment")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
