//! Durations and sizes as the operator writes them: a number and its unit, never a bare number.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// `250ms`, `30s`, `5m`, `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// `512B`, `64KiB`, `1MiB`, `2GiB`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SPAN_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

impl Span {
    pub const fn milliseconds(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// From a whole number and a unit, or what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &SPAN_UNITS)
            .map(Self::milliseconds)
            .ok_or_else(|| "no duration; write a whole number and a unit, as in 250ms, 30s, 5m or 24h".to_owned())
    }
}

impl Size {
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    pub const fn bytes_usize(self) -> usize {
        if self.0 > usize::MAX as u64 { usize::MAX } else { self.0 as usize }
    }

    fn parse(text: &str) -> Result<Self, String> {
        quantity(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| "no size; write a whole number and a unit, as in 512B, 64KiB, 1MiB or 2GiB".to_owned())
    }
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (_, factor) = units.iter().find(|(unit, _)| *unit == &text[digits..])?;
    text[..digits].parse::<u64>().ok()?.checked_mul(*factor)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_millis() as u64;
        let fitting = SPAN_UNITS.iter().rev().find(|(_, factor)| total != 0 && total.is_multiple_of(*factor));
        let (unit, factor) = fitting.unwrap_or(&("s", 1_000));
        write!(f, "{}{unit}", total / factor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut largest_first = SIZE_UNITS;
        largest_first.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
        let fitting = largest_first.iter().find(|(_, factor)| self.0.is_multiple_of(*factor) && self.0 != 0);
        let (unit, factor) = fitting.unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// Reads a text and parses it; a number without a unit gets the same message as any other wrong text.
macro_rules! from_text {
    ($name:ident, $what:literal, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, _: i64) -> Result<$name, E> {
                        $name::parse("").map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $what })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

from_text!(Span, "a duration with its unit: 250ms, 30s, 5m, 24h", "^[0-9]+(ms|s|m|h)$");
from_text!(Size, "a size with its unit: 512B, 64KiB, 1MiB, 2GiB", "^[0-9]+(B|KiB|MiB|GiB)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_whole_number_and_a_unit() {
        assert_eq!(Span::parse("250ms"), Ok(Span::milliseconds(250)));
        assert_eq!(Span::parse("5m"), Ok(Span::seconds(300)));
        assert_eq!(Size::parse("64KiB"), Ok(Size(65_536)));
        for wrong in ["", "30", "s", "1.5s", "-1s", "30 s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(Span::parse(wrong).is_err(), "{wrong:?} was taken");
        }
        for wrong in ["", "64", "64kb", "64K", "KiB"] {
            assert!(Size::parse(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn what_is_shown_can_be_written() {
        for text in ["250ms", "30s", "5m", "24h", "90s"] {
            assert_eq!(Span::parse(text).map(|span| span.to_string()).as_deref(), Ok(text));
        }
        for text in ["512B", "64KiB", "1MiB", "2GiB", "1500B"] {
            assert_eq!(Size::parse(text).map(|size| size.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(Span::seconds(0).to_string(), "0s");
    }
}
