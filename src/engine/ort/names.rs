//! The names that a graph gives to its inputs and outputs.

/// Names of inputs and outputs; in those of caches `%d` stands for the number of the layer.
///
/// What is usual is what Hugging Face Optimum writes; `genai_config.json` may say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Input: ids of the fed tokens.
    pub input_ids: String,
    /// Input: which tokens, cached and fed, are real.
    pub attention_mask: String,
    /// Input: positions of the fed tokens.
    pub position_ids: String,
    /// Input: cached keys of a layer.
    pub past_key: String,
    /// Input: cached values of a layer.
    pub past_value: String,
    /// Output: unnormalised scores of all tokens.
    pub logits: String,
    /// Output: keys of a layer, cached and new.
    pub present_key: String,
    /// Output: values of a layer, cached and new.
    pub present_value: String,
}

/// Stands for the number of a layer.
const LAYER: &str = "%d";

impl Default for Names {
    fn default() -> Self {
        Self {
            input_ids: "input_ids".to_owned(),
            attention_mask: "attention_mask".to_owned(),
            position_ids: "position_ids".to_owned(),
            past_key: "past_key_values.%d.key".to_owned(),
            past_value: "past_key_values.%d.value".to_owned(),
            logits: "logits".to_owned(),
            present_key: "present.%d.key".to_owned(),
            present_value: "present.%d.value".to_owned(),
        }
    }
}

impl Names {
    /// The names that `torch.onnx.export` makes up where nobody gives it any, as in the ONNX model zoo's GPT-2.
    pub(super) fn unnamed() -> Self {
        Self { input_ids: "input1".to_owned(), logits: "output1".to_owned(), ..Self::default() }
    }

    /// Inputs that hold the cached key and value of a layer.
    pub(super) fn past(&self, layer: usize) -> [String; 2] {
        [&self.past_key, &self.past_value].map(|template| of_layer(template, layer))
    }

    /// Outputs that hold them with the fed tokens added.
    pub(super) fn present(&self, layer: usize) -> [String; 2] {
        [&self.present_key, &self.present_value].map(|template| of_layer(template, layer))
    }

    /// Whether an input of this name holds a part of the cache.
    pub(super) fn is_past(&self, name: &str) -> bool {
        matches(&self.past_key, name) || matches(&self.past_value, name)
    }

    /// Whether an output of this name holds a part of the cache.
    pub(super) fn is_present(&self, name: &str) -> bool {
        matches(&self.present_key, name) || matches(&self.present_value, name)
    }
}

fn of_layer(template: &str, layer: usize) -> String {
    template.replace(LAYER, &layer.to_string())
}

fn matches(template: &str, name: &str) -> bool {
    let number =
        template.split_once(LAYER).and_then(|(before, after)| name.strip_prefix(before)?.strip_suffix(after));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_caches_are_made_and_recognised_by_layer() {
        let names = Names { past_key: "past_%d_k".to_owned(), ..Names::default() };
        assert_eq!(names.past(3), ["past_3_k", "past_key_values.3.value"]);
        assert_eq!(names.present(11), ["present.11.key", "present.11.value"]);
        for (name, expected) in [
            ("past_0_k", true),
            ("past_12_k", true),
            ("past_key_values.0.value", true),
            ("past_key_values.0.key", false),
            ("past__k", false),
            ("past_x_k", false),
            ("past_k", false),
        ] {
            assert_eq!(names.is_past(name), expected, "{name}");
        }
        assert!(names.is_present("present.0.key") && !names.is_present("logits"));
    }
}
