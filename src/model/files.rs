//! What the JSON files beside a graph say about the model: context, heads, end-of-text tokens.
//!
//! From: `config.json` and `generation_config.json` (Hugging Face), `genai_config.json` (ONNX Runtime GenAI),
//! `tokenizer_config.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::layout::GENAI_CONFIG;
use crate::engine::TokenId;
use crate::engine::ort::Names;
use crate::text::tokenizer::Tokenizer;

/// Largest of these files; `tokenizer_config.json` with thousands of added tokens has two million bytes.
const MOST_BYTES: u64 = 32 << 20;

/// A file beside the model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path}: {message}")]
pub struct FileError {
    path: PathBuf,
    message: String,
}

/// The files' contents; `Null` where there is no file.
pub(super) struct ModelFacts {
    config: Value,
    generation: Value,
    genai: Value,
    tokenizer: Value,
}

impl ModelFacts {
    /// Reads each file from the first of the folders that has it.
    ///
    /// # Errors
    /// A file is there but is not JSON.
    pub(super) fn read(folders: &[&Path]) -> Result<Self, FileError> {
        Ok(Self {
            config: read_first(folders, "config.json")?,
            generation: read_first(folders, "generation_config.json")?,
            genai: read_first(folders, GENAI_CONFIG)?,
            tokenizer: read_first(folders, "tokenizer_config.json")?,
        })
    }

    /// Tokens that the model was made for.
    pub(super) fn context_tokens(&self) -> Option<usize> {
        ["max_position_embeddings", "n_positions", "n_ctx"]
            .iter()
            .find_map(|key| size(&self.config[*key]))
            .or_else(|| size(&self.genai["model"]["context_length"]))
    }

    /// Size of an attention head.
    pub(super) fn head_size(&self) -> Option<usize> {
        let heads = self.first_of(&["num_attention_heads", "n_head"]);
        let hidden = self.first_of(&["hidden_size", "n_embd"]);
        size(&self.genai["model"]["decoder"]["head_size"])
            .or_else(|| size(&self.config["head_dim"]))
            .or_else(|| Some(hidden? / heads?))
    }

    /// Key and value heads.
    pub(super) fn kv_heads(&self) -> Option<usize> {
        size(&self.genai["model"]["decoder"]["num_key_value_heads"])
            .or_else(|| self.first_of(&["num_key_value_heads", "num_attention_heads", "n_head"]))
    }

    /// Tokens that end a text: all that any of the files names.
    pub(super) fn end_tokens(&self, tokenizer: &Tokenizer) -> Vec<TokenId> {
        let mut found = BTreeSet::new();
        let lists = [
            &self.generation["eos_token_id"],
            &self.config["eos_token_id"],
            &self.genai["model"]["eos_token_id"],
        ];
        for value in lists {
            let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            found.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| TokenId::try_from(id).ok()));
        }
        found.extend(self.special_token("eos_token").and_then(|text| tokenizer.token_to_id(text)));
        found.into_iter().collect()
    }

    /// Whether any file names an end of text, by number or by content.
    pub(super) fn names_an_end(&self) -> bool {
        let named = [&self.generation["eos_token_id"], &self.config["eos_token_id"]];
        named.iter().any(|value| !value.is_null())
            || !self.genai["model"]["eos_token_id"].is_null()
            || self.special_token("eos_token").is_some()
    }

    /// The content of a token by its part, such as `bos_token`.
    pub(super) fn special_token(&self, part: &str) -> Option<&str> {
        let named = &self.tokenizer[part];
        named.as_str().or_else(|| named["content"].as_str())
    }

    /// Special tokens with their ids, as `tokenizer_config.json` lists them.
    pub(super) fn listed_special_tokens(&self) -> Vec<(TokenId, &str)> {
        let listed = self.tokenizer["added_tokens_decoder"].as_object();
        let special = listed.into_iter().flatten().filter(|(_, token)| token["special"] == true);
        special.filter_map(|(id, token)| Some((id.parse().ok()?, token["content"].as_str()?))).collect()
    }

    /// The template of chats: of a file of its own, else of `tokenizer_config.json`, where it may be one of several.
    ///
    /// # Errors
    /// The file is there but cannot be read, or is too large.
    pub(super) fn chat_template(&self, folders: &[&Path]) -> Result<Option<String>, FileError> {
        if let Some(path) = first_file(folders, "chat_template.jinja") {
            let fail = |message: String| FileError { path: path.clone(), message };
            let text = String::from_utf8(read_bounded(&path)?).map_err(|error| fail(error.to_string()))?;
            return Ok(Some(text));
        }
        let template = &self.tokenizer["chat_template"];
        let named = template.as_array().into_iter().flatten();
        let default = named.clone().find(|one| one["name"] == "default").or_else(|| named.clone().next());
        let text = template.as_str().or_else(|| default.and_then(|one| one["template"].as_str()));
        Ok(text.map(str::to_owned))
    }

    /// What the graph's inputs and outputs are called: as `genai_config.json` says, else as is usual.
    ///
    /// # Errors
    /// It says what is not understood.
    pub(super) fn names(&self) -> Result<Names, FileError> {
        let decoder = &self.genai["model"]["decoder"];
        let fail = |message: String| Err(FileError { path: GENAI_CONFIG.into(), message });
        if !decoder["pipeline"].is_null() {
            return fail("its decoder is a `pipeline` of several graphs, which is not served".to_owned());
        }
        let mut names = Names::default();
        let known = [
            ("inputs", "input_ids", &mut names.input_ids, false),
            ("inputs", "attention_mask", &mut names.attention_mask, false),
            ("inputs", "position_ids", &mut names.position_ids, false),
            ("inputs", "past_key_names", &mut names.past_key, true),
            ("inputs", "past_value_names", &mut names.past_value, true),
            ("outputs", "logits", &mut names.logits, false),
            ("outputs", "present_key_names", &mut names.present_key, true),
            ("outputs", "present_value_names", &mut names.present_value, true),
        ];
        for (side, key, name, of_layer) in known {
            let said = &decoder[side][key];
            if said.is_null() {
                continue;
            }
            let Some(said) = said.as_str() else { return fail(format!("`{key}` is {said}, not a name")) };
            if of_layer != (said.matches("%d").count() == 1) {
                return fail(format!("`{key}` is `{said}`: only names of caches have one %d, for the layer"));
            }
            said.clone_into(name);
        }
        Ok(names)
    }

    fn first_of(&self, keys: &[&str]) -> Option<usize> {
        keys.iter().find_map(|key| size(&self.config[*key]))
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0)
}

fn read_first(folders: &[&Path], name: &str) -> Result<Value, FileError> {
    let Some(path) = first_file(folders, name) else {
        return Ok(Value::Null);
    };
    let text = read_bounded(&path)?;
    serde_json::from_slice(&text).map_err(|error| FileError { path, message: error.to_string() })
}

fn first_file(folders: &[&Path], name: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, FileError> {
    use std::io::Read;

    let fail = |message: String| FileError { path: path.to_owned(), message };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(fail(format!("it is larger than {MOST_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(config: &str) -> ModelFacts {
        ModelFacts {
            config: serde_json::from_str(config).unwrap(),
            generation: Value::Null,
            genai: Value::Null,
            tokenizer: Value::Null,
        }
    }

    #[test]
    fn gpt2_and_llama_configurations_are_understood() {
        let gpt2 = facts(r#"{"n_positions": 1024, "n_head": 12, "n_embd": 768}"#);
        assert_eq!(
            (gpt2.context_tokens(), gpt2.kv_heads(), gpt2.head_size()),
            (Some(1024), Some(12), Some(64))
        );
        let llama = facts(
            r#"{"max_position_embeddings": 8192, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}"#,
        );
        assert_eq!(
            (llama.context_tokens(), llama.kv_heads(), llama.head_size()),
            (Some(8192), Some(3), Some(64))
        );
    }

    #[test]
    fn names_of_inputs_and_outputs_come_from_genai() {
        let named = |decoder: &str| {
            let genai = format!(r#"{{"model": {{"decoder": {decoder}}}}}"#);
            ModelFacts { genai: serde_json::from_str(&genai).unwrap(), ..facts("{}") }.names()
        };
        assert_eq!(facts("{}").names().unwrap(), Names::default());
        let found =
            named(r#"{"inputs": {"past_key_names": "k_%d"}, "outputs": {"logits": "scores"}}"#).unwrap();
        assert_eq!((found.past_key.as_str(), found.logits.as_str()), ("k_%d", "scores"));
        assert_eq!(found.past_value, Names::default().past_value);
        for (decoder, part) in [
            (r#"{"inputs": {"past_key_names": "keys"}}"#, "`past_key_names` is `keys`"),
            (r#"{"outputs": {"logits": "logits_%d"}}"#, "`logits` is `logits_%d`"),
            (r#"{"inputs": {"input_ids": 3}}"#, "`input_ids` is 3"),
            (r#"{"pipeline": [{}]}"#, "`pipeline`"),
        ] {
            let message = named(decoder).unwrap_err().to_string();
            assert!(message.contains("genai_config.json") && message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_file_that_is_not_json_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), b"{").unwrap();
        let message = ModelFacts::read(&[folder.path()]).err().unwrap().to_string();
        assert!(message.contains("config.json"), "{message}");
    }
}
