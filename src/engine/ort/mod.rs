//! ONNX Runtime: the only folder that names the crate `ort`.
//!
//! ```text
//! library::find ─▶ Runtime::start (once a process: one environment, one thread pool)
//! graph file ─▶ graph_file::scan ─▶ contract::read ─▶ in_place   attention that writes its cache in place (GQA)
//!                                                  ├▶ concat     attention that returns a longer cache each run
//!                                                  └▶ recompute  no cache: every token anew
//! two graph files, for prompts and for what follows ─▶ pair ─▶ concat, with one of them or both
//! ```

mod concat;
mod contract;
mod graph_file;
mod groups;
mod in_place;
pub mod inspect;
mod joint_cache;
pub mod library;
mod names;
mod numbers;
mod ort_file;
mod pair;
mod protobuf;
mod recompute;
mod run;
mod select_logits;
mod slab;
mod small_inputs;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::backend::Backend;
use super::turns::Turns;
use concat::Concat;
use contract::{Cache, Contract, Layout, TokensARun};
use graph_file::Operators;
pub use names::Names;

/// Settings of the one thread pool that all models of the process share.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// Whether idle threads of the pool spin for a moment before they sleep: faster between steps, burns CPU.
    pub spinning: bool,
}

/// What the model folder says about the graph, as far as the graph does not say it itself.
#[derive(Debug, Clone, Default)]
pub struct GraphHints {
    /// Size of an attention head, from the model's configuration.
    pub head_size: Option<usize>,
    /// Key and value heads, from the model's configuration.
    pub kv_heads: Option<usize>,
    /// Tokens that the tokenizer knows.
    pub tokens: Option<usize>,
    /// What inputs and outputs are called.
    pub names: Names,
}

/// The files of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFiles {
    /// The graph; of a pair the one for prompts, which returns a cache and takes none.
    pub graph: PathBuf,
    /// The graph of a pair that takes the cache.
    pub with_past: Option<PathBuf>,
}

/// Size of the memory to reserve for sequences.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Sequences that can be live at once.
    pub rows: usize,
    /// Tokens that each can hold.
    pub context_tokens: usize,
    /// Caches of all rows up to this size lie in huge pages: up to a few percent faster in batches; a row costs the memory
    /// of its whole context at once.
    pub huge_pages_up_to_bytes: u64,
}

/// The files beside a graph that hold its weights, as the ONNX file itself names them; none when it cannot be read.
pub fn named_data_files(graph: &Path) -> Vec<String> {
    graph_file::scan(graph).map(|graph| graph.data_files.into_iter().collect()).unwrap_or_default()
}

/// Why a model or the library could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OrtError {
    /// The shared library was not found.
    #[error("{0}")]
    LibraryNotFound(String),
    /// The shared library could not be used.
    #[error("failed to load ONNX Runtime from {path}: {message}")]
    Library {
        /// The file that was tried.
        path: PathBuf,
        /// What the loader said.
        message: String,
    },
    /// ONNX Runtime refused something.
    #[error("failed to {attempt}: {message}")]
    Runtime {
        /// What was attempted.
        attempt: String,
        /// What ONNX Runtime said.
        message: String,
    },
    /// The file is not an ONNX model.
    #[error("{path} is not a usable ONNX file: {message}")]
    InvalidGraph {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The graph lacks, or asks for, something that cannot be served.
    #[error("the graph cannot be served: {0}")]
    Unsupported(String),
    /// A graph without a cache, for texts so long that a token would take senselessly long.
    #[error(
        "the graph has no cache, so every token computes the whole text anew, and with {parameters} parameters, a context of \
         {context_tokens} tokens and {rows} rows that takes senselessly long: set INFERENCE_CONTEXT_LENGTH to at most \
         {most_context_tokens}{}, or export the model with a cache (Optimum's task `text-generation-with-past`)",
        if *rows > 8 { " (more with a lower INFERENCE_MAX_BATCH_SIZE)" } else { "" }
    )]
    TooExpensive {
        /// Numbers in the graph's weights.
        parameters: u64,
        /// Tokens of a row.
        context_tokens: usize,
        /// Sequences that can be live at once.
        rows: usize,
        /// Tokens of a row that would be served with so many rows.
        most_context_tokens: u64,
    },
}

/// The loaded library with its environment and thread pool; one for the process, never dropped.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    library: Arc<PathBuf>,
    turns: Arc<Turns>,
}

/// A loaded graph, before it is known how it is run.
struct Opened {
    session: Session,
    contract: Contract,
    operators: Operators,
}

/// ONNX Runtime allows one environment for each process and is not made to be unloaded.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

impl Runtime {
    /// Loads the library and makes the thread pool; later calls return the first runtime, whatever they ask for.
    ///
    /// # Errors
    /// The library is missing, too old or broken; the message says what to do.
    pub fn start(library: &library::Search, options: &RuntimeOptions) -> Result<Self, OrtError> {
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime.clone());
        }
        let path = library::find(library)?;
        let builder = ort::init_from(&path)
            .map_err(|error| OrtError::Library { path: path.clone(), message: error.to_string() })?;
        let environment = create_environment(builder, options)
            .map_err(|error| OrtError::Library { path: path.clone(), message: error.to_string() })?;
        let runtime = Self { environment, library: Arc::new(path), turns: Arc::default() };
        Ok(RUNTIME.get_or_init(|| runtime).clone())
    }

    /// The library file in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Turns on the thread pool, for the engines that share it.
    pub fn turns(&self) -> Arc<Turns> {
        Arc::clone(&self.turns)
    }

    /// What the library says it is.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Loads a graph and reserves the memory of its rows.
    ///
    /// # Errors
    /// The file is not a graph that can be served; the message names what is missing.
    pub fn load(
        &self,
        files: &GraphFiles,
        hints: &GraphHints,
        rows: Rows,
    ) -> Result<Box<dyn Backend>, OrtError> {
        let GraphFiles { graph: prompts, with_past } = files;
        let opened = self.open(with_past.as_ref().unwrap_or(prompts), hints)?;
        let Opened { session, contract: Contract { graph, cache }, operators } = opened;
        Ok(match (cache, with_past) {
            (Cache::InPlace(layout), _) => Box::new(in_place::InPlace::new(session, &graph, layout, rows)?),
            (Cache::Concat { layout, left_padding }, with_past) => {
                let (ids, number) = (graph.input_ids, graph.logits);
                let mut backend = Concat::new(session, graph, (layout, left_padding), rows);
                let is_tried = with_past.is_some() || ids.tokens == TokensARun::Doubtful;
                let feeds_prompts =
                    ids.tokens != TokensARun::One && (!is_tried || pair::feeds_prompts(&mut backend, number));
                if !feeds_prompts && with_past.is_none() {
                    return Err(OrtError::Unsupported(
                        "it is made for one token a run, and the graph for prompts (`decoder_model.onnx`) does not \
                         lie beside it"
                            .to_owned(),
                    ));
                }
                if !feeds_prompts {
                    let prompts = self.open_prompts(prompts, hints, layout)?;
                    backend = backend.with_prompts(prompts.session, prompts.contract.graph);
                }
                Box::new(backend)
            }
            (Cache::None { .. }, Some(with_past)) => {
                return Err(OrtError::Unsupported(format!(
                    "{} takes no `{}`",
                    with_past.display(),
                    graph.names.past(0)[0]
                )));
            }
            (Cache::None { returned_layers }, None) => {
                if returned_layers > 0 {
                    tracing::warn!(
                        graph = %prompts.display(),
                        "the graph returns a cache and takes none: every token computes the whole text anew; put \
                         decoder_with_past_model.onnx of the same export beside decoder_model.onnx"
                    );
                }
                Box::new(recompute::Recompute::new(session, graph, operators.parameters(), rows)?)
            }
        })
    }

    /// Loads a graph and reads what it takes and gives.
    fn open(&self, graph: &Path, hints: &GraphHints) -> Result<Opened, OrtError> {
        let operators = graph_file::scan(graph)?;
        let session = match select_logits::rewrite(graph, &operators, &hints.names.logits)? {
            Some(rewritten) => self.session_from_memory(graph, &rewritten)?,
            None => self.session(graph)?,
        };
        let contract = Contract::read(&session, &operators, hints)?;
        Ok(Opened { session, contract, operators })
    }

    /// Loads the graph of a pair that prompts are fed to.
    fn open_prompts(&self, graph: &Path, hints: &GraphHints, layout: Layout) -> Result<Opened, OrtError> {
        let opened = self.open(graph, hints)?;
        match opened.contract.cache {
            Cache::None { returned_layers } if returned_layers == layout.layers => Ok(opened),
            Cache::None { returned_layers } => Err(OrtError::Unsupported(format!(
                "{} returns the cache of {returned_layers} layers, the graph beside it takes that of {}",
                graph.display(),
                layout.layers
            ))),
            _ => Err(OrtError::Unsupported(format!("{} takes a cache itself", graph.display()))),
        }
    }

    /// A session of a graph that was changed in memory; its weights stay in the files beside the original.
    fn session_from_memory(&self, graph: &Path, model: &[u8]) -> Result<Session, OrtError> {
        let fail =
            |message: String| OrtError::Runtime { attempt: format!("load {}", graph.display()), message };
        let folder = graph.parent().unwrap_or(Path::new(".")).display().to_string();
        self.session_builder()
            .map_err(|error| fail(error.to_string()))?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)
            .map_err(|error| fail(error.to_string()))?
            .commit_from_memory(model)
            .map_err(|error| fail(error.to_string()))
    }

    fn session(&self, graph: &Path) -> Result<Session, OrtError> {
        let fail = |error: ort::Error| OrtError::Runtime {
            attempt: format!("load {}", graph.display()),
            message: error.to_string(),
        };
        self.session_builder().map_err(fail)?.commit_from_file(graph).map_err(fail)
    }

    fn session_builder(&self) -> ort::Result<SessionBuilder> {
        let builder = Session::builder(&self.environment)?;
        if has_exact_integer_products() {
            return Ok(builder);
        }
        // Makes ONNX Runtime take the slower product of 8-bit integers, whose sums do not overflow.
        Ok(builder.with_config_entry("session.x64quantprecision", "1")?)
    }
}

/// Whether the fast product of unsigned and signed 8-bit integers is exact: on x86 only with VNNI, which sums in 32 bits;
/// before it pairs were summed in 16 bits, which overflow.
fn has_exact_integer_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    true
}

fn create_environment(
    builder: ort::environment::EnvironmentBuilder,
    options: &RuntimeOptions,
) -> ort::Result<Environment> {
    let pool = GlobalThreadPoolOptions::default()
        .with_intra_threads(options.threads)?
        .with_inter_threads(1)?
        .with_spin_control(options.spinning)?;
    let environment = builder
        .with_name("inference-gateway")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .with_logger(Arc::new(log))
        .build()?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

/// ONNX Runtime's own messages, under the target `ort`, so that `RUST_LOG` governs them.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose => tracing::trace!(target: "ort", category, location, "{message}"),
        LogLevel::Info => tracing::debug!(target: "ort", category, location, "{message}"),
        LogLevel::Warning => tracing::warn!(target: "ort", category, location, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "ort", category, location, "{message}"),
    }
}
