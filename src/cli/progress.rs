//! How far something is that takes its time: a line that is redrawn where a person watches, log lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::model::source::{Progress, ProgressReading};

/// Between two looks at the progress where a person watches.
const REDRAW: Duration = Duration::from_millis(200);
/// Between two log lines where nobody does.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Does the work and tells of its downloads; a person is told `otherwise` while there are none.
pub(super) async fn watched<F: Future>(work: F, progress: &Progress, otherwise: &str) -> F::Output {
    let terminal = std::io::stderr().is_terminal();
    let mut ticks = tokio::time::interval(if terminal { REDRAW } else { LOG_INTERVAL });
    ticks.tick().await;
    let line = Line(terminal);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = ticks.tick() => line.tell(&progress.read(), otherwise),
        }
    }
}

/// The line of the terminal, if there is one. Emptied when nothing is told any more, also when the work is dropped.
struct Line(bool);

impl Line {
    fn tell(&self, reading: &ProgressReading, otherwise: &str) {
        let ProgressReading { file, done_bytes, total_bytes, earlier_bytes, planned_bytes, fetched_bytes: _ } =
            reading;
        let Some(file) = file else {
            if self.0 {
                draw(otherwise);
            }
            return;
        };
        // All files where their sizes are known, else the file of the moment.
        let (done_bytes, total_bytes) = match planned_bytes {
            Some(_) => (done_bytes + earlier_bytes, *planned_bytes),
            None => (*done_bytes, *total_bytes),
        };
        if !self.0 {
            tracing::info!(file, done_bytes, total_bytes, "fetching");
            return;
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let amount = match (total_bytes.filter(|total| *total > 0), done_bytes) {
            (Some(total), done) => format!(
                "{:.1} of {:.1} MB, {:.0} %",
                megabytes(done),
                megabytes(total),
                100.0 * done as f64 / total as f64
            ),
            (None, 0) => String::new(),
            (None, done) => format!("{:.1} MB", megabytes(done)),
        };
        draw(&format!("{file}  {amount}"));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.0 {
            draw("");
        }
    }
}

/// Replaces the line of the terminal.
fn draw(line: &str) {
    let mut err = std::io::stderr().lock();
    // A terminal that is gone is no reason to stop.
    drop(write!(err, "\r{line}\x1b[K").and_then(|()| err.flush()));
}
