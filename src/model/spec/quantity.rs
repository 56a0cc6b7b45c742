//! Numbers of bytes as people write them for Kubernetes: `900Mi`, `2G`, or plain digits.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// Suffixes and what they stand for.
const SCALES: [(&str, u64); 9] = [
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffix = &text[digits.len()..];
        let Some((_, scale)) = SCALES.iter().find(|(name, _)| *name == suffix) else {
            return Err(format!("`{suffix}` is no suffix; k, M, G, T, Ki, Mi, Gi and Ti are"));
        };
        let number: u64 =
            digits.parse().map_err(|_| "not a whole number of bytes, such as 500M or 2Gi".to_owned())?;
        number.checked_mul(*scale).map(Self).ok_or_else(|| "more bytes than can be counted".to_owned())
    }
}

impl fmt::Display for Bytes {
    /// The shortest way to write the same number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SCALES.iter().filter(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale));
        let (suffix, scale) = exact.max_by_key(|(_, scale)| *scale).unwrap_or(&SCALES[0]);
        write!(formatter, "{}{suffix}", self.0 / scale)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "pattern": "^[0-9]{1,19}([kMGT]|[KMGT]i)?$", "minimum": 0})
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quantity;

        impl Visitor<'_> for Quantity {
            type Value = Bytes;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number of bytes, such as 900Mi")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value)
                    .map(Bytes)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Bytes, E> {
                value.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Quantity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_in_kubernetes() {
        for (text, bytes) in [("12", 12), ("500M", 500_000_000), ("2Gi", 2 << 30), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        for bad in ["", "Gi", "1.5Gi", "-1", "2GB", "99999999999Ti"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn documents_hold_them_as_text_or_number() {
        assert_eq!(serde_json::from_str::<Bytes>("\"900Mi\"").unwrap(), Bytes(900 << 20));
        assert_eq!(serde_json::from_str::<Bytes>("1024").unwrap(), Bytes(1024));
        for bad in ["-1", "1.5", "\"1.5Gi\"", "null", "true"] {
            assert!(serde_json::from_str::<Bytes>(bad).is_err(), "{bad}");
        }
    }
}
