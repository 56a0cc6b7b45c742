//! The protocol buffers encoding, as far as ONNX files need it: walking the fields of a message in memory, and writing
//! fields.
//!
//! From: the protocol buffers encoding (wire types 0, 1, 2 and 5).

/// Most fields of a message: a graph has one for each node and each weight. A message of bytes that mean nothing would take
/// twenty times its size in memory.
const MOST_FIELDS: usize = 1 << 20;

/// A field of a message in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// The value of a length-delimited field.
    pub(super) bytes: Option<&'a [u8]>,
    /// The field as it stands, key and value.
    pub(super) whole: &'a [u8],
}

/// The fields of `message` in order; `None` when it is not an encoding, or has more fields than a graph has.
pub(super) fn fields(message: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        if found.len() == MOST_FIELDS {
            return None;
        }
        let (key, after_key) = varint(rest)?;
        let (bytes, after) = match key & 7 {
            0 => (None, varint(after_key)?.1),
            1 => (None, after_key.get(8..)?),
            2 => {
                let (length, value) = varint(after_key)?;
                let (bytes, after) = value.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(bytes), after)
            }
            5 => (None, after_key.get(4..)?),
            _ => return None,
        };
        let whole = &rest[..rest.len() - after.len()];
        found.push(Field { number: key >> 3, bytes, whole });
        rest = after;
    }
    Some(found)
}

/// The texts of all fields `number` of `message`.
pub(super) fn texts<'a>(message: &[Field<'a>], number: u64) -> Vec<&'a str> {
    let values = message.iter().filter(|field| field.number == number).filter_map(|field| field.bytes);
    values.filter_map(|bytes| std::str::from_utf8(bytes).ok()).collect()
}

/// Appends a length-delimited field.
pub(super) fn write_bytes(message: &mut Vec<u8>, number: u64, value: &[u8]) {
    write_varint(message, number << 3 | 2);
    write_varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

/// Appends a number.
pub(super) fn write_number(message: &mut Vec<u8>, number: u64, value: u64) {
    write_varint(message, number << 3);
    write_varint(message, value);
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn write_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_of_more_fields_than_a_graph_has_is_not_read() {
        let most = [0x08, 1].repeat(MOST_FIELDS);
        assert_eq!(fields(&most).map(|fields| fields.len()), Some(MOST_FIELDS));
        assert!(fields(&[&most[..], &[0x08, 1]].concat()).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec((1u64..1000, prop::collection::vec(any::<u8>(), 0..300), any::<u64>()), 0..20)) {
            let mut message = Vec::new();
            for (number, bytes, integer) in &values {
                write_bytes(&mut message, *number, bytes);
                write_number(&mut message, *number, *integer);
            }
            let found = fields(&message).unwrap();
            prop_assert_eq!(found.len(), 2 * values.len());
            for (pair, (number, bytes, _)) in found.chunks_exact(2).zip(&values) {
                prop_assert_eq!((pair[0].number, pair[0].bytes), (*number, Some(bytes.as_slice())));
                prop_assert_eq!((pair[1].number, pair[1].bytes), (*number, None));
            }
            prop_assert_eq!(found.iter().flat_map(|field| field.whole.to_vec()).collect::<Vec<u8>>(), message);
        }

        #[test]
        fn anything_else_is_refused_or_read_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(fields(&bytes));
        }
    }
}
