//! `inference-gateway generate`: one text, generated in this process and printed as it comes.
//!
//! ```text
//! flags ─▶ body of the native API ─▶ checked ─▶ load the model ─▶ the request flow ─▶ standard output
//! ```
//!
//! Standard output gets the text, or with `--json` the answer of the native API, and nothing else. What is wrong with a
//! request is said in the words of the API, before the model is loaded where that is possible.

mod arguments;

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::Context;

pub(super) use self::arguments::{Request, arguments};
use super::progress;
use crate::app::{self, OneModel};
use crate::config::Settings;
use crate::http::{LocalAnswer, LocalError, LocalRequest, Summary};
use crate::model::source::Progress;
use crate::shutdown::{self, Interrupts, SignalThread};
use crate::telemetry;

/// What the command line parser ends with as well: what was asked for cannot be.
const REFUSED: u8 = 2;

/// What was asked for cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// Does what the command line says: code 0 at the end of the text, 2 for a request that is refused, 128 and the number of
/// the signal that ended it.
///
/// # Errors
/// The model does not load, or the generation failed.
pub(super) fn generate(settings: &Settings, request: &Request) -> anyhow::Result<ExitCode> {
    telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    let outcome = checked(settings, request).and_then(|checked| generated(settings, request, &checked));
    match outcome {
        Err(error) if error.is::<Refusal>() => {
            eprintln!("inference-gateway: {error}");
            Ok(ExitCode::from(REFUSED))
        }
        outcome => outcome,
    }
}

fn checked(settings: &Settings, request: &Request) -> anyhow::Result<LocalRequest> {
    let text = match &request.prompt {
        Some(text) => Some(text.clone()),
        None if request.has_template() && !request.reads_stdin => None,
        None if std::io::stdin().is_terminal() && !request.reads_stdin => {
            let message = "a prompt is needed: give it as an argument, or pipe it in";
            return Err(Refusal(message.to_owned()).into());
        }
        None => Some(piped(settings.listen.max_body_bytes)?),
    };
    let checked = LocalRequest::checked(request.body(text.as_deref())?, request.kind.clone());
    checked.map_err(|error| failure(request, error))
}

/// The prompt from standard input, without the line break at its end, which `echo` and editors add.
fn piped(most_bytes: usize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    // One more than allowed, so that too many are seen.
    let input = std::io::stdin().lock().take(most_bytes as u64 + 1).read_to_end(&mut bytes);
    input.context("failed to read the prompt from standard input")?;
    if bytes.len() > most_bytes {
        let message = format!(
            "the prompt has more than {most_bytes} bytes: shorten it, or raise INFERENCE_MAX_BODY_BYTES"
        );
        return Err(Refusal(message).into());
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Refusal(format!("the prompt is not UTF-8: byte {at} begins no character"))
    })?;
    if text.ends_with('\n') {
        text.truncate(text.len() - if text.ends_with("\r\n") { 2 } else { 1 });
    }
    Ok(text)
}

fn generated(settings: &Settings, request: &Request, checked: &LocalRequest) -> anyhow::Result<ExitCode> {
    let (_signals, interrupts) = SignalThread::of_command().context("failed to handle signals")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let outcome = runtime.block_on(run(settings, request, checked, interrupts));
    // Without waiting for a thread that is loading what nobody wants any more.
    runtime.shutdown_background();
    outcome
}

async fn run(
    settings: &Settings,
    request: &Request,
    checked: &LocalRequest,
    mut interrupts: Interrupts,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::default();
    let load = app::load_one(settings, request.model.as_deref(), &progress);
    let model = tokio::select! {
        code = interrupts.exit_code() => Err(code),
        model = progress::watched(load, &progress, "loading the model …") => Ok(model?),
    };
    let model = model.unwrap_or_else(|code| shutdown::leave(code));
    let outcome = tokio::select! {
        code = interrupts.exit_code() => Ok(ExitCode::from(code)),
        outcome = answer(&model, request, checked) => outcome,
    };
    model.end(settings.engine.step_timeout).await;
    outcome
}

async fn answer(model: &OneModel, request: &Request, checked: &LocalRequest) -> anyhow::Result<ExitCode> {
    let mut answer = checked.start(model.pin()).await.map_err(|error| failure(request, error))?;
    let printed = if request.json { print_json(&mut answer).await } else { print_text(&mut answer).await };
    let reader = printed.map_err(|error| match error {
        PrintError::Answer(error) => failure(request, error),
        PrintError::Output(error) => anyhow::Error::new(error).context("failed to write the text"),
    })?;
    if reader == Reader::Listens
        && request.has_stats()
        && let Some(summary) = answer.summary()
    {
        eprintln!("{}", told(&summary));
    }
    Ok(ExitCode::SUCCESS)
}

fn failure(request: &Request, error: LocalError) -> anyhow::Error {
    if error.is_the_requests_fault { Refusal(request.told(&error)).into() } else { error.into() }
}

/// Whether somebody still reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Listens,
    /// As `head` does when it has enough.
    Gone,
}

#[derive(Debug, thiserror::Error)]
enum PrintError {
    #[error(transparent)]
    Answer(#[from] LocalError),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

async fn print_text(answer: &mut LocalAnswer) -> Result<Reader, PrintError> {
    let mut outcome = Ok(Reader::Listens);
    while let Some(piece) = answer.next().await {
        outcome = match piece {
            Ok(text) => print(text).await,
            Err(error) => Err(error.into()),
        };
        if !matches!(outcome, Ok(Reader::Listens)) {
            break;
        }
    }
    // A pipe gets the text and not a byte more; what follows on a terminal begins a line.
    if std::io::stdout().is_terminal() {
        print("\n".to_owned()).await?;
    }
    outcome
}

async fn print_json(answer: &mut LocalAnswer) -> Result<Reader, PrintError> {
    let whole = answer.whole().await?;
    print(format!("{whole}\n")).await
}

/// Writes at once. Off the async thread: a reader that does not read shall not keep Ctrl-C from being heard.
async fn print(text: String) -> Result<Reader, PrintError> {
    let write = move || {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    match tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)? {
        Ok(()) => Ok(Reader::Listens),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error.into()),
    }
}

fn told(summary: &Summary) -> String {
    let Summary { prompt_tokens, tokens, finish_reason, first_token, decode, seed } = summary;
    let rate = match tokens.saturating_sub(1) as f64 / decode.as_secs_f64() {
        rate if rate.is_finite() && rate > 0.0 => format!(", then {rate:.1} tokens/s"),
        _ => String::new(),
    };
    let first = first_token.as_secs_f64();
    format!(
        "{tokens} tokens ({finish_reason}) after {prompt_tokens} of the prompt; first in {first:.2} s{rate}; seed {seed}"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_summary_of_one_token_has_no_rate() {
        let mut summary = Summary {
            prompt_tokens: 5,
            tokens: 1,
            finish_reason: "length",
            first_token: Duration::from_millis(250),
            decode: Duration::ZERO,
            seed: 7,
        };
        assert_eq!(told(&summary), "1 tokens (length) after 5 of the prompt; first in 0.25 s; seed 7");
        summary.tokens = 11;
        summary.decode = Duration::from_millis(200);
        assert!(told(&summary).contains("0.25 s, then 50.0 tokens/s;"), "{}", told(&summary));
    }
}
