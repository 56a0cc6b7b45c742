//! A model to serve, as the model flow sees it: parsed once from a document, whole and valid afterwards.
//!
//! ```text
//! environment ─┐
//! models file ─┼─▶ ModelDocument ─▶ Target ─▶ Desired ─▶ fleet.rs
//! Model object ┘     (schema)        (checked, with the gateway's settings filled in)
//! ```

mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::hexadecimal::hexadecimal;
use super::manifest::Digest;
use super::spec::{Bytes, HttpUrl, ModelDocument, ModelSpec, RolloutSpec, Source, SourceSpec, VerifySpec};
use super::templates::Templates;
use super::{LoadLimits, ModelName};

/// Names under which one model can be asked for besides its own.
const MOST_ALIASES: usize = 8;
const LONGEST_SECONDS: u32 = 24 * 60 * 60;

/// What a document leaves open.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// How models are loaded.
    pub load: LoadLimits,
    /// What they may take.
    pub live: LiveLimits,
    /// The folder below which `path` sources lie.
    pub model_root: PathBuf,
    /// Time that endpoints take to notice that this process is not ready.
    pub endpoints_delay: Duration,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Defaults {
    /// Those of a small gateway, for what needs some.
    pub(crate) fn small() -> Self {
        use super::{HugePages, MemoryLimits};
        Self {
            load: LoadLimits {
                context_tokens: None,
                rows: 4,
                huge_pages: HugePages::Never,
                chunk_tokens: 64,
                queue: 10,
                draft_tokens: 0,
                memory: MemoryLimits::default(),
            },
            live: LiveLimits {
                concurrent: 4,
                queue: 10,
                output_tokens: None,
                request_timeout: Duration::from_mins(1),
                unload_after_idle: None,
            },
            model_root: PathBuf::from("/models"),
            endpoints_delay: Duration::from_secs(5),
        }
    }
}

/// Limits that change while a model serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveLimits {
    /// Sequences generated at once.
    pub concurrent: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Tokens that a request may ask for.
    pub output_tokens: Option<usize>,
    /// Time after which a request fails.
    pub request_timeout: Duration,
    /// Time without a request after which memory is given back.
    pub unload_after_idle: Option<Duration>,
}

/// One model to serve.
#[derive(Debug, Clone)]
pub struct Target {
    /// What the model is called among the models of this gateway.
    pub key: ModelName,
    /// What requests call it: first the name that answers carry.
    pub names: Vec<ModelName>,
    /// Hash of what makes another model: 10 hexadecimal digits.
    pub revision: String,
    /// Where its files come from.
    pub source: Source,
    /// Where its tokenizer comes from, when that is not among them.
    pub tokenizer: Option<Source>,
    /// Of its manifest.
    pub digest: Option<Digest>,
    /// Whether files are used where they lie.
    pub in_place: bool,
    /// How it is loaded.
    pub load: LoadLimits,
    /// Memory that loading takes, when the document says it.
    pub memory_bytes: Option<u64>,
    /// Templates that its settings give.
    pub templates: Templates,
    /// What it may take.
    pub live: LiveLimits,
    /// How it is tried.
    pub verify: VerifySpec,
    /// How it takes the place of what serves.
    pub rollout: RolloutSpec,
    /// Nothing is begun.
    pub paused: bool,
    /// What is to become of it.
    pub purpose: Purpose,
    /// Whether the fleet has found it good: what this process served before is no better.
    pub is_stable: bool,
    /// For how long the process is not ready before what serves makes room for it; `None` where nobody else would answer.
    pub leave: Option<Duration>,
    /// A revision that is brought here and tried while this one serves.
    pub ahead: Option<Arc<Target>>,
    /// The document, to be read again after a restart; `None` for the model of the environment.
    pub document: Option<ModelDocument>,
}

/// What is to become of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It comes into service, and a process that has just begun is ready only with it.
    Needed,
    /// It comes into service.
    Serve,
    /// Its files are brought here and it is tried, no more.
    Prepare,
}

/// All models to serve, by key.
pub type Desired = BTreeMap<ModelName, Arc<Target>>;

/// Why a document does not hold: which field of which model, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{model}: {field}: {message}")]
pub struct SpecError {
    /// Name of the model, or its place in the list.
    pub model: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A field and what is wrong with it.
type Wrong = (&'static str, String);

impl Target {
    /// What a document of the models file or of a ConfigMap means.
    ///
    /// # Errors
    /// The first field that does not hold.
    pub fn from_document(document: &ModelDocument, defaults: &Defaults) -> Result<Self, SpecError> {
        let ModelDocument { name, spec } = document;
        let wrong = |(field, message): Wrong| SpecError {
            model: name.escape_debug().to_string(),
            field: field.to_owned(),
            message,
        };
        let key: ModelName = name.parse().map_err(|error| wrong(("name", format!("{error}"))))?;
        refuse_what_the_controller_does(spec).map_err(wrong)?;
        let mut target = Self::from_spec(key, spec, defaults).map_err(wrong)?;
        target.document = Some(document.clone());
        Ok(target)
    }

    fn from_spec(key: ModelName, spec: &ModelSpec, defaults: &Defaults) -> Result<Self, Wrong> {
        let ModelSpec {
            gateway_ref: _,
            served_name,
            aliases,
            source,
            tokenizer,
            runtime,
            prompt_template: _,
            prompt_templates: _,
            limits,
            verify,
            rollout,
            paused,
        } = spec;
        verify.validate().map_err(|error| ("spec.verify", error.to_string()))?;
        check_rollout(rollout)?;
        let digest = source.digest.as_deref().map(str::parse).transpose();
        let digest = digest.map_err(|error| ("spec.source.digest", format!("{error}")))?;
        if source.url.is_some() && digest.is_none() {
            return Err((
                "spec.source.digest",
                "is required with url: `inference-gateway pack FOLDER` prints it".to_owned(),
            ));
        }
        if tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.digest.is_some() || tokenizer.in_place) {
            return Err((
                "spec.tokenizer",
                "digest and inPlace are for the source of the model only".to_owned(),
            ));
        }
        let load = limits::load_limits(runtime, &defaults.load)?;
        Ok(Self {
            names: names(&key, served_name.as_deref(), aliases)?,
            revision: revision_of(spec),
            source: parse_source(source, &defaults.model_root).map_err(|message| ("spec.source", message))?,
            tokenizer: tokenizer
                .as_ref()
                .map(|tokenizer| parse_source(tokenizer, &defaults.model_root))
                .transpose()
                .map_err(|message| ("spec.tokenizer", message))?,
            digest,
            in_place: source.in_place,
            memory_bytes: runtime.memory.map(|Bytes(bytes)| bytes),
            templates: Templates::of(spec)?,
            live: limits::live_limits(limits, &defaults.live, load.rows)?,
            load,
            verify: verify.clone(),
            rollout: rollout.clone(),
            paused: *paused,
            purpose: Purpose::Needed,
            is_stable: false,
            leave: None,
            ahead: None,
            document: None,
            key,
        })
    }

    /// The model that the environment names: its files are used where they lie, and it is tried in this process.
    pub fn of_environment(
        name: ModelName,
        (source, tokenizer): (Source, Option<Source>),
        templates: Templates,
        defaults: &Defaults,
    ) -> Self {
        let LoadLimits {
            context_tokens,
            rows,
            huge_pages: _,
            chunk_tokens,
            queue: _,
            draft_tokens,
            memory: _,
        } = &defaults.load;
        let mut what = serde_json::json!({
            "servedName": name.as_str(),
            "source": source.to_string(),
            "tokenizer": tokenizer.as_ref().map(ToString::to_string),
            "runtime": [context_tokens, &Some(*rows), &Some(*chunk_tokens), &Some(*draft_tokens)],
        });
        if let Some(template) = &templates.chat {
            what["chatTemplate"] = template.as_str().into();
        }
        Self {
            names: vec![name.clone()],
            key: name,
            revision: hash(what),
            source,
            tokenizer,
            digest: None,
            in_place: true,
            load: defaults.load,
            memory_bytes: None,
            templates,
            live: defaults.live,
            verify: VerifySpec { isolation: super::spec::Isolation::InProcess, ..VerifySpec::default() },
            rollout: RolloutSpec::default(),
            paused: false,
            purpose: Purpose::Needed,
            is_stable: false,
            leave: None,
            ahead: None,
            document: None,
        }
    }

    /// The revision that is to be brought here and tried, whatever serves.
    pub(super) fn to_prepare(self: &Arc<Self>) -> Option<&Arc<Self>> {
        match self.purpose {
            Purpose::Needed | Purpose::Serve => self.ahead.as_ref(),
            Purpose::Prepare => Some(self),
        }
    }

    /// The name that answers carry.
    pub fn served_name(&self) -> &ModelName {
        &self.names[0]
    }
}

/// Parses the documents of a list: each for itself, and no name twice.
///
/// # Errors
/// The first document that does not hold.
pub fn desired(documents: &[ModelDocument], defaults: &Defaults) -> Result<Desired, SpecError> {
    let (mut all, mut taken) = (Desired::new(), BTreeSet::new());
    for document in documents {
        let target = Target::from_document(document, defaults)?;
        let twice = |field: &str, name: &ModelName| SpecError {
            model: document.name.clone(),
            field: field.to_owned(),
            message: format!("`{name}` is the name of another model of this list"),
        };
        if all.contains_key(&target.key) {
            return Err(twice("name", &target.key));
        }
        if let Some(name) = target.names.iter().find(|name| !taken.insert((*name).clone())) {
            return Err(twice("spec.servedName or spec.aliases", name));
        }
        all.insert(target.key.clone(), Arc::new(target));
    }
    Ok(all)
}

/// The revision that a spec makes: the same hash for the same model, whatever defaults later versions add, because what is
/// left out is not hashed.
pub fn revision_of(spec: &ModelSpec) -> String {
    let what = serde_json::json!({
        "servedName": spec.served_name,
        "source": spec.source,
        "tokenizer": spec.tokenizer,
        "runtime": spec.runtime,
    });
    hash(what)
}

/// First 10 hexadecimal digits of the sha256 of canonical JSON: keys are sorted, nothing is spaced.
fn hash(mut what: serde_json::Value) -> String {
    what.sort_all_objects();
    hexadecimal(&Sha256::digest(what.to_string().as_bytes())[..5])
}

fn refuse_what_the_controller_does(spec: &ModelSpec) -> Result<(), Wrong> {
    let message = || "is for Model objects, which a controller rolls out; leave it out here".to_owned();
    let RolloutSpec { max_unavailable, min_ready_seconds, progress_deadline_seconds, on_failure, .. } =
        &spec.rollout;
    let given = [
        ("spec.gatewayRef", spec.gateway_ref.is_some()),
        ("spec.rollout.maxUnavailable", max_unavailable.is_some()),
        ("spec.rollout.minReadySeconds", min_ready_seconds.is_some()),
        ("spec.rollout.progressDeadlineSeconds", progress_deadline_seconds.is_some()),
        ("spec.rollout.onFailure", on_failure.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err((field, message())),
        None => Ok(()),
    }
}

fn names(key: &ModelName, served: Option<&str>, aliases: &[String]) -> Result<Vec<ModelName>, Wrong> {
    if aliases.len() > MOST_ALIASES {
        return Err((
            "spec.aliases",
            format!("has {} names, at most {MOST_ALIASES} are possible", aliases.len()),
        ));
    }
    let parse = |field: &'static str, name: &str| {
        ModelName::from_str(name).map_err(|error| (field, error.to_string()))
    };
    let first = served.map_or(Ok(key.clone()), |name| parse("spec.servedName", name))?;
    let mut names = vec![first];
    for alias in aliases {
        let alias = parse("spec.aliases", alias)?;
        if names.contains(&alias) {
            return Err(("spec.aliases", format!("`{alias}` is there twice")));
        }
        names.push(alias);
    }
    Ok(names)
}

fn parse_source(spec: &SourceSpec, model_root: &Path) -> Result<Source, String> {
    let SourceSpec { path, url, hf, oci, digest: _, in_place } = spec;
    if *in_place && path.is_none() {
        return Err("inPlace is for path sources only".to_owned());
    }
    let given: Vec<Result<Source, String>> = [
        path.as_deref().map(|path| below(model_root, path).map(Source::Path)),
        url.as_deref().map(|url| HttpUrl::parse(url).map(Source::Url).map_err(|error| error.to_string())),
        hf.as_ref().map(|hub| {
            if hub.repo.split('/').count() > 2 {
                return Err(format!(
                    "hf.repo {:?} is not owner/name; a folder in it is hf.subfolder",
                    hub.repo
                ));
            }
            let revision = hub.revision.as_ref().map(|name| format!("@{}", name.replace('/', "%2F")));
            let folder = hub.subfolder.as_ref().map(|folder| format!("/{folder}"));
            let text =
                format!("hf://{}{}{}", hub.repo, revision.unwrap_or_default(), folder.unwrap_or_default());
            Source::parse(&text).map_err(|error| error.to_string())
        }),
        oci.as_deref().map(|oci| Source::parse(&format!("oci://{oci}")).map_err(|error| error.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    match <[_; 1]>::try_from(given) {
        Ok([source]) => source,
        Err(given) => Err(format!("has {} of path, url, hf and oci; give exactly one", given.len())),
    }
}

/// A path of a document: relative, and nowhere else.
fn below(root: &Path, text: &str) -> Result<PathBuf, String> {
    let plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || !plain || text.contains('\0') || text.contains("//") || text.contains("/./") {
        return Err(format!(
            "path {text:?} is not a relative path without `.` and `..` segments; it is looked for below {}",
            root.display()
        ));
    }
    Ok(root.join(text))
}

fn check_rollout(rollout: &RolloutSpec) -> Result<(), Wrong> {
    let watch = &rollout.watch;
    let seconds = [
        ("spec.rollout.drainSeconds", rollout.drain_seconds),
        ("spec.rollout.watch.windowSeconds", watch.window_seconds),
    ];
    if let Some((field, seconds)) = seconds.into_iter().find(|(_, seconds)| *seconds > LONGEST_SECONDS) {
        return Err((field, format!("is {seconds}, at most {LONGEST_SECONDS} are possible")));
    }
    if watch.max_error_percent > 100 {
        return Err((
            "spec.rollout.watch.maxErrorPercent",
            format!("is {}, from 0 to 100 are possible", watch.max_error_percent),
        ));
    }
    if watch.max_step_seconds == 0 || watch.minimum_requests == 0 {
        return Err(("spec.rollout.watch", "maxStepSeconds and minimumRequests are at least 1".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::model) mod tests;
