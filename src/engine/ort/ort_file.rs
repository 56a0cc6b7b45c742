//! Reads from a file of ONNX Runtime's own format (`.ort`) what `graph_file.rs` reads from an ONNX file.
//!
//! Such a file is a flatbuffer: tables whose fields stand at offsets that a *vtable* lists by slot. A few numbers are
//! read at their places, so a file of gigabytes costs milliseconds. A version of the format that is laid out otherwise
//! leaves the operators unknown, and whoever asks for them has to choose what is right for all graphs.
//!
//! From: the flatbuffers encoding, and `ort.fbs` of ONNX Runtime (the order of the fields).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::graph_file::Operators;

const IDENTIFIER: &[u8; 4] = b"ORTM";

/// Places of fields in vtables: 4 bytes of sizes, then 2 bytes a field.
const SESSION_MODEL: u64 = 6;
const MODEL_GRAPH: u64 = 18;
const GRAPH_INITIALIZERS: u64 = 4;
const GRAPH_NODES: u64 = 8;
const NODE_OP_TYPE: u64 = 14;
const TENSOR_DIMENSIONS: u64 = 8;

const LONGEST_NAME: u32 = 256;
const MOST_DIMENSIONS: u32 = 16;

/// Counts the operators of the main graph, or none of them where the file's layout is not the known one.
///
/// # Errors
/// The file cannot be read or is of another format.
pub(super) fn scan(file: &File, length: u64) -> io::Result<Operators> {
    let buffer = Buffer { file };
    let mut identifier = [0; 4];
    file.read_exact_at(&mut identifier, 4)?;
    if identifier != *IDENTIFIER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not in ONNX Runtime's own format"));
    }
    // What cannot be read is counted as numbers of four bytes: the size is all that is known of it.
    let unknown = Operators { parameters: length / size_of::<f32>() as u64, ..Operators::default() };
    Ok(read_graph(&buffer).ok().flatten().unwrap_or(unknown))
}

/// `None` when something is not where it should be.
fn read_graph(buffer: &Buffer<'_>) -> io::Result<Option<Operators>> {
    let session = buffer.follow(0)?;
    let Some(model) = buffer.inner(session, SESSION_MODEL)? else { return Ok(None) };
    let Some(graph) = buffer.inner(model, MODEL_GRAPH)? else { return Ok(None) };
    let mut operators = Operators::default();
    for node in buffer.items(graph, GRAPH_NODES)? {
        let Some(name) = buffer.inner(node, NODE_OP_TYPE)? else { return Ok(None) };
        *operators.counts.entry(buffer.text(name)?).or_default() += 1;
    }
    for tensor in buffer.items(graph, GRAPH_INITIALIZERS)? {
        let numbers = match buffer.inner(tensor, TENSOR_DIMENSIONS)? {
            Some(dimensions) => buffer.product(dimensions)?,
            None => 1,
        };
        operators.parameters = operators.parameters.saturating_add(numbers);
    }
    Ok((!operators.counts.is_empty()).then_some(operators))
}

/// A flatbuffer in a file; all places are offsets from its beginning.
struct Buffer<'a> {
    file: &'a File,
}

impl Buffer<'_> {
    fn bytes<const N: usize>(&self, place: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, place)?;
        Ok(bytes)
    }

    fn number(&self, place: u64) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(place)?))
    }

    /// Where the offset at `place` points to.
    fn follow(&self, place: u64) -> io::Result<u64> {
        Ok(place + u64::from(self.number(place)?))
    }

    /// The table, vector or text in the field of a table; `None` when the field is not set.
    fn inner(&self, table: u64, field: u64) -> io::Result<Option<u64>> {
        let back = i64::from(i32::from_le_bytes(self.bytes(table)?));
        let vtable = table.checked_add_signed(-back).ok_or(io::ErrorKind::InvalidData)?;
        if field >= u64::from(u16::from_le_bytes(self.bytes(vtable)?)) {
            return Ok(None);
        }
        match u16::from_le_bytes(self.bytes(vtable + field)?) {
            0 => Ok(None),
            offset => self.follow(table + u64::from(offset)).map(Some),
        }
    }

    /// The tables of a vector in the field of a table.
    fn items(&self, table: u64, field: u64) -> io::Result<Vec<u64>> {
        let Some(vector) = self.inner(table, field)? else { return Ok(Vec::new()) };
        (0..u64::from(self.number(vector)?)).map(|item| self.follow(vector + 4 + 4 * item)).collect()
    }

    fn text(&self, place: u64) -> io::Result<String> {
        let length = self.number(place)?;
        if length > LONGEST_NAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, place + 4)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    /// The product of a vector of 64-bit numbers.
    fn product(&self, vector: u64) -> io::Result<u64> {
        let dimensions = self.number(vector)?;
        if dimensions > MOST_DIMENSIONS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        (0..u64::from(dimensions)).try_fold(1_u64, |product, dimension| {
            let size = i64::from_le_bytes(self.bytes(vector + 4 + 8 * dimension)?);
            Ok(product.saturating_mul(u64::try_from(size).unwrap_or(1)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scan_bytes(content: &[u8]) -> io::Result<Operators> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        scan(&file, content.len() as u64)
    }

    /// A table with one field, `inner`, which is laid behind it.
    fn table(field: u64, inner: &[u8]) -> Vec<u8> {
        // The vtable stands before the table; the table holds the way back to it and the offset of the field.
        let vtable_bytes = field as u16 + 2;
        let mut bytes = vtable_bytes.to_le_bytes().to_vec();
        bytes.extend(8_u16.to_le_bytes());
        bytes.resize(field as usize, 0);
        bytes.extend(4_u16.to_le_bytes());
        bytes.extend(i32::from(vtable_bytes).to_le_bytes());
        bytes.extend(inner);
        bytes
    }

    #[test]
    fn operators_are_counted_where_the_vtables_say() {
        let name = [&3_u32.to_le_bytes()[..], b"Add\0"].concat();
        let node = table(NODE_OP_TYPE, &[&4_u32.to_le_bytes()[..], &name].concat());
        // A vector of one table, whose root stands behind its vtable.
        let to_node = 4 + NODE_OP_TYPE as u32 + 2;
        let nodes = [&1_u32.to_le_bytes()[..], &to_node.to_le_bytes(), &node].concat();
        let graph = table(GRAPH_NODES, &[&4_u32.to_le_bytes()[..], &nodes].concat());
        let inner = |vtable: u64| (4 + vtable as u32 + 2).to_le_bytes();
        let model = table(MODEL_GRAPH, &[&inner(GRAPH_NODES)[..], &graph].concat());
        let session = table(SESSION_MODEL, &[&inner(MODEL_GRAPH)[..], &model].concat());
        let root = (8 + SESSION_MODEL as u32 + 2).to_le_bytes();
        let file = [&root[..], IDENTIFIER, &session].concat();
        let operators = scan_bytes(&file).unwrap();
        assert!(operators.are_known());
        assert_eq!((operators.count("Add"), operators.count("MatMul")), (1, 0));
        for length in 8..file.len() - 1 {
            assert!(!scan_bytes(&file[..length]).unwrap().are_known(), "{length} of {} bytes", file.len());
        }
    }

    #[test]
    fn another_format_is_an_error_and_another_layout_is_unknown() {
        assert!(scan_bytes(b"<html></html>").is_err());
        let operators = scan_bytes(&[b"\xff\0\0\0ORTM", &[0xff; 400][..]].concat()).unwrap();
        assert!(!operators.are_known());
        assert_eq!(operators.parameters(), 102);
    }
}
