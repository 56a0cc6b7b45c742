//! The model that requests are checked against: a real tokenizer and chat template, an engine that is never asked.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::engine::{Backend, BackendError, Batch, Engine, EngineLimits, Feeding, Geometry, Shared, Turns};
use crate::metrics::Metrics;
use crate::model::LoadedModel;
use crate::text::chat::Chat;
use crate::text::prompts::Prompts;
use crate::text::template::Template;
use crate::text::tokenizer::samples;

/// A template with tools, so that all that chats may ask for is looked at.
const CHAT_TEMPLATE: &str = include_str!("../../tests/fixtures/chat/templates/qwen2.5.jinja");
/// A template of the settings, for requests of the native API that name `greet`.
const PROMPT_TEMPLATE: (&str, &str) = ("greet", "{{ greeting }}, {{ text | trim }}!");
const CONTEXT_TOKENS: usize = 256;

/// The model; made once.
pub(super) fn model() -> &'static LoadedModel {
    static MODEL: OnceLock<Arc<LoadedModel>> = OnceLock::new();
    MODEL.get_or_init(made)
}

fn made() -> Arc<LoadedModel> {
    let tokenizer = Arc::new(samples::byte_level());
    let backend = Box::new(Silent { vocabulary_size: tokenizer.vocabulary_size() });
    let limits = EngineLimits {
        chunk_tokens: 64,
        queue: 4,
        cache_tokens: CONTEXT_TOKENS,
        prefix_bytes: 0,
        draft_tokens: 0,
    };
    let shared = Shared { turns: Arc::new(Turns::default()), metrics: Metrics::new().model("fuzzed") };
    let metrics = shared.metrics.clone();
    let engine = Engine::start("fuzzed", backend, limits, shared).expect("the system has a thread");
    let template = Template::compile(CHAT_TEMPLATE).expect("the template is one that works");
    let chat = Chat::new(template, None, Some("<|end|>".to_owned()));
    let prompts = Prompts::compile(None, [PROMPT_TEMPLATE]).expect("the template is one that works");
    LoadedModel::without_files((tokenizer, chat, prompts), engine, metrics)
}

/// Computes nothing: requests are parsed and checked, and go no further.
struct Silent {
    vocabulary_size: usize,
}

impl Backend for Silent {
    fn geometry(&self) -> Geometry {
        Geometry {
            vocabulary_size: self.vocabulary_size,
            context_tokens: CONTEXT_TOKENS,
            rows: 1,
            feeding: Feeding::LongChunks,
            cache_bytes_per_token: 1,
            keeps_prefixes: false,
            verifies_drafts: false,
        }
    }

    fn forward(&mut self, _batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        Err(BackendError("this engine runs nothing".to_owned()))
    }

    fn move_row(&mut self, _from: usize, _to: usize, _tokens: usize) {}

    fn read_cache(&self, _row: usize, _tokens: Range<usize>, _cache: &mut Vec<u8>) {}

    fn write_cache(&mut self, _row: usize, _tokens: Range<usize>, _cache: &[u8]) {}

    fn release_row(&mut self, _row: usize, _give_back: bool) {}
}
