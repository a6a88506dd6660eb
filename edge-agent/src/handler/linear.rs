//! An event as Linear would send it now: for code that uses Linear's own SDK, which takes a body only within a minute
//! of the `webhookTimestamp` in it.
//!
//! Invariant: only the digits of the top-level `webhookTimestamp` change; all other bytes stay as they were received.

use std::fmt;
use std::ops::Range;

use protocol::clock::UnixMillis;
use protocol::surrogates;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

const FIELD: &str = "webhookTimestamp";

/// The body with `now` as its timestamp; as it is if it has none.
pub(crate) fn stamped(body: &[u8], now: UnixMillis) -> Vec<u8> {
    let mut stamped = Vec::with_capacity(body.len() + 16);
    let mut copied = 0;
    for range in stamps(body) {
        stamped.extend_from_slice(&body[copied..range.start]);
        stamped.extend_from_slice(now.to_string().as_bytes());
        copied = range.end;
    }
    stamped.extend_from_slice(&body[copied..]);
    stamped
}

/// Where the timestamps are in a body.
fn stamps(body: &[u8]) -> Vec<Range<usize>> {
    let find = |text: &str| -> Option<Vec<_>> {
        let stamps: Stamps<'_> = serde_json::from_str(text).ok()?;
        let ranges = stamps.0.iter().map(|raw| within(text, raw.get()));
        ranges.collect()
    };
    let Ok(text) = str::from_utf8(body) else {
        return Vec::new();
    };
    find(text)
        .or_else(|| find(&surrogates::replaced(text)?))
        .unwrap_or_default()
}

/// The range of a part that is borrowed from `body`.
fn within(body: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= body.len()).then_some(start..end)
}

/// Every top-level timestamp that is a number, as it is written: parsers differ in which of two they take.
struct Stamps<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Stamps<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(StampsVisitor)
    }
}

struct StampsVisitor;

impl<'de> Visitor<'de> for StampsVisitor {
    type Value = Stamps<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut stamps = Vec::new();
        // The key is read, not compared as it is written: it may be written with escapes.
        while let Some(key) = map.next_key::<String>()? {
            if key == FIELD {
                let value = map.next_value::<&RawValue>()?;
                if value
                    .get()
                    .starts_with(|c: char| c == '-' || c.is_ascii_digit())
                {
                    stamps.push(value);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Stamps(stamps))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_top_level_timestamp_changes() {
        for (before, after) in [
            (r#"{"webhookTimestamp":1}"#, r#"{"webhookTimestamp":77}"#),
            (
                r#"{"a":{"webhookTimestamp":1},"webhookTimestamp":1}"#,
                r#"{"a":{"webhookTimestamp":1},"webhookTimestamp":77}"#,
            ),
            (
                r#"{"a":"\"webhookTimestamp\":5","webhookTimestamp" : 1.5e12 ,"b":2}"#,
                r#"{"a":"\"webhookTimestamp\":5","webhookTimestamp" : 77 ,"b":2}"#,
            ),
            (
                "{\r\n  \"webhookTimestamp\"\r\n:\r\n-0.0E+1\r\n}\r\n",
                "{\r\n  \"webhookTimestamp\"\r\n:\r\n77\r\n}\r\n",
            ),
            (
                r#"{"webhook\u0054imestamp":12,"z":[1,{"webhookTimestamp":3}]}"#,
                r#"{"webhook\u0054imestamp":77,"z":[1,{"webhookTimestamp":3}]}"#,
            ),
            (
                r#"{"webhookTimestamp":1,"webhookTimestamp":2}"#,
                r#"{"webhookTimestamp":77,"webhookTimestamp":77}"#,
            ),
            (
                r#"{"\ud83d":1,"webhookTimestamp":1}"#,
                r#"{"\ud83d":1,"webhookTimestamp":77}"#,
            ),
            (
                r#"{"a":"\ud83d","webhookTimestamp":1}"#,
                r#"{"a":"\ud83d","webhookTimestamp":77}"#,
            ),
            (r#"{"webhookTimestamp":"1"}"#, r#"{"webhookTimestamp":"1"}"#),
            (
                r#"{"webhookTimestamp":null}"#,
                r#"{"webhookTimestamp":null}"#,
            ),
            (r#"[{"webhookTimestamp":1}]"#, r#"[{"webhookTimestamp":1}]"#),
            ("not JSON", "not JSON"),
            ("", ""),
        ] {
            assert_eq!(
                String::from_utf8(stamped(before.as_bytes(), 77)).unwrap(),
                after
            );
        }
        // A byte that is no UTF-8 stays, too.
        assert_eq!(stamped(b"{\"a\":\"\xff\"}", 77), b"{\"a\":\"\xff\"}");
    }

    /// What [`stamped`] has to return for a body that is JSON.
    fn spliced(body: &[u8], now: UnixMillis) -> Vec<u8> {
        let mut stamped = body.to_vec();
        for member in fuzz::json::members(body).into_iter().rev() {
            let is_number = matches!(body[member.value.start], b'-' | b'0'..=b'9');
            if is_number && fuzz::json::is_name(&body[member.name], FIELD) {
                stamped.splice(member.value, now.to_string().into_bytes());
            }
        }
        stamped
    }

    #[test]
    fn fuzz_stamp() {
        fuzz::target!(
            "stamp",
            ["samples", "fuzz/corpus/payloads"],
            |body: &[u8]| {
                let is_json = |body: &[u8]| {
                    let text = str::from_utf8(body).unwrap_or_default();
                    serde_json::from_str::<IgnoredAny>(text).is_ok()
                };
                let stamped = stamped(body, 1_764_400_000_000);
                if is_json(body) {
                    assert!(is_json(&stamped));
                    let spliced = spliced(body, 1_764_400_000_000);
                    assert!(stamped == spliced, "{}", stamped.escape_ascii());
                } else {
                    assert_eq!(stamped, body);
                }
            }
        );
    }

    proptest! {
        #[test]
        fn whatever_stands_around_it_stays(
            before in "[ -!#-\\[\\]-~äß日]{0,40}",
            after in "[ -!#-\\[\\]-~]{0,40}",
            old in any::<i64>(),
            now in 0..i64::MAX,
        ) {
            let body = |at: i64| format!("{{\"a\":\"{before}\" , \"webhookTimestamp\":{at}\t,\"webhookTimestam\":\"{after}\"}}");
            prop_assert_eq!(stamped(body(old).as_bytes(), now), body(now).into_bytes());
        }
    }
}
