//! Reads from an ONNX file what ONNX Runtime's session does not tell: which operators the graph is made of, and how
//! large it is.
//!
//! A reader for the few fields of the protobuf encoding that matter (`ModelProto.graph`, `GraphProto.{node,initializer}`,
//! `NodeProto.op_type`, `TensorProto.{dims,external_data}`); weights are skipped by seeking, so a file of gigabytes costs milliseconds.
//! Files come from strangers: what is read and what is kept are bounded, because a hole in a file reads as text without end.
//!
//! From: the protocol buffers encoding (wire types) and `onnx.proto` (field numbers).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use super::{OrtError, ort_file};

const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const NODE_OP_TYPE: u64 = 4;
const TENSOR_DIMENSIONS: u64 = 1;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;

/// A node is some names and attributes; constants inside are small. A larger one is not a graph we know.
const MAX_NODE_BYTES: u64 = 64 << 20;

/// A key, and a name of a file or a number.
const MAX_ENTRY_BYTES: u64 = 4096;

/// Protobuf has no larger messages.
const MOST_FILE_BYTES: u64 = 2 << 30;

/// Most fields of all messages together: a hundred for each node of the largest graphs. So many take some tenths of a second.
const MOST_FIELDS: u32 = 1 << 24;

/// Longest name of anything.
pub(super) const LONGEST_NAME: u64 = 4096;

/// Dimensions of a tensor, packed: 64 numbers of ten bytes.
const MOST_PACKED_BYTES: u64 = 640;

/// Most kinds of operators, and most files of weights: some exporters give each weight a file of its own.
const MOST_KINDS: usize = 4096;
const MOST_DATA_FILES: usize = 1 << 14;

/// How often each operator stands in the main graph (subgraphs of `If` and `Loop` are not looked into), and how many
/// numbers its weights hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Operators {
    pub(super) counts: BTreeMap<String, usize>,
    pub(super) parameters: u64,
    /// The files beside the graph that hold weights, as the graph names them.
    pub(super) data_files: BTreeSet<String>,
}

impl Operators {
    /// Whether the file could be read: one of ONNX Runtime's own format may be of a version that is not known here.
    pub(super) fn are_known(&self) -> bool {
        !self.counts.is_empty()
    }

    pub(super) fn count(&self, operator: &str) -> usize {
        self.counts.get(operator).copied().unwrap_or(0)
    }

    /// Numbers in the weights, embeddings included; two weights of 4 bits count as one number.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters
    }
}

/// Whether a file is in ONNX Runtime's own format, which is no protobuf.
pub(super) fn is_ort_format(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ort")
}

/// Counts the operators of the graph in `path`.
///
/// # Errors
/// The file cannot be read or is not the encoding of a model.
pub(super) fn scan(path: &Path) -> Result<Operators, OrtError> {
    let invalid = |message: String| OrtError::InvalidGraph { path: path.to_owned(), message };
    let file = File::open(path).map_err(|error| invalid(error.to_string()))?;
    let length = file.metadata().map_err(|error| invalid(error.to_string()))?.len();
    if is_ort_format(path) {
        return ort_file::scan(&file, length).map_err(|error| invalid(error.to_string()));
    }
    let mut reader = Reader::of_file(file, length).map_err(|error| invalid(error.to_string()))?;
    scan_model(&mut reader, length).map_err(|error| invalid(error.to_string()))
}

fn scan_model<R: Read + Seek>(reader: &mut Reader<R>, length: u64) -> std::io::Result<Operators> {
    let mut operators = Operators::default();
    let mut graphs = 0;
    while reader.position < length {
        let field = reader.field(length)?;
        if field.number == MODEL_GRAPH && field.is_bytes {
            graphs += 1;
            scan_graph(reader, field.end, &mut operators)?;
        }
        reader.skip_to(field.end)?;
    }
    if graphs == 1 && !operators.counts.is_empty() {
        Ok(operators)
    } else {
        Err(invalid_data("no graph with nodes in it"))
    }
}

fn scan_graph<R: Read + Seek>(
    reader: &mut Reader<R>,
    end: u64,
    operators: &mut Operators,
) -> std::io::Result<()> {
    while reader.position < end {
        let field = reader.field(end)?;
        if field.number == GRAPH_NODE && field.is_bytes {
            let operator = node_operator(reader, field.end)?;
            *operators.counts.entry(operator).or_default() += 1;
            if operators.counts.len() > MOST_KINDS {
                return Err(invalid_data("more kinds of operators than there are"));
            }
        }
        if field.number == GRAPH_INITIALIZER && field.is_bytes {
            let numbers = scan_tensor(reader, field.end, &mut operators.data_files)?;
            operators.parameters = operators.parameters.saturating_add(numbers);
            if operators.data_files.len() > MOST_DATA_FILES {
                return Err(invalid_data("more files of weights than a model has"));
            }
        }
        reader.skip_to(field.end)?;
    }
    Ok(())
}

fn node_operator<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> std::io::Result<String> {
    if end - reader.position > MAX_NODE_BYTES {
        return Err(invalid_data("a node of more than 64 MiB"));
    }
    while reader.position < end {
        let field = reader.field(end)?;
        if field.number == NODE_OP_TYPE && field.is_bytes {
            return reader.string(field.end);
        }
        reader.skip_to(field.end)?;
    }
    Err(invalid_data("a node without an operator"))
}

/// The product of a tensor's dimensions, which come one by one or packed; notes the file that holds it.
fn scan_tensor<R: Read + Seek>(
    reader: &mut Reader<R>,
    end: u64,
    data_files: &mut BTreeSet<String>,
) -> std::io::Result<u64> {
    let mut numbers = 1u64;
    while reader.position < end {
        let field = reader.field(end)?;
        if field.number == TENSOR_DIMENSIONS && field.is_bytes {
            for size in reader.packed(field.end)? {
                numbers = numbers.saturating_mul(size);
            }
        } else if field.number == TENSOR_DIMENSIONS {
            numbers = numbers.saturating_mul(field.varint);
        } else if field.number == TENSOR_EXTERNAL_DATA && field.is_bytes {
            data_files.extend(data_file(reader, field.end)?);
        }
        reader.skip_to(field.end)?;
    }
    Ok(numbers)
}

/// The value of an entry with the key `location`.
fn data_file<R: Read + Seek>(reader: &mut Reader<R>, end: u64) -> std::io::Result<Option<String>> {
    if end - reader.position > MAX_ENTRY_BYTES {
        return Err(invalid_data("a place of weights of more than 4 KiB"));
    }
    let (mut key, mut value) = (String::new(), None);
    while reader.position < end {
        let field = reader.field(end)?;
        if field.number == ENTRY_KEY && field.is_bytes {
            key = reader.string(field.end)?;
        } else if field.number == ENTRY_VALUE && field.is_bytes {
            value = Some(reader.string(field.end)?);
        }
        reader.skip_to(field.end)?;
    }
    Ok(value.filter(|_| key == "location"))
}

/// One field of a message: its number, and where its value ends.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) is_bytes: bool,
    /// The value of a field of wire type 0, else 0.
    pub(super) varint: u64,
    pub(super) end: u64,
}

pub(super) struct Reader<R> {
    input: BufReader<R>,
    pub(super) position: u64,
    /// Fields that may still be read.
    pub(super) fields_left: u32,
}

impl Reader<File> {
    /// A reader of a file from where it stands, which is its beginning.
    ///
    /// # Errors
    /// It is larger than an ONNX file can be.
    pub(super) fn of_file(file: File, length: u64) -> std::io::Result<Self> {
        if length > MOST_FILE_BYTES {
            let message = format!("it has {length} bytes, and no ONNX file has more than {MOST_FILE_BYTES}");
            return Err(invalid_data(&message));
        }
        Ok(Self { input: BufReader::new(file), position: 0, fields_left: MOST_FIELDS })
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads a field's key, and the length of a length-delimited one; `limit` is the end of the enclosing message.
    pub(super) fn field(&mut self, limit: u64) -> std::io::Result<Field> {
        self.fields_left =
            self.fields_left.checked_sub(1).ok_or_else(|| invalid_data("more fields than a model has"))?;
        let key = self.varint()?;
        let wire_type = key & 7;
        let mut varint = 0;
        let end = match wire_type {
            0 => {
                varint = self.varint()?;
                Some(self.position)
            }
            1 => self.position.checked_add(8),
            2 => {
                let length = self.varint()?;
                self.position.checked_add(length)
            }
            5 => self.position.checked_add(4),
            _ => None,
        };
        match end {
            Some(end) if end <= limit && key >> 3 != 0 => {
                Ok(Field { number: key >> 3, is_bytes: wire_type == 2, varint, end })
            }
            _ => Err(invalid_data("not the encoding of a model, or cut short")),
        }
    }

    pub(super) fn varint(&mut self) -> std::io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0u8];
            self.input.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid_data("a number of more than ten bytes"))
    }

    /// The numbers of a packed field, such as the dimensions of a tensor.
    pub(super) fn packed(&mut self, end: u64) -> std::io::Result<Vec<u64>> {
        if end - self.position > MOST_PACKED_BYTES {
            return Err(invalid_data("a tensor of more dimensions than there are"));
        }
        let mut numbers = Vec::new();
        while self.position < end {
            numbers.push(self.varint()?);
        }
        Ok(numbers)
    }

    pub(super) fn string(&mut self, end: u64) -> std::io::Result<String> {
        let length = end - self.position;
        if length > LONGEST_NAME {
            return Err(invalid_data("a name of more than 4 KiB"));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        self.position = end;
        String::from_utf8(bytes).map_err(|_not_utf8| invalid_data("an operator name that is not UTF-8"))
    }

    pub(super) fn skip_to(&mut self, end: u64) -> std::io::Result<()> {
        let distance = end.checked_sub(self.position).and_then(|distance| i64::try_from(distance).ok());
        let distance = distance.ok_or_else(|| invalid_data("a field that is longer than it says"))?;
        if distance > 0 {
            self.input.seek_relative(distance)?;
            self.position = end;
        }
        Ok(())
    }
}

pub(super) fn invalid_data(message: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::protobuf::{write_bytes, write_number};
    use super::*;

    /// A length-delimited field.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        write_bytes(&mut encoded, u64::from(number), value);
        encoded
    }

    fn model(operators: &[&str]) -> Vec<u8> {
        let nodes: Vec<u8> = operators
            .iter()
            .flat_map(|operator| bytes(1, &[bytes(1, b"input"), bytes(4, operator.as_bytes())].concat()))
            .collect();
        // Dimensions 3 × 200, one by one, then a name and raw data.
        let one_by_one = [vec![0x08, 3, 0x08, 0xc8, 1], bytes(8, b"weight"), bytes(9, &[0xff; 8])].concat();
        let entry = |key: &[u8], value: &[u8]| bytes(13, &[bytes(1, key), bytes(2, value)].concat());
        let place = [entry(b"location", b"model.onnx_data_1"), entry(b"offset", b"4096")].concat();
        let packed = [bytes(1, &[7, 5]), place].concat();
        let weights = [bytes(5, &one_by_one), bytes(5, &packed)].concat();
        [vec![0x08, 9], bytes(7, &[weights, nodes].concat())].concat()
    }

    fn scan_bytes(content: &[u8]) -> Result<Operators, OrtError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        scan(file.path())
    }

    #[test]
    fn operators_are_counted_and_weights_are_skipped() {
        let operators = scan_bytes(&model(&["MatMul", "GroupQueryAttention", "MatMul"])).unwrap();
        assert_eq!(operators.count("MatMul"), 2);
        assert_eq!(operators.count("GroupQueryAttention"), 1);
        assert_eq!(operators.count("If"), 0);
        assert_eq!(operators.parameters(), 3 * 200 + 7 * 5);
        assert_eq!(operators.data_files.into_iter().collect::<Vec<_>>(), ["model.onnx_data_1"]);
    }

    #[test]
    fn every_truncation_is_an_error_and_no_panic() {
        let whole = model(&["MatMul", "Add"]);
        for length in 0..whole.len() {
            assert!(scan_bytes(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn text_is_not_a_model() {
        let message = scan_bytes(b"<!DOCTYPE html><html></html>").unwrap_err().to_string();
        assert!(message.contains("is not a usable ONNX file"), "{message}");
    }

    /// The head of a field of so many bytes, which may be a hole in the file.
    fn head(number: u64, length: u64) -> Vec<u8> {
        let mut encoded = Vec::new();
        write_number(&mut encoded, number, length);
        // A number and a length differ in the key alone.
        encoded[0] |= 2;
        encoded
    }

    #[test]
    fn holes_in_a_file_are_neither_names_nor_dimensions() {
        const HOLE: u64 = 1 << 30;
        let inside = |number: u64, inner: Vec<u8>| [head(number, inner.len() as u64 + HOLE), inner].concat();
        for (inner, part) in [
            (inside(1, head(4, HOLE)), "64 MiB"),
            (inside(5, head(1, HOLE)), "dimensions"),
            (inside(5, inside(13, head(2, HOLE))), "4 KiB"),
        ] {
            let graph = inside(7, [bytes(1, &bytes(4, b"Add")), inner].concat());
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&graph).unwrap();
            file.as_file().set_len(graph.len() as u64 + HOLE).unwrap();
            let message = scan(file.path()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let long = scan_bytes(&model(&["a".repeat(LONGEST_NAME as usize + 1).as_str()])).unwrap_err();
        assert!(long.to_string().contains("a name of more than 4 KiB"), "{long}");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MOST_FILE_BYTES + 1).unwrap();
        let large = scan(file.path()).unwrap_err().to_string();
        assert!(large.contains("no ONNX file has more than"), "{large}");
    }

    #[test]
    fn what_is_kept_of_a_file_and_the_fields_that_are_read_are_bounded() {
        let kinds: Vec<String> = (0..=MOST_KINDS).map(|number| format!("Operator{number}")).collect();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        assert!(scan_bytes(&model(&kinds[..MOST_KINDS])).is_ok());
        let error = scan_bytes(&model(&kinds)).map(drop).unwrap_err().to_string();
        assert!(error.contains("more kinds of operators"), "{error}");

        let place =
            |name: String| bytes(5, &bytes(13, &[bytes(1, b"location"), bytes(2, name.as_bytes())].concat()));
        let weights: Vec<u8> = (0..=MOST_DATA_FILES).flat_map(|number| place(number.to_string())).collect();
        let graph = bytes(7, &[bytes(1, &bytes(4, b"Add")), weights].concat());
        let error = scan_bytes(&graph).map(drop).unwrap_err().to_string();
        assert!(error.contains("more files of weights"), "{error}");

        let whole = model(&["MatMul", "Add"]);
        let scanned = |fields_left: u32| {
            let input = BufReader::new(std::io::Cursor::new(&whole));
            scan_model(&mut Reader { input, position: 0, fields_left }, whole.len() as u64)
        };
        assert!(scanned(MOST_FIELDS).is_ok());
        assert!(scanned(20).unwrap_err().to_string().contains("more fields"));
    }
}
