//! Halves of surrogate pairs in the texts of a body. `"\ud83d"` is valid JSON (RFC 8259, section 8.2) and no text, so `serde_json`
//! refuses it. A sender that cuts a text between two halves sends such a one.

/// The replacement character, in as many bytes as the escape that it replaces.
const REPLACEMENT: &str = "\\ufffd";

/// The body with a replacement character in place of each half of a surrogate pair, all other bytes where they are; none if there is no such half.
pub fn replaced(body: &str) -> Option<String> {
    let mut replaced = String::with_capacity(body.len());
    let mut rest = body;
    let mut any = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        replaced.push_str(before);
        let length = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                replaced.push_str(REPLACEMENT);
                any = true;
                rest = &escape[6..];
                continue;
            }
            // A backslash and what it escapes.
            _ => 1 + escape[1..].chars().next().map_or(0, char::len_utf8),
        };
        replaced.push_str(&escape[..length]);
        rest = &escape[length..];
    }
    replaced.push_str(rest);
    any.then_some(replaced)
}

/// The UTF-16 code unit of the escape that begins here.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_replaced_and_pairs_are_not() {
        for (body, expected) in [
            (r#""\ud83d""#, Some(r#""\ufffd""#)),
            (
                r#""\ude00\ud83d\ude00\uD83Dé""#,
                Some(r#""\ufffd\ud83d\ude00\ufffdé""#),
            ),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\\ud83d\é\u00e9""#, None),
            (r#""\\\ud83d""#, Some(r#""\\\ufffd""#)),
            (r#""\ud83"#, None),
            (r"\", None),
        ] {
            assert_eq!(replaced(body).as_deref(), expected, "{body}");
        }
    }
}
