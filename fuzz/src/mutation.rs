//! Mutations of a corpus: some changes to one of its files, which stays mostly well-formed.
//!
//! Random bytes hardly ever get past the first check of a reader. A mutation gets as far as the file that it comes from, and then differs.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Bound, Range};

use bolero::{Driver, ValueGenerator};

use crate::corpus::Corpus;

/// The most changes to a file.
const MAX_CHANGES: usize = 6;
/// The largest input in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// What readers of JSON, headers, numbers and times have stumbled over.
const WORDS: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1e999",
    "-1",
    "9223372036854775807",
    "18446744073709551616",
    "1.5e3",
    "00",
    "\"\"",
    "\\u0000",
    "\\ud83d",
    "\\ude00",
    "\\u0061",
    "\u{1f600}",
    "\u{ffff}",
    "\u{feff}",
    "\u{1}",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    ":",
    ",",
    ", ",
    "\"",
    "\\",
    ".",
    "*",
    "-",
    " ",
    "\n",
    "\r\n",
    "\0",
    "=",
    "é",
];

/// An input. It is shown as text with escapes, as it can be put into a test.
#[derive(Clone)]
pub struct Input(Vec<u8>);

impl Input {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Generates mutations of the files of a corpus.
#[derive(Debug)]
pub struct Mutations {
    files: Vec<Vec<u8>>,
    /// Words and texts of the files, and [`WORDS`].
    words: Vec<Vec<u8>>,
}

impl Mutations {
    /// Of this corpus.
    pub fn of(corpus: &Corpus) -> Self {
        let files: Vec<_> = corpus.files().map(|(_, file)| file.to_vec()).collect();
        let mut words: BTreeSet<Vec<u8>> =
            WORDS.iter().map(|word| word.as_bytes().to_vec()).collect();
        for file in &files {
            words.extend(file.split(|b| !is_of_word(*b)).map(<[u8]>::to_vec));
            // Between two quotes, and the quotes.
            words.extend(
                file.split(|b| *b == b'"')
                    .map(|text| [b"\"", text, b"\""].concat()),
            );
        }
        words.retain(|word| (1..=64).contains(&word.len()));
        Self {
            files,
            words: words.into_iter().collect(),
        }
    }

    fn change<D: Driver>(&self, driver: &mut D, input: &mut Vec<u8>) -> Option<()> {
        match below(driver, 10)? {
            0 => {
                let at = position(driver, input)?;
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << below(driver, 8)?;
                }
            }
            1 => {
                let at = position(driver, input)?;
                if let Some(byte) = input.get_mut(at) {
                    *byte = driver.produce()?;
                }
            }
            2 => {
                let at = position(driver, input)?;
                input.splice(at..at, self.word(driver)?.iter().copied());
            }
            3 | 4 => {
                let at = position(driver, input)?;
                input.splice(word_at(input, at), self.word(driver)?.iter().copied());
            }
            5 => drop(input.drain(range(driver, input)?)),
            6 => {
                let part = input[range(driver, input)?].to_vec();
                let at = position(driver, input)?;
                input.splice(at..at, part);
            }
            7 => {
                let other = &self.files[below(driver, self.files.len())?];
                let part = other[range(driver, other)?].to_vec();
                input.splice(range(driver, input)?, part);
            }
            8 => {
                let lines: Vec<_> = input
                    .split_inclusive(|b| *b == b'\n')
                    .map(<[u8]>::to_vec)
                    .collect();
                *input = rearranged(driver, lines)?.concat();
            }
            _ => {
                let (at, word) = (position(driver, input)?, self.word(driver)?);
                let times = [3, 20, 200][below(driver, 3)?];
                input.splice(at..at, word.repeat(times));
            }
        }
        input.truncate(MAX_BYTES);
        Some(())
    }

    fn word<D: Driver>(&self, driver: &mut D) -> Option<&[u8]> {
        Some(&self.words[below(driver, self.words.len())?])
    }
}

impl ValueGenerator for Mutations {
    type Output = Input;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Input> {
        let mut input = self.files[below(driver, self.files.len())?].clone();
        for _ in 0..=below(driver, MAX_CHANGES)? {
            self.change(driver, &mut input)?;
        }
        Some(Input(input))
    }
}

/// A number below `end`, which is not 0.
fn below<D: Driver>(driver: &mut D, end: usize) -> Option<usize> {
    driver.gen_usize(Bound::Included(&0), Bound::Excluded(&end))
}

/// Before a byte, or the end.
fn position<D: Driver>(driver: &mut D, input: &[u8]) -> Option<usize> {
    below(driver, input.len() + 1)
}

/// A range, more often a short one.
fn range<D: Driver>(driver: &mut D, input: &[u8]) -> Option<Range<usize>> {
    let start = position(driver, input)?;
    let longest = (input.len() - start).min([4, 32, MAX_BYTES][below(driver, 3)?]);
    Some(start..start + below(driver, longest + 1)?)
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The range of the word around a position.
fn word_at(input: &[u8], at: usize) -> Range<usize> {
    let before = input[..at]
        .iter()
        .rev()
        .take_while(|b| is_of_word(**b))
        .count();
    let after = input[at..].iter().take_while(|b| is_of_word(**b)).count();
    at - before..at + after
}

/// The lines with one removed, doubled or moved.
fn rearranged<D: Driver>(driver: &mut D, mut lines: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    if lines.is_empty() {
        return Some(lines);
    }
    let (from, to) = (below(driver, lines.len())?, below(driver, lines.len())?);
    match below(driver, 3)? {
        0 => drop(lines.remove(from)),
        1 => lines.insert(to, lines[from].clone()),
        _ => lines.swap(from, to),
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_replaced_as_a_whole() {
        let input = b"{\"a-b.c\":1}";
        for at in 2..=7 {
            assert_eq!(&input[word_at(input, at)], b"a-b.c", "{at}");
        }
        assert_eq!(word_at(input, 0), 0..0);
        assert_eq!(word_at(b"", 0), 0..0);
    }

    #[test]
    fn inputs_are_shown_as_they_can_be_put_into_a_test() {
        let input = Input(b"a\"\n\xff".to_vec());
        assert_eq!(format!("{input:?}"), r#"b"a\"\n\xff""#);
    }
}
