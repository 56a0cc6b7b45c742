//! What is between a request's text and a model's tokens.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use crate::http::fuzzing;
use crate::text::decoder::Decoder;
use crate::text::prompts::Prompts;
use crate::text::stop::{StopEvent, Stops};
use crate::text::template::{Conversation, Template};
use crate::text::tokenizer::{Tokenizer, samples};

/// Separates texts in the input of a target: a byte that no UTF-8 has.
const BETWEEN: u8 = 0xff;
/// Longest prompt that a template may make, in bytes.
const LONGEST_PROMPT_BYTES: usize = 16 << 20;

/// Any text as a chat template and as templates of the settings: refused, or rendered within bounds.
pub(super) fn templates(source: &[u8]) {
    static CHAT: LazyLock<Vec<Value>> = LazyLock::new(|| {
        vec![
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "Hi <b> \"you\" é😀", "name": "a"}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5}}}]}),
            json!({"role": "tool", "content": "1", "tool_call_id": "c"}),
        ]
    });
    static TOOLS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        vec![json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})]
    });
    let source = String::from_utf8_lossy(source);
    let variables = Map::from_iter([("thinking".to_owned(), json!(true))]);
    if let Ok(template) = Template::compile(&source) {
        let conversation = Conversation {
            messages: &CHAT,
            tools: Some(&TOOLS),
            bos_token: Some("<s>"),
            eos_token: None,
            add_generation_prompt: true,
            variables: &variables,
        };
        if let Ok(prompt) = template.render(&conversation) {
            assert!(prompt.len() <= LONGEST_PROMPT_BYTES);
        }
    }
    if let Ok(prompts) = Prompts::compile(None, [("named", &*source)]) {
        let template = prompts.named("named").expect("it was just given");
        let given = template.variables().map(|name| (name.to_owned(), json!("a\n<b> é"))).collect();
        template.check(&given).expect("its own variables are known");
        if let Ok(prompt) = template.render(&given) {
            assert!((1..=LONGEST_PROMPT_BYTES).contains(&prompt.len()));
        }
    }
    if let Ok(prompts) = Prompts::compile(Some(&*source), []) {
        let template = prompts.unnamed().expect("it was just given");
        assert_eq!(template.variables().collect::<Vec<_>>(), ["text"]);
    }
}

/// Stop strings and the pieces of a text, however it is cut: what a search over the whole text finds.
pub(super) fn stop_strings(input: &[u8]) {
    let Some((count, rest)) = input.split_first() else { return };
    let texts = rest.split(|byte| *byte == BETWEEN).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut stops: Vec<String> = texts.collect();
    let pieces = stops.split_off(usize::from(count % 5).min(stops.len()));
    let whole = pieces.concat();

    let mut matcher = Stops::new(stops.clone());
    let mut found = (String::new(), None);
    let mut take = |event| match event {
        StopEvent::Text(text) => found.0 += &text,
        StopEvent::Stopped { text, stop } => {
            found.0 += &text;
            assert!(found.1.replace(stop).is_none(), "a text stops once");
        }
    };
    for piece in &pieces {
        take(matcher.push(piece));
    }
    take(matcher.finish());

    let starts = stops.iter().filter(|stop| !stop.is_empty());
    let first = starts.filter_map(|stop| Some((whole.find(stop.as_str())?, stop.len(), stop))).min();
    let expected = match first {
        Some((start, _, stop)) => (whole[..start].to_owned(), Some(stop.clone())),
        None => (whole, None),
    };
    assert_eq!(found, expected);
}

/// Any tokens one by one: what decoding all of them at once gives.
pub(super) fn detokeniser(input: &[u8]) {
    static TOKENIZERS: LazyLock<[Arc<Tokenizer>; 3]> = LazyLock::new(|| {
        [samples::byte_level(), samples::sentence_piece(true), samples::sentence_piece(false)].map(Arc::new)
    });
    let Some((flags, rest)) = input.split_first() else { return };
    let skip = flags & 1 == 1;
    for (index, tokenizer) in TOKENIZERS.iter().enumerate() {
        let size = tokenizer.vocabulary_size() as u32;
        // The Metaspace decoder knows no bytes: its tokens begin behind them.
        let first = if index == 1 { 256 } else { 0 };
        let token = |pair: &[u8; 2]| first + u32::from(u16::from_be_bytes(*pair)) % (size - first + 1);
        let tokens: Vec<u32> = rest.as_chunks().0.iter().map(token).collect();
        let mut decoder = Decoder::new(Arc::clone(tokenizer), &[], skip).expect("nothing is decoded yet");
        let pieces = tokens.iter().map(|token| decoder.push(*token).expect("these decoders take all tokens"));
        let mut streamed: String = pieces.collect();
        streamed += &decoder.finish().expect("these decoders take all tokens");
        let at_once = tokenizer.decode(&tokens, skip).expect("these decoders take all tokens");
        // Of a run of byte tokens with a wrong one the file's own decoder keeps nothing, this one the good characters.
        let is_run_spoilt = index == 2 && at_once.contains(char::REPLACEMENT_CHARACTER);
        assert!(streamed == at_once || is_run_spoilt, "{streamed:?} is not {at_once:?}");
    }
}

/// Any value of the header `x-request-id`: kept if it is plain, replaced by one that is if not.
pub(super) fn request_id(value: &[u8]) {
    let Some((id, header)) = fuzzing::request_id(value) else { return };
    let is_plain = |id: &[u8]| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:/+=".contains(byte);
        (1..=128).contains(&id.len()) && id.iter().all(plain)
    };
    assert!(is_plain(id.as_bytes()), "{id:?}");
    assert_eq!(header.as_bytes(), id.as_bytes());
    assert_eq!(id.as_bytes() == value, is_plain(value), "{id:?}");
    assert!(is_plain(value) || id.len() == 32);
}
