//! A number of replicas, or a part of them: `2` or `25%`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

/// A number of replicas, or a part of them; at least one, at most all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntOrPercent {
    /// So many, at least 1.
    Int(u32),
    /// So many of a hundred, in 1..=100.
    Percent(u32),
}

impl IntOrPercent {
    /// How many of `replicas` that is: a part is rounded down, and at least one.
    pub fn of(self, replicas: usize) -> usize {
        match self {
            Self::Int(number) => number as usize,
            Self::Percent(percent) => (replicas * percent as usize / 100).max(1),
        }
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(formatter, "{number}"),
            Self::Percent(percent) => write!(formatter, "{percent}%"),
        }
    }
}

impl JsonSchema for IntOrPercent {
    fn schema_name() -> Cow<'static, str> {
        "IntOrPercent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true, "pattern": "^([1-9][0-9]?|100)%$", "minimum": 1})
    }
}

impl Serialize for IntOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_u32(*number),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u32),
            Text(String),
        }

        let wrong = || D::Error::custom("not a number from 1 and not 1% to 100%");
        match Form::deserialize(deserializer).map_err(|_| wrong())? {
            Form::Number(0) => Err(wrong()),
            Form::Number(number) => Ok(Self::Int(number)),
            Form::Text(text) => {
                let digits = text.strip_suffix('%').filter(|digits| !digits.starts_with(['0', '+']));
                let percent = digits.and_then(|digits| digits.parse().ok());
                percent.filter(|percent| (1..=100).contains(percent)).map(Self::Percent).ok_or_else(wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_rounded_down_and_at_least_one() {
        assert_eq!(IntOrPercent::Percent(25).of(10), 2);
        assert_eq!(IntOrPercent::Percent(25).of(3), 1);
        assert_eq!(IntOrPercent::Percent(100).of(3), 3);
        assert_eq!(IntOrPercent::Int(2).of(1), 2);
    }

    #[test]
    fn both_forms_are_read_and_written() {
        for text in ["1", "7", "\"1%\"", "\"100%\""] {
            let read: IntOrPercent = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        for bad in ["0", "-1", "1.5", "\"0%\"", "\"101%\"", "\"07%\"", "\"+5%\"", "\"5\"", "null"] {
            assert!(serde_json::from_str::<IntOrPercent>(bad).is_err(), "{bad}");
        }
    }
}
