//! Reads from a file of ONNX Runtime's own format (`.ort`) what `graph_file.rs` reads from an ONNX file.
//!
//! Such a file is a flatbuffer: tables whose fields stand at offsets that a *vtable* lists by slot. A few numbers are
//! read at their places, so a file of gigabytes costs milliseconds. A version of the format that is laid out otherwise
//! leaves the operators unknown, and whoever asks for them has to choose what is right for all graphs. So does a file that
//! claims more than any model has: offsets may lead anywhere and to the same place again, so counts and reads are bounded.
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

/// Most nodes, and most weights: the largest graphs have some 10^5 nodes. Looking at so many takes a fifth of a second.
const MOST_ITEMS: u32 = 1 << 18;

/// Most kinds of operators: ONNX and ONNX Runtime have some hundreds.
const MOST_OPERATORS: usize = 4096;

/// What is read at once. Nodes lie close together, and so do the parts of a weight.
const BLOCK_BYTES: usize = 4096;

/// Blocks that are kept: a node, its name and the vtable that it shares with others are three.
const KEPT_BLOCKS: usize = 64;

/// Most blocks that are read: half a gigabyte of nodes. One takes some microseconds even where a sparse file has nothing.
const MOST_BLOCKS: u32 = 1 << 17;

/// Counts the operators of the main graph, or none of them where the file's layout is not the known one.
///
/// # Errors
/// The file cannot be read or is of another format.
pub(super) fn scan(file: &File, length: u64) -> io::Result<Operators> {
    let mut identifier = [0; 4];
    file.read_exact_at(&mut identifier, 4)?;
    if identifier != *IDENTIFIER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not in ONNX Runtime's own format"));
    }
    // What cannot be read is counted as numbers of four bytes: the size is all that is known of it.
    let unknown = Operators { parameters: length / size_of::<f32>() as u64, ..Operators::default() };
    Ok(read_graph(&mut Buffer::new(file, length)).ok().flatten().unwrap_or(unknown))
}

/// `None` when something is not where it should be.
fn read_graph(buffer: &mut Buffer<'_>) -> io::Result<Option<Operators>> {
    let session = buffer.follow(0)?;
    let Some(model) = buffer.inner(session, SESSION_MODEL)? else { return Ok(None) };
    let Some(graph) = buffer.inner(model, MODEL_GRAPH)? else { return Ok(None) };
    let mut operators = Operators::default();
    for node in buffer.items(graph, GRAPH_NODES)? {
        let Some(name) = buffer.inner(node, NODE_OP_TYPE)? else { return Ok(None) };
        *operators.counts.entry(buffer.text(name)?).or_default() += 1;
        if operators.counts.len() > MOST_OPERATORS {
            return Ok(None);
        }
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
    length: u64,
    /// A block lies at its number modulo [`KEPT_BLOCKS`].
    kept: Vec<Block>,
    /// Blocks that may still be read.
    blocks_left: u32,
}

#[derive(Clone, Default)]
struct Block {
    /// `None` when nothing has been read.
    number: Option<u64>,
    bytes: Vec<u8>,
}

impl<'a> Buffer<'a> {
    fn new(file: &'a File, length: u64) -> Self {
        Self { file, length, kept: vec![Block::default(); KEPT_BLOCKS], blocks_left: MOST_BLOCKS }
    }

    /// Fills `bytes` with what stands at `place`.
    fn read(&mut self, place: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        if place.checked_add(bytes.len() as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut place = place;
        while !bytes.is_empty() {
            let block = self.block(place / BLOCK_BYTES as u64)?;
            let there = &block[(place % BLOCK_BYTES as u64) as usize..];
            let (now, later) = bytes.split_at_mut(there.len().min(bytes.len()));
            now.copy_from_slice(&there[..now.len()]);
            place += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// A block of the file, of which the last one is shorter.
    fn block(&mut self, number: u64) -> io::Result<&[u8]> {
        let kept = &mut self.kept[(number % KEPT_BLOCKS as u64) as usize];
        if kept.number != Some(number) {
            self.blocks_left = self.blocks_left.checked_sub(1).ok_or(io::ErrorKind::InvalidData)?;
            let begin = number * BLOCK_BYTES as u64;
            kept.number = None;
            kept.bytes.resize((self.length - begin).min(BLOCK_BYTES as u64) as usize, 0);
            self.file.read_exact_at(&mut kept.bytes, begin)?;
            kept.number = Some(number);
        }
        Ok(&kept.bytes)
    }

    fn bytes<const N: usize>(&mut self, place: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(place, &mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self, place: u64) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(place)?))
    }

    /// Where the offset at `place` points to.
    fn follow(&mut self, place: u64) -> io::Result<u64> {
        Ok(place + u64::from(self.number(place)?))
    }

    /// The table, vector or text in the field of a table; `None` when the field is not set.
    fn inner(&mut self, table: u64, field: u64) -> io::Result<Option<u64>> {
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
    fn items(&mut self, table: u64, field: u64) -> io::Result<Vec<u64>> {
        let Some(vector) = self.inner(table, field)? else { return Ok(Vec::new()) };
        let (items, first) = (self.number(vector)?, vector + 4);
        let room = self.length.saturating_sub(first) / 4;
        if items > MOST_ITEMS || u64::from(items) > room {
            return Err(io::ErrorKind::InvalidData.into());
        }
        (0..u64::from(items)).map(|item| self.follow(first + 4 * item)).collect()
    }

    fn text(&mut self, place: u64) -> io::Result<String> {
        let length = self.number(place)?;
        if length > LONGEST_NAME {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length as usize];
        self.read(place + 4, &mut bytes)?;
        String::from_utf8(bytes).map_err(io::Error::other)
    }

    /// The product of a vector of 64-bit numbers.
    fn product(&mut self, vector: u64) -> io::Result<u64> {
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

    /// A file whose graph has these nodes: the content of a vector of tables, without its length.
    fn file_of(items: u32, nodes: &[u8]) -> Vec<u8> {
        let nodes = [&items.to_le_bytes()[..], nodes].concat();
        let graph = table(GRAPH_NODES, &[&4_u32.to_le_bytes()[..], &nodes].concat());
        let inner = |vtable: u64| (4 + vtable as u32 + 2).to_le_bytes();
        let model = table(MODEL_GRAPH, &[&inner(GRAPH_NODES)[..], &graph].concat());
        let session = table(SESSION_MODEL, &[&inner(MODEL_GRAPH)[..], &model].concat());
        let root = (8 + SESSION_MODEL as u32 + 2).to_le_bytes();
        [&root[..], IDENTIFIER, &session].concat()
    }

    fn node(operator: &[u8]) -> Vec<u8> {
        let name = [&(operator.len() as u32).to_le_bytes()[..], operator, b"\0"].concat();
        table(NODE_OP_TYPE, &[&4_u32.to_le_bytes()[..], &name].concat())
    }

    /// Where the root of a node is from the beginning of its vtable.
    const ROOT: u32 = NODE_OP_TYPE as u32 + 2;

    /// A vector of so many tables, which are all the same node.
    fn same_nodes(items: u32) -> Vec<u8> {
        let offsets = (0..items).flat_map(|item| (4 * (items - item) + ROOT).to_le_bytes());
        file_of(items, &[offsets.collect(), node(b"Add")].concat())
    }

    #[test]
    fn operators_are_counted_where_the_vtables_say() {
        let file = same_nodes(1);
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

    #[test]
    fn a_count_that_no_model_has_leaves_the_operators_unknown() {
        let most = scan_bytes(&same_nodes(MOST_ITEMS)).unwrap();
        assert_eq!(most.count("Add"), MOST_ITEMS as usize);
        assert!(!scan_bytes(&same_nodes(MOST_ITEMS + 1)).unwrap().are_known());
        // The rest of the file is a hole, in which every offset leads to itself.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&file_of(u32::MAX, &[])).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(!scan(&file, 1 << 40).unwrap().are_known());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&file_of(MOST_ITEMS, &[])).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(!scan(&file, 1 << 40).unwrap().are_known());
        // More than the file has room for.
        assert!(!scan_bytes(&file_of(MOST_ITEMS, &[0; 64])).unwrap().are_known());
    }

    #[test]
    fn names_without_end_leave_the_operators_unknown() {
        let nodes = (0..=MOST_OPERATORS as u32).map(|number| node(format!("{number:04}").as_bytes()));
        let nodes: Vec<Vec<u8>> = nodes.collect();
        let bytes = nodes[0].len() as u32;
        let of = |count: u32| {
            let offsets =
                (0..count).flat_map(|item| (4 * (count - item) + item * bytes + ROOT).to_le_bytes());
            file_of(count, &[offsets.collect(), nodes[..count as usize].concat()].concat())
        };
        assert!(scan_bytes(&of(MOST_OPERATORS as u32)).unwrap().are_known());
        assert!(!scan_bytes(&of(MOST_OPERATORS as u32 + 1)).unwrap().are_known());
    }

    /// Nodes that are strewn over the file make every step another read.
    #[test]
    fn no_more_blocks_are_read_than_the_nodes_of_a_model_take() {
        const NODES: u32 = 1000;
        let mut nodes: Vec<u8> = (0..NODES)
            .flat_map(|item| (4 * (NODES - item) + (item % 500) * BLOCK_BYTES as u32 + ROOT).to_le_bytes())
            .collect();
        for _ in 0..500 {
            let mut block = node(b"Add");
            block.resize(BLOCK_BYTES, 0);
            nodes.extend(block);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&file_of(NODES, &nodes)).unwrap();
        let length = file.metadata().unwrap().len();
        let mut buffer = Buffer::new(&file, length);
        assert_eq!(read_graph(&mut buffer).unwrap().unwrap().count("Add"), NODES as usize);
        let read = MOST_BLOCKS - buffer.blocks_left;
        assert!((NODES..4 * NODES).contains(&read), "{read}");
        let mut buffer = Buffer { blocks_left: read - 1, ..Buffer::new(&file, length) };
        read_graph(&mut buffer).unwrap_err();
    }
}
