//! The status page: models with their queues, recent failures; nothing from elsewhere, fresh every few seconds.

use std::fmt::Write;

use super::view::{FailureView, LoadedView, ModelView, View};

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n<link rel=\"icon\" href=\"data:,\">\n<title>Inference Gateway</title>\n<style>\
    body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#222;background:#fff}\
    table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.4rem .8rem;\
    border-bottom:1px solid #ddd}code{font-size:90%}.ready{color:#07640a}.failed{color:#a40000}.wrong{color:#a40000}\
    </style>\n<header>\n<h1>Inference Gateway</h1>\n\
    <p><label><input type=\"checkbox\" id=\"follow\" checked> Fresh every 3 seconds</label> <span id=\"trouble\" \
    class=\"wrong\" role=\"status\"></span>\n</header>\n";
/// Puts the next state in place of this one, for those who have not asked to be left alone: a page that begins anew by itself
/// takes the place and the selection of whoever reads it.
const FOLLOW: &str = "<script>\n\
    setInterval(async () => {\n\
      if (!document.getElementById('follow').checked || document.hidden) return;\n\
      const trouble = document.getElementById('trouble');\n\
      try {\n\
        const next = new DOMParser().parseFromString(await (await fetch('/')).text(), 'text/html');\n\
        document.querySelector('main').replaceWith(next.querySelector('main'));\n\
        trouble.textContent = '';\n\
      } catch { trouble.textContent = 'The gateway does not answer.'; }\n\
    }, 3000);\n\
    </script>\n";

/// The page.
pub(super) fn render(view: &View) -> String {
    let mut page = HEAD.to_owned();
    page.push_str(
        "<main>\n<table>\n<tr><th>Model<th>State<th>Answers<th>Running<th>Waiting<th>Also loaded<th>Message\n",
    );
    for model in &view.models {
        row(&mut page, model);
    }
    page.push_str("</table>\n");
    if view.models.is_empty() {
        page.push_str("<p>No models are served.\n");
    }
    failures(&mut page, view);
    if let Some(file) = &view.models_file {
        let applied = file.applied_at.as_deref().unwrap_or("never");
        put(&mut page, format_args!("<p>List: <code>{}</code>, applied {applied}\n", escaped(&file.path)));
        if let Some(error) = &file.error {
            put(&mut page, format_args!("<p class=\"wrong\">{}\n", escaped(error)));
        }
    }
    let megabytes = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| (bytes >> 20).to_string());
    let (used, free) = (megabytes(view.memory.resident_bytes), megabytes(view.memory.free_bytes));
    put(&mut page, format_args!("<p>Memory: {used} MiB in use, {free} MiB free\n</main>\n"));
    page.push_str(FOLLOW);
    page.push_str("</html>\n");
    page
}

fn row(page: &mut String, model: &ModelView) {
    let names: Vec<String> =
        model.names.iter().map(|name| format!("<code>{}</code>", escaped(name))).collect();
    let loaded = |loaded: &LoadedView| {
        let megabytes = loaded.memory_bytes >> 20;
        format!(
            "<code>{}</code> {megabytes} MiB, {} requests",
            escaped(&loaded.revision),
            loaded.requests_in_flight
        )
    };
    let serving = model.serving.as_ref().map_or("nothing".to_owned(), loaded);
    let [running, waiting] = match &model.serving {
        Some(LoadedView { running, waiting, rows, queue_limit, .. }) => {
            [format!("{running} of {rows}"), format!("{waiting} of {queue_limit}")]
        }
        None => [String::new(), String::new()],
    };
    let going: Vec<String> = model.going.iter().map(loaded).collect();
    let state = model.state;
    put(
        page,
        format_args!(
            "<tr><td>{}<td class=\"{state}\">{state} <code>{}</code>",
            names.join(" "),
            escaped(&model.revision)
        ),
    );
    put(
        page,
        format_args!(
            "<td>{serving}<td>{running}<td>{waiting}<td>{}<td>{}",
            going.join("<br>"),
            escaped(&model.message)
        ),
    );
    if let Some(download) = &model.download {
        let total = download.total_bytes.map_or(String::new(), |total| format!(" of {}", total >> 20));
        let done = download.done_bytes >> 20;
        put(page, format_args!(" {} {done}{total} MiB", escaped(&download.file)));
    }
    page.push('\n');
}

/// Those of all models, whatever became of them since.
fn failures(page: &mut String, view: &View) {
    if view.models.iter().all(|model| model.recent_failures.is_empty()) {
        return;
    }
    page.push_str(
        "<h2>Recent failures</h2>\n<table>\n<tr><th>When<th>Model<th>Revision<th>Reason<th>Message\n",
    );
    for model in &view.models {
        for FailureView { revision, reason, message, at } in &model.recent_failures {
            let (name, revision, message) = (escaped(&model.name), escaped(revision), escaped(message));
            put(
                page,
                format_args!(
                    "<tr><td>{at}<td><code>{name}</code><td><code>{revision}</code><td>{reason}<td>{message}\n"
                ),
            );
        }
    }
    page.push_str("</table>\n");
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes all that is written");
}

/// Text that means itself in HTML, between tags and in quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text() {
        assert_eq!(escaped("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
    }
}
