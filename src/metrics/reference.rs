//! The metrics as a page of the documents, from their declarations.

use std::fmt::Write;

use super::{Metrics, picker};

const HEAD: &str = "# Metrics

Printed by `inference-gateway metrics`. Gateway and controller declare the same families and serve them at `/metrics`, as
OpenMetrics or, for `Accept: text/plain`, as Prometheus text; a family is there once it has a value. Label values never come from a
client. Histograms of times of requests have exemplars with a `trace_id` where the request was sampled ([traces.md](traces.md)), for
whoever asks for `application/openmetrics-text` by name. [alerts.md](alerts.md) says what to do when one of them is out of bounds.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

const PICKER: &str = "
## For endpoint pickers

With `INFERENCE_PICKER_METRICS`, for the endpoint pickers of the Gateway API Inference Extension, which look for these names unless
told others. One series each, over all models. Their names have colons, which linters keep for recording rules.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

impl Metrics {
    /// The page.
    pub fn reference() -> String {
        let mut families = Self::new().declared;
        families.sort_by(|one, other| one.name.cmp(&other.name));
        let mut page = HEAD.to_owned();
        // Writing to a text cannot fail.
        for family in &families {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let help = family.help.replace('|', "\\|");
            writeln!(
                page,
                "| `{}` | {} | {} | {help} |",
                family.name,
                family.kind.label(),
                labels.join(", ")
            )
            .unwrap_or_default();
        }
        page.push_str(PICKER);
        for (name, help, labels) in picker::FAMILIES {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            writeln!(page, "| `{name}` | gauge | {} | {help} |", labels.join(", ")).unwrap_or_default();
        }
        page.push_str(
            "\n## Buckets\n\nUpper bounds of the histograms; an objective has to be one of them.\n\n",
        );
        page.push_str("| histogram | upper bounds |\n| --- | --- |\n");
        for family in families.iter().filter(|family| !family.buckets.is_empty()) {
            let bounds: Vec<String> = family.buckets.iter().map(ToString::to_string).collect();
            writeln!(page, "| `{}` | {} |", family.name, bounds.join(", ")).unwrap_or_default();
        }
        page
    }
}
