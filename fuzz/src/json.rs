//! A reader of the top level of a JSON object that is as simple as possible, to compare the real ones with.

use std::ops::Range;

/// A member of an object, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name, with its quotes.
    pub name: Range<usize>,
    /// The value, without the space around it.
    pub value: Range<usize>,
}

/// The members at the top level of a body, which has to be valid JSON; none if it is not an object.
pub fn members(body: &[u8]) -> Vec<Member> {
    let (mut parts, mut start, mut depth, mut at) = (Vec::new(), 0, 0_usize, 0);
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Vec::new();
    }
    while at < body.len() {
        let ends_part = match body[at] {
            b'"' => {
                at = string_end(body, at);
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
                false
            }
            b'}' | b']' => {
                depth -= 1;
                depth == 0
            }
            b':' | b',' => depth == 1,
            _ => false,
        };
        if ends_part {
            parts.push(trimmed(body, start..at));
            start = at + 1;
        }
        at += 1;
    }
    let (pairs, _) = parts.as_chunks();
    (pairs.iter())
        .map(|[name, value]| Member {
            name: name.clone(),
            value: value.clone(),
        })
        .collect()
}

/// After the string that begins here.
fn string_end(body: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while body[at] != b'"' {
        at += if body[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn trimmed(body: &[u8], part: Range<usize>) -> Range<usize> {
    let text = body[part.clone()].trim_ascii_start();
    let start = part.end - text.len();
    start..start + text.trim_ascii_end().len()
}

/// Whether a name, as it is written, is this one, which consists of ASCII letters. It may be written with escapes.
pub fn is_name(written: &[u8], name: &str) -> bool {
    let mut rest = &written[1..written.len() - 1];
    for letter in name.bytes() {
        let escape = format!("\\u{letter:04x}");
        let is_escape =
            (rest.get(..6)).is_some_and(|text| text.eq_ignore_ascii_case(escape.as_bytes()));
        // Of an escape the `u` has to be small.
        let length = if is_escape && rest[1] == b'u' { 6 } else { 1 };
        if length == 1 && rest.first() != Some(&letter) {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_the_top_level_are_found_as_they_are_written() {
        let body = b" {\"a\" : [1,{\"b\":\"},\\\"\"}] ,\"\\u0063\":\t-1e3 } ";
        let found: Vec<_> = (members(body).into_iter())
            .map(|member| (&body[member.name], &body[member.value]))
            .collect();
        let expected: [(&[u8], &[u8]); 2] = [
            (b"\"a\"", b"[1,{\"b\":\"},\\\"\"}]"),
            (b"\"\\u0063\"", b"-1e3"),
        ];
        assert_eq!(found, expected);
        assert!(is_name(b"\"\\u0063\"", "c"));
        assert!(!is_name(b"\"\\u0063d\"", "c"));
        for none in ["{}", " { } ", "[{\"a\":1}]", "\"a\"", "1"] {
            assert_eq!(members(none.as_bytes()), [], "{none}");
        }
    }
}
