//! Text from outside on a terminal: what the relay, a handler, a payload or another user says.

/// A text in which nothing is left that a terminal would obey: control characters and those that turn the direction of text are
/// written as escapes.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => printable.push(c),
            _ => printable.extend(c.escape_debug()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        let plain = "Ana's \"b\u{fc}ro\" C:\\x \u{65e5}\u{672c}";
        assert_eq!(printable(plain), plain);
        let hostile = "a\u{1b}[2J\r\n\u{202e}\u{9b}b";
        assert_eq!(printable(hostile), "a\\u{1b}[2J\\r\\n\\u{202e}\\u{9b}b");
    }
}
