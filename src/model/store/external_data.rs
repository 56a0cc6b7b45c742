//! Which files a graph keeps its weights in, read from the graph itself.
//!
//! Walks the messages that can hold a tensor and skips everything else by seeking, so that gigabytes of
//! weights inside the file cost nothing. Knows no more of ONNX than where `TensorProto.external_data` can
//! stand.
//!
//! From: `onnx.proto` (field numbers), the protocol buffers encoding (wire types).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};

/// The messages on the way to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    /// A pair of texts: key and value.
    Entry,
}

/// Subgraphs in subgraphs; nobody's exporter comes near it.
const DEEPEST: usize = 64;
/// A key or value of a tensor's entry: a file name, an offset, a checksum.
const LONGEST_TEXT: u64 = 4096;
/// More files than a manifest can list.
const MOST_FILES: usize = 1024;

impl Message {
    /// What the field of this number holds, if tensors can be in it.
    fn child(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Tensor, 13) => Some(Self::Entry),
            _ => None,
        }
    }
}

/// The names that the tensors of a graph give for the files of their bytes, as they stand there.
///
/// # Errors
/// The file cannot be read or is not the encoding of a model.
pub(super) fn locations(file: File) -> io::Result<BTreeSet<String>> {
    let end = file.metadata()?.len();
    let mut walk = Walk { input: BufReader::new(file), position: 0, graphs: 0, found: BTreeSet::new() };
    walk.message(Message::Model, end, 0)?;
    if walk.graphs == 0 { Err(invalid("no graph in it")) } else { Ok(walk.found) }
}

struct Walk {
    input: BufReader<File>,
    position: u64,
    graphs: usize,
    found: BTreeSet<String>,
}

impl Walk {
    fn message(&mut self, message: Message, end: u64, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(invalid("graphs in graphs without end"));
        }
        self.graphs += usize::from(message == Message::Graph);
        let mut texts = [String::new(), String::new()];
        while self.position < end {
            let (number, is_message, value_end) = self.field(end)?;
            match (message.child(number), message) {
                (Some(child), _) if is_message => self.message(child, value_end, depth + 1)?,
                (_, Message::Entry) if is_message && (number == 1 || number == 2) => {
                    texts[usize::from(number == 2)] = self.text(value_end)?;
                }
                _ => {}
            }
            self.skip_to(value_end)?;
        }
        let [key, value] = texts;
        if key == "location" {
            self.found.insert(value);
            if self.found.len() > MOST_FILES {
                return Err(invalid("weights in more files than a model has"));
            }
        }
        Ok(())
    }

    /// A field's number, whether it is length-delimited, and where its value ends; stands at the value
    /// afterwards.
    fn field(&mut self, limit: u64) -> io::Result<(u64, bool, u64)> {
        let key = self.varint()?;
        let end = match key & 7 {
            0 => {
                self.varint()?;
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
            Some(end) if end <= limit && key >> 3 != 0 => Ok((key >> 3, key & 7 == 2, end)),
            _ => Err(invalid("not the encoding of a model, or cut short")),
        }
    }

    fn varint(&mut self) -> io::Result<u64> {
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
        Err(invalid("a number of more than ten bytes"))
    }

    fn text(&mut self, end: u64) -> io::Result<String> {
        let length = end - self.position;
        if length > LONGEST_TEXT {
            return Err(invalid("a file name that is longer than any"));
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(length).read_to_end(&mut bytes)?;
        self.position += bytes.len() as u64;
        String::from_utf8(bytes).map_err(|_not_utf8| invalid("a file name that is not UTF-8"))
    }

    fn skip_to(&mut self, end: u64) -> io::Result<()> {
        let distance = end.checked_sub(self.position).and_then(|distance| i64::try_from(distance).ok());
        let distance = distance.ok_or_else(|| invalid("a field that is longer than it says"))?;
        self.position = end;
        if distance > 0 { self.input.seek_relative(distance) } else { Ok(()) }
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    fn field(number: u64, value: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for mut varint in [number << 3 | 2, value.len() as u64] {
            while varint >= 0x80 {
                encoded.push(varint as u8 | 0x80);
                varint >>= 7;
            }
            encoded.push(varint as u8);
        }
        encoded.extend_from_slice(value);
        encoded
    }

    fn tensor(location: &str) -> Vec<u8> {
        let entry = |key: &str, value: &str| {
            field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
        };
        [field(8, b"weight"), entry("offset", "0"), entry("location", location)].concat()
    }

    /// An ONNX file with a node, and a weight in each of these files.
    pub(in crate::model::store) fn graph(locations: &[&str]) -> Vec<u8> {
        let weights: Vec<u8> = locations.iter().flat_map(|location| field(5, &tensor(location))).collect();
        [vec![0x08, 9], field(7, &[field(1, &field(4, b"MatMul")), weights].concat())].concat()
    }

    fn scan(content: &[u8]) -> io::Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        locations(File::open(file.path()).unwrap()).map(|found| found.into_iter().collect())
    }

    #[test]
    fn files_are_found_wherever_a_tensor_can_be() {
        assert_eq!(scan(&graph(&["a.data", "b.data", "a.data"])).unwrap(), ["a.data", "b.data"]);
        assert_eq!(scan(&graph(&[])).unwrap(), Vec::<String>::new());
        let subgraph = field(5, &tensor("inner"));
        let attribute =
            [field(6, &subgraph), field(5, &tensor("constant")), field(23, &field(1, &tensor("sparse")))];
        let function = field(25, &field(7, &field(5, &field(10, &tensor("function")))));
        let model = [field(7, &field(1, &field(5, &attribute.concat()))), function].concat();
        assert_eq!(scan(&model).unwrap(), ["constant", "function", "inner", "sparse"]);
    }

    #[test]
    fn what_is_no_model_is_an_error_and_no_panic() {
        assert!(scan(b"<!DOCTYPE html><html>not found</html>").is_err());
        assert!(scan(b"").is_err());
        let whole = graph(&["a.data"]);
        for length in 0..whole.len() {
            assert!(scan(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        let mut deep = field(4, b"x");
        for _ in 0..100 {
            deep = field(1, &field(5, &field(6, &deep)));
        }
        assert!(scan(&field(7, &deep)).is_err());
    }
}
