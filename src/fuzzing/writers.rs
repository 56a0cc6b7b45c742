//! Writers: what they write is read back, by a reader of the specification and not by its inverse, and is what was put in.

use std::time::{Duration, UNIX_EPOCH};

use prometheus::core::Metric;
use prometheus::{Histogram, HistogramOpts};
use serde::{Deserialize, Serialize};

use crate::http::fuzzing::events;
use crate::openmetrics::{Exemplar, Format, Kind, Writer, labels};

/// Separates texts in the input of a target: a byte that no UTF-8 has.
const BETWEEN: u8 = 0xff;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    text: String,
}

/// Any texts as events. An empty one stands for the word that ends OpenAI's streams.
pub(super) fn server_sent_events(input: &[u8]) {
    let texts = input.split(|byte| *byte == BETWEEN).map(|text| String::from_utf8_lossy(text).into_owned());
    let told: Vec<Option<Told>> = texts.map(|text| (!text.is_empty()).then_some(Told { text })).collect();
    let stream = events(&told);
    let read: Vec<Option<Told>> = dispatched(&String::from_utf8(stream).expect("a stream of events is text"))
        .iter()
        .map(|data| match data.as_str() {
            "[DONE]" => None,
            data => Some(serde_json::from_str(data).expect("an event is JSON")),
        })
        .collect();
    assert_eq!(read, told);
}

/// The data of the events of a stream.
///
/// From: WHATWG HTML, §"Interpreting an event stream".
fn dispatched(stream: &str) -> Vec<String> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut dispatched = Vec::new();
    let mut data: Vec<&str> = Vec::new();
    for line in stream.split('\n') {
        match line.split_once(':').unwrap_or((line, "")) {
            ("", "") if line.is_empty() => {
                if !data.is_empty() {
                    dispatched.push(std::mem::take(&mut data).join("\n"));
                }
            }
            ("", _comment) => {}
            ("data", value) => data.push(value.strip_prefix(' ').unwrap_or(value)),
            (other, _) => assert!(other.is_empty(), "a field that nobody asked for: {line:?}"),
        }
    }
    assert!(data.is_empty(), "the last event does not end");
    dispatched
}

/// Metrics with any help and any label values, and any numbers.
pub(super) fn open_metrics(input: &[u8]) {
    let mut texts =
        input.split(|byte| *byte == BETWEEN).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut text = || texts.next().unwrap_or_default();
    let (help, first, second) = (text(), text(), text());
    let number = f64::from_le_bytes(*input.last_chunk().unwrap_or(&[0; 8]));
    let written_labels = labels([("one", first.as_str()), ("two", second.as_str())]);
    let sample = |suffix: &str| format!("fuzz_bytes{suffix}");
    let labelled = vec![("one".to_owned(), first.clone()), ("two".to_owned(), second.clone())];

    let family = written(Kind::Gauge, &help, |writer| writer.value(&written_labels, number));
    assert_number(only(&family, &sample(""), &labelled), number);

    let count = input.first().copied().unwrap_or(0);
    let family = written(Kind::Counter, &help, |writer| writer.value(&written_labels, f64::from(count)));
    assert_eq!(only(&family, &sample("_total"), &labelled), count.to_string());

    let options = HistogramOpts::new("fuzz_bytes", "h").buckets(vec![1.0, 1e6]);
    let histogram = Histogram::with_opts(options).expect("the name is good");
    histogram.observe(number);
    let metric = histogram.metric();
    let trace_id = u128::from(number.to_bits());
    let at = UNIX_EPOCH + Duration::from_secs(u64::from(count));
    let exemplar = Exemplar { trace_id, value: number, at };
    let family = written(Kind::Histogram, &help, |writer| {
        writer.histogram(&written_labels, metric.get_histogram(), &[None, Some(exemplar)]);
    });
    for (bound, holds) in [("1.0", number <= 1.0), ("1e+06", number <= 1e6), ("+Inf", true)] {
        let with_bound = [labelled.clone(), vec![("le".to_owned(), bound.to_owned())]].concat();
        let told = only(&family, &sample("_bucket"), &with_bound);
        let (told, exemplar) = told.split_once(" # ").map_or((told, None), |(told, rest)| (told, Some(rest)));
        assert_eq!(told, u8::from(holds).to_string());
        assert_eq!(exemplar.is_some(), bound == "1e+06");
        if let Some(exemplar) = exemplar {
            let begin = format!("{{trace_id=\"{trace_id:032x}\"}} ");
            let (value, seconds) =
                exemplar.strip_prefix(&begin).and_then(|rest| rest.split_once(' ')).expect("all");
            assert_number(value, number);
            assert_eq!(seconds, format!("{count}.000"));
        }
    }
    assert_eq!(only(&family, &sample("_count"), &labelled), "1");
}

/// It reads as this number, to the last bit.
fn assert_number(text: &str, number: f64) {
    let read: f64 = text.parse().expect("a number");
    assert!(read.to_bits() == number.to_bits() || (read.is_nan() && number.is_nan()), "{text} {number}");
}

/// A sample as it was read.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

/// The value of the only sample of this name with these labels.
fn only<'a>(samples: &'a [Sample], name: &str, labels: &[(String, String)]) -> &'a str {
    let mut found = samples.iter().filter(|sample| sample.name == name && sample.labels == labels);
    let sample = found.next().expect("the sample is there");
    assert!(found.next().is_none(), "{name} is there twice");
    &sample.value
}

/// The samples of the only family, which is of this kind and has this help.
fn written(kind: Kind, help: &str, write: impl FnOnce(&mut Writer)) -> Vec<Sample> {
    let mut writer = Writer::new(Format::OpenMetrics { exemplars: true });
    writer.family("fuzz_bytes", kind, help);
    write(&mut writer);
    let text = writer.finish();
    let lines = text.strip_suffix("# EOF\n").expect("the end is marked");
    let lines = lines.strip_suffix('\n').expect("a line ends").split('\n');
    let (told, samples): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with('#'));
    assert_eq!(told[0], format!("# TYPE fuzz_bytes {}", kind.label()));
    assert_eq!(told[1], "# UNIT fuzz_bytes bytes");
    let read = told[2].strip_prefix("# HELP fuzz_bytes ").expect("the help is told");
    let (read, rest) = unescaped(read);
    assert_eq!((told.len(), read.as_str(), rest), (3, help, ""));
    samples.into_iter().map(sample).collect()
}

/// One line; an exemplar stays with the value. This writer has no timestamps.
///
/// From: OpenMetrics 1.0.0, §"ABNF".
fn sample(line: &str) -> Sample {
    let (name, mut rest) = line.split_once('{').expect("the metrics have labels");
    let mut labels = Vec::new();
    loop {
        let (label, value) = rest.split_once("=\"").expect("a label has a value");
        let (value, after) = unescaped(value);
        labels.push((label.to_owned(), value));
        let after = after.strip_prefix('"').expect("a value ends");
        if let Some(next) = after.strip_prefix(',') {
            rest = next;
        } else {
            let value = after.strip_prefix("} ").expect("the labels end");
            return Sample { name: name.to_owned(), labels, value: value.to_owned() };
        }
    }
}

/// An escaped text up to its end or to a quotation mark, and what is behind it.
fn unescaped(text: &str) -> (String, &str) {
    let mut read = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (read, &text[at..]),
            '\\' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => read.push('\n'),
                Some(escaped @ ('"' | '\\')) => read.push(escaped),
                other => unreachable!("no escape: {other:?}"),
            },
            plain => read.push(plain),
        }
    }
    (read, "")
}
