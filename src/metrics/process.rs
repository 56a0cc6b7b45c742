//! The metrics of the process itself, under the names that every program gives them; read when they are asked for.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Counter, Gauge, IntGauge};

use super::family::Family;
use super::{Declare, SINGLE};
use crate::memory;

/// Units of time in `/proc`: a constant of the kernel's interface on every architecture that we are built for.
const TICKS_PER_SECOND: f64 = 100.0;
/// What was read is told for so long: endpoint pickers ask twenty times a second, and reading costs more than all the rest.
const FRESH: Duration = Duration::from_secs(2);

/// The families.
pub(super) struct Process {
    cpu: Counter,
    /// When everything was read last. Held meanwhile, so that two scrapes do not add the same time.
    read: Mutex<Option<Instant>>,
    resident: IntGauge,
    memory_limit: Family<IntGauge>,
    open_files: IntGauge,
    most_files: IntGauge,
}

impl Process {
    pub(super) fn new(on: &Declare) -> Self {
        let started = on.seconds_gauge(
            "process_start_time_seconds",
            "When the process began, in seconds since the beginning of 1970.",
        );
        tell_start(&started);
        Self {
            cpu: on.seconds_counter(
                "process_cpu_seconds_total",
                "Time that the process has computed, its threads together, in user and system mode.",
            ),
            read: Mutex::default(),
            resident: on.gauge("process_resident_memory_bytes", "Memory that the process has."),
            memory_limit: on.gauges(
                "memory_limit_bytes",
                "Memory that the process may have: by its settings, its cgroup or the machine.",
                &[],
            ),
            open_files: on.gauge("process_open_fds", "Files and connections that are open."),
            most_files: on.gauge("process_max_fds", "Files and connections that may be open at once."),
        }
    }

    /// Reads everything anew, if it has not been just now. What cannot be read keeps its value.
    pub(super) fn refresh(&self) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.is_some_and(|read| read.elapsed() < FRESH) {
            return;
        }
        *read = Some(Instant::now());
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_seconds(&text))
        {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Some(bytes) = memory::resident_bytes() {
            self.resident.set(bytes as i64);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            self.open_files.set(files.count() as i64 - 1);
        }
        if let Some(most) = fs::read_to_string("/proc/self/limits").ok().and_then(|text| most_files(&text)) {
            self.most_files.set(most);
        }
    }
}

impl super::Metrics {
    /// Tells how much memory the process may have.
    pub fn memory_limit(&self, bytes: u64) {
        let gauge = self.process.memory_limit.with_label_values(SINGLE);
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn tell_start(gauge: &Gauge) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(seconds) = start_seconds(&stat, &system) {
        gauge.set(seconds);
    }
}

/// A field of `/proc/PID/stat` by its number in proc(5). The name before them may hold anything, also brackets.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str, system: &str) -> Option<f64> {
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + field(stat, 22)? / TICKS_PER_SECOND)
}

fn most_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 1250 250 0 0 20 0 4 0 123400 99 42 0";

    #[test]
    fn the_fields_are_counted_from_the_end_of_the_name() {
        assert_eq!(cpu_seconds(STAT), Some(15.0));
        assert_eq!(start_seconds(STAT, "cpu 1 2\nbtime 1700000000\n"), Some(1_700_001_234.0));
        assert_eq!(start_seconds(STAT, "cpu 1 2\n"), None);
        assert_eq!(cpu_seconds("7 (short) S 1"), None);
    }

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   524288   files\n";
        assert_eq!(most_files(limits), Some(1024));
        assert_eq!(most_files("Max open files            unlimited   unlimited   files\n"), None);
    }
}
