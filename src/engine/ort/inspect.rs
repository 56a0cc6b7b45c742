//! Looks into an ONNX file before ONNX Runtime does: whether it is a model at all, whether it asks for operators of others,
//! and which other files it would have read.
//!
//! Walks every message that can hold a tensor (graphs, subgraphs of attributes, functions, training parts) with a bound on
//! depth, on fields and on what is kept; weights are skipped by seeking. It opens no other file than the graph.
//!
//! From: `onnx.proto` (field numbers and element types), ONNX's "External data".

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::graph_file::{Field, LONGEST_NAME, Reader, invalid_data};

/// Graphs in graphs: `If` in `Loop` in `If` is three.
const DEEPEST: usize = 16;
/// Most bytes of names that are kept: of files, and of operators and domains of others.
const MOST_KEPT_BYTES: usize = 16 << 20;
/// What of an external tensor's entries says where its data lie.
const PLACES: [&str; 3] = ["location", "offset", "length"];
/// Operators of these domains are in the library, if anywhere.
const DOMAINS: [&str; 9] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.experimental",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
];
/// What ONNX Runtime takes for "the data lies at this address of the process".
const ADDRESS_MARKER: &str = "_ORT_MEM_ADDR_";

/// What an ONNX file says about itself.
#[derive(Debug, Default)]
pub struct Inspection {
    /// The files of its weights, as the graph names them, with the number of bytes that each must have.
    pub external: BTreeMap<String, u64>,
    /// Operators by domain, which the model neither defines itself nor can have of ONNX Runtime.
    foreign: BTreeSet<(String, String)>,
    /// Domains of functions that the model defines.
    own_domains: BTreeSet<String>,
    opsets: usize,
    graphs: usize,
    nodes: usize,
}

/// Why a file must not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphFault {
    /// It is no model, or a broken one.
    #[error("{0}")]
    Invalid(String),
    /// It asks for operators that do not exist here.
    #[error("{0}")]
    Unsupported(String),
    /// It asks for bytes that are not its own.
    #[error("{0}")]
    Unsafe(String),
}

impl From<std::io::Error> for GraphFault {
    fn from(error: std::io::Error) -> Self {
        Self::Invalid(if error.kind() == std::io::ErrorKind::UnexpectedEof {
            "it is cut short".to_owned()
        } else {
            error.to_string()
        })
    }
}

/// Walks through the file. Files in ONNX Runtime's own format (`.ort`) are only recognised.
///
/// # Errors
/// See [`GraphFault`]; the text says what the file is, not where it lies.
pub fn inspect(path: &Path) -> Result<Inspection, GraphFault> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    (&mut file).take(512).read_to_end(&mut head)?;
    if let Some(kind) = recognise(&head) {
        return Err(GraphFault::Invalid(format!("it is {kind}, not an ONNX model")));
    }
    if path.extension().is_some_and(|extension| extension == "ort") {
        return if head.get(4..8) == Some(b"ORTM") {
            Ok(Inspection::default())
        } else {
            Err(GraphFault::Invalid("it is not a model in the format of ONNX Runtime".to_owned()))
        };
    }
    file.rewind()?;
    let mut walk = Walk::new(Reader::of_file(file, length)?);
    walk.model(length)?;
    walk.found.judge()
}

/// The files that the tensors of a graph name for their bytes, without judging anything else of it.
///
/// # Errors
/// The file is no graph, or names a place that no file of a model can have.
pub fn external_files(file: File) -> Result<BTreeSet<String>, GraphFault> {
    let length = file.metadata()?.len();
    let mut walk = Walk::new(Reader::of_file(file, length)?);
    walk.model(length)?;
    if walk.found.graphs == 0 {
        return Err(GraphFault::Invalid("there is no graph in it".to_owned()));
    }
    Ok(walk.found.external.into_keys().collect())
}

/// What bytes that are no model look like.
fn recognise(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let begins = |magic: &[u8]| head.starts_with(magic);
    match () {
        () if head.is_empty() => Some("an empty file"),
        () if text.starts_with("<!doctype html") || text.starts_with("<html") || text.contains("<head") => {
            Some("an HTML page (an error page, or a page about the file)")
        }
        () if begins(b"version https://git-lfs") => Some("a Git LFS pointer (run `git lfs pull`)"),
        () if begins(b"PK\x03\x04") => Some("a ZIP archive (or PyTorch weights)"),
        () if begins(&[0x1f, 0x8b]) => Some("a gzip archive"),
        () if begins(&[0x28, 0xb5, 0x2f, 0xfd]) => Some("a zstd archive"),
        () if head.get(257..262) == Some(b"ustar") => Some("a tar archive"),
        () if begins(b"GGUF") => Some("a GGUF file"),
        () if head.get(8..10) == Some(b"{\"") => Some("a safetensors file"),
        () if begins(b"\x7fELF") => Some("a program or library"),
        () if text.starts_with("<?xml") => Some("an XML file"),
        () if begins(b"{") => Some("a JSON file"),
        () if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) => {
            Some("a text file")
        }
        () if head.iter().all(|byte| *byte == 0) => Some("a file of zeros"),
        () => None,
    }
}

impl Inspection {
    fn judge(self) -> Result<Self, GraphFault> {
        if self.graphs != 1 || self.nodes == 0 {
            return Err(GraphFault::Invalid("there is no graph with nodes in it".to_owned()));
        }
        if self.opsets == 0 {
            return Err(GraphFault::Invalid("it does not say which operator set it needs".to_owned()));
        }
        let foreign: Vec<String> = self
            .foreign
            .iter()
            .filter(|(domain, _)| !self.own_domains.contains(domain))
            .take(5)
            .map(|(domain, operator)| format!("{domain}::{operator}"))
            .collect();
        if foreign.is_empty() {
            Ok(self)
        } else {
            let list = foreign.join(", ");
            Err(GraphFault::Unsupported(format!(
                "it needs the custom operator {list}: no library is loaded for a model"
            )))
        }
    }
}

/// A tensor, as far as it says where its data lie.
#[derive(Default)]
struct Tensor {
    elements: Option<u64>,
    element_type: u64,
    is_external: bool,
    has_entries: bool,
    /// Those of [`PLACES`].
    entries: BTreeMap<String, String>,
}

/// What to do with a field of a message.
type Visit<R> = fn(&mut Walk<R>, Field, usize) -> Result<(), GraphFault>;

struct Walk<R> {
    reader: Reader<R>,
    found: Inspection,
    kept_bytes: usize,
}

impl<R: Read + Seek> Walk<R> {
    fn new(reader: Reader<R>) -> Self {
        Self { reader, found: Inspection::default(), kept_bytes: 0 }
    }

    fn model(&mut self, length: u64) -> Result<(), GraphFault> {
        self.each(length, 0, |walk, field, depth| match (field.number, field.is_bytes) {
            (7, true) => {
                walk.found.graphs += 1;
                walk.graph(field.end, depth)
            }
            (8, true) => {
                walk.found.opsets += 1;
                Ok(())
            }
            // A training part: initialization and algorithm are graphs.
            (20, true) => {
                walk.each(field.end, depth, |walk, field, depth| match (field.number, field.is_bytes) {
                    (1 | 2, true) => walk.graph(field.end, depth),
                    _ => Ok(()),
                })
            }
            (25, true) => walk.function(field.end, depth),
            _ => Ok(()),
        })
    }

    fn function(&mut self, end: u64, depth: usize) -> Result<(), GraphFault> {
        self.each(end, depth, |walk, field, depth| match (field.number, field.is_bytes) {
            (7, true) => walk.node(field.end, depth),
            (10, true) => {
                let domain = walk.name(field.end)?;
                let bytes = domain.len();
                if walk.found.own_domains.insert(domain) { walk.keep(bytes) } else { Ok(()) }
            }
            _ => Ok(()),
        })
    }

    fn graph(&mut self, end: u64, depth: usize) -> Result<(), GraphFault> {
        if depth > DEEPEST {
            return Err(GraphFault::Invalid(format!("its graphs are nested more than {DEEPEST} deep")));
        }
        self.each(end, depth, |walk, field, depth| match (field.number, field.is_bytes) {
            (1, true) => walk.node(field.end, depth),
            (5, true) => walk.tensor(field.end),
            (15, true) => walk.sparse_tensor(field.end, depth),
            // Inputs, outputs, inner values: a name first of all.
            (11..=13, true) => walk.each(field.end, depth, |walk, field, _| match field.number {
                1 if field.is_bytes => walk.name(field.end).map(drop),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })
    }

    fn node(&mut self, end: u64, depth: usize) -> Result<(), GraphFault> {
        self.found.nodes += 1;
        let (mut operator, mut domain) = (String::new(), String::new());
        while self.reader.position < end {
            let field = self.reader.field(end)?;
            let field_end = field.end;
            match (field.number, field.is_bytes) {
                (1..=3, true) => drop(self.name(field_end)?),
                (4, true) => operator = self.name(field_end)?,
                (7, true) => domain = self.name(field_end)?,
                (5, true) => self.attribute(field_end, depth)?,
                _ => {}
            }
            self.reader.skip_to(field_end)?;
        }
        if operator.is_empty() {
            return Err(GraphFault::Invalid("a node has no operator".to_owned()));
        }
        if !DOMAINS.contains(&domain.as_str()) {
            let bytes = domain.len() + operator.len();
            if self.found.foreign.insert((domain, operator)) {
                self.keep(bytes)?;
            }
        }
        Ok(())
    }

    fn attribute(&mut self, end: u64, depth: usize) -> Result<(), GraphFault> {
        self.each(end, depth, |walk, field, depth| match (field.number, field.is_bytes) {
            (1, true) => walk.name(field.end).map(drop),
            (5 | 10, true) => walk.tensor(field.end),
            (6 | 11, true) => walk.graph(field.end, depth + 1),
            (22 | 23, true) => walk.sparse_tensor(field.end, depth),
            _ => Ok(()),
        })
    }

    fn sparse_tensor(&mut self, end: u64, depth: usize) -> Result<(), GraphFault> {
        self.each(end, depth, |walk, field, _| match (field.number, field.is_bytes) {
            (1 | 2, true) => walk.tensor(field.end),
            _ => Ok(()),
        })
    }

    fn tensor(&mut self, end: u64) -> Result<(), GraphFault> {
        let mut tensor = Tensor { elements: Some(1), ..Tensor::default() };
        while self.reader.position < end {
            let field = self.reader.field(end)?;
            let field_end = field.end;
            match (field.number, field.is_bytes) {
                (1, false) => tensor.dimension(field.varint),
                (1, true) => {
                    for size in self.reader.packed(field_end)? {
                        tensor.dimension(size);
                    }
                }
                (2, false) => tensor.element_type = field.varint,
                (8, true) => drop(self.name(field_end)?),
                (13, true) => {
                    tensor.has_entries = true;
                    self.entry(field_end, &mut tensor.entries)?;
                }
                (14, false) => tensor.is_external = field.varint == 1,
                _ => {}
            }
            self.reader.skip_to(field_end)?;
        }
        if tensor.is_external || tensor.has_entries {
            let (location, bytes) = tensor.place()?;
            if !self.found.external.contains_key(&location) {
                self.keep(location.len())?;
            }
            let needed = self.found.external.entry(location).or_default();
            *needed = bytes.max(*needed);
        }
        Ok(())
    }

    /// A key and a value.
    fn entry(&mut self, end: u64, entries: &mut BTreeMap<String, String>) -> Result<(), GraphFault> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.reader.position < end {
            let field = self.reader.field(end)?;
            let field_end = field.end;
            match (field.number, field.is_bytes) {
                (1, true) => key = self.name(field_end)?,
                (2, true) => value = self.name(field_end)?,
                _ => {}
            }
            self.reader.skip_to(field_end)?;
        }
        if PLACES.contains(&key.as_str()) {
            entries.insert(key, value);
        }
        Ok(())
    }

    /// Counts a name that was kept; with what the map needs for it.
    fn keep(&mut self, bytes: usize) -> Result<(), GraphFault> {
        self.kept_bytes += bytes + size_of::<(String, String)>();
        if self.kept_bytes > MOST_KEPT_BYTES {
            return Err(GraphFault::Invalid("it has more names than a model has".to_owned()));
        }
        Ok(())
    }

    /// Visits the fields of a message, and skips what a visit has left.
    fn each(&mut self, end: u64, depth: usize, visit: Visit<R>) -> Result<(), GraphFault> {
        while self.reader.position < end {
            let field = self.reader.field(end)?;
            let field_end = field.end;
            visit(self, field, depth)?;
            self.reader.skip_to(field_end)?;
        }
        Ok(())
    }

    fn name(&mut self, end: u64) -> Result<String, GraphFault> {
        if end - self.reader.position > LONGEST_NAME {
            return Err(GraphFault::Invalid(format!("a name in it has more than {LONGEST_NAME} bytes")));
        }
        self.reader.string(end).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => invalid_data("a name in it is not UTF-8").into(),
            _ => error.into(),
        })
    }
}

impl Tensor {
    fn dimension(&mut self, size: u64) {
        self.elements = self.elements.and_then(|elements| elements.checked_mul(size));
    }

    /// The file of the data and the byte behind their last one.
    fn place(&self) -> Result<(String, u64), GraphFault> {
        let location = self.entries.get("location").map(String::as_str).unwrap_or_default();
        check_location(location)?;
        let number = |key: &str| {
            let text = self.entries.get(key).map_or("0", String::as_str);
            text.parse::<i64>().ok().and_then(|number| u64::try_from(number).ok()).ok_or_else(|| {
                GraphFault::Unsafe(format!("the {key} {text:?} of external data is not a place in a file"))
            })
        };
        let (offset, length) = (number("offset")?, number("length")?);
        let too_much = || GraphFault::Unsafe("a tensor in it is larger than any file".to_owned());
        let bytes = self.elements.and_then(|elements| bytes_of(elements, self.element_type));
        let bytes = bytes.ok_or_else(too_much)?;
        let end = offset.checked_add(length.max(bytes)).ok_or_else(too_much)?;
        Ok((location.to_owned(), end))
    }
}

/// A file below the model's folder, by a path that cannot mean anything else.
fn check_location(location: &str) -> Result<(), GraphFault> {
    let refuse = |why: &str| {
        let shown: String = location.chars().take(200).collect();
        Err(GraphFault::Unsafe(format!("the location {shown:?} of external data {why}")))
    };
    match () {
        () if location.is_empty() => refuse("is empty"),
        () if location.contains(ADDRESS_MARKER) => refuse("means the memory of the process"),
        () if location.starts_with(['/', '\\', '~']) || location.contains(':') => refuse("is not relative"),
        () if location.chars().any(|char| char.is_control() || char == '\\') => {
            refuse("holds a control character or a backslash")
        }
        () if location.split('/').any(|part| part == "..") => refuse("leaves the model's folder"),
        () if location.split('/').any(|part| part.is_empty() || part == ".") => refuse("is not a plain path"),
        () => Ok(()),
    }
}

/// Bytes of so many elements; of an unknown type, at least nothing.
fn bytes_of(elements: u64, element_type: u64) -> Option<u64> {
    match element_type {
        // Complex numbers of doubles.
        15 => elements.checked_mul(16),
        7 | 11 | 13 | 14 => elements.checked_mul(8),
        1 | 6 | 12 => elements.checked_mul(4),
        4 | 5 | 10 | 16 => elements.checked_mul(2),
        2 | 3 | 9 | 17..=20 | 24 => Some(elements),
        // Integers and floats of 4 bits.
        21..=23 => Some(elements.div_ceil(2)),
        25 | 26 => Some(elements.div_ceil(4)),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests;
