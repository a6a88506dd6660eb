//! Who is mentioned in the texts of a payload.
//!
//! Linear's editor stores a mention as a node of type `suggestion_userMentions` with the user's id, which is in
//! `descriptionData` and `bodyData`. In Markdown, as in a comment's `body`, a mention is the display name after an `@`, or the
//! address of the user's profile, which ends with the display name.

use std::collections::BTreeSet;

use memchr::memmem;

/// The type of a mention's node.
const NODE: &str = "suggestion_userMentions";
/// What is before the display name in the address of a profile.
const PROFILE: &str = "/profiles/";
/// How much of a node is searched for the id: its attributes are an id and a label.
const NODE_BYTES: usize = 256;

/// Everybody who is mentioned in a body.
#[derive(Debug, Default)]
pub struct Mentions<'a> {
    ids: BTreeSet<&'a str>,
    names: BTreeSet<String>,
}

impl<'a> Mentions<'a> {
    /// Those in this body, which is JSON.
    pub fn of(body: &'a str) -> Self {
        let mut mentions = Self::default();
        let bytes = body.as_bytes();
        for at in memmem::find_iter(bytes, NODE) {
            let node = &body[at..body.floor_char_boundary(at + NODE_BYTES)];
            mentions.ids.extend(id(node));
        }
        let profiles = memmem::find_iter(bytes, PROFILE).map(|at| at + PROFILE.len());
        let marks = memchr::memchr_iter(b'@', bytes).map(|at| at + 1);
        for at in profiles.chain(marks) {
            mentions.names.extend(name(&body[at..]));
        }
        mentions
    }

    /// Those with these ids and display names.
    pub fn new(
        ids: impl IntoIterator<Item = &'a str>,
        names: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            ids: ids.into_iter().collect(),
            names: names.into_iter().collect(),
        }
    }

    /// The ids, as far as they are known.
    pub fn ids(&self) -> impl Iterator<Item = &'a str> {
        self.ids.iter().copied()
    }

    /// The display names, in lower case, as far as they are known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether a user with this id and display name is among them.
    pub fn contains(&self, id: &str, display_name: &str) -> bool {
        self.ids.contains(id) || self.names.contains(&display_name.to_lowercase())
    }
}

/// The id in a node, whose quotes are escaped as often as the document is nested in strings.
fn id(node: &str) -> Option<&str> {
    let is_mark = |c: char| matches!(c, '"' | '\\' | ':' | ' ');
    let mut rest = node;
    loop {
        let (_, after) = rest.split_once("id")?;
        let value = after.trim_start_matches(is_mark);
        if value.len() < after.len() && after.contains(':') {
            let end = value.find(is_mark).unwrap_or(value.len());
            return Some(&value[..end]).filter(|id| !id.is_empty());
        }
        rest = after;
    }
}

/// The display name at the beginning of a text, in lower case.
fn name(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let name = text[..end].trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mention_is_a_node_a_name_after_an_at_sign_or_the_address_of_a_profile() {
        let node = r#"{"type":"suggestion_userMentions","attrs":{"id":"a1a780e3-a411-466e-b6c8-0fe04ff355fa","label":"ana"}}"#;
        let nested = serde_json::to_string(node).unwrap();
        for (body, expected) in [
            (nested.as_str(), true),
            (node, true),
            (r#""label": "x", "text": "suggestion_userMentions""#, false),
            ("please look, @Ana.", true),
            ("@ana", true),
            ("@ana-maria", false),
            ("@anabel @bo", false),
            ("https://linear.app/acme/profiles/ana and", true),
            ("https://linear.app/acme/profiles/bo", false),
            ("ana", false),
            ("a1a780e3-a411-466e-b6c8-0fe04ff355fa", false),
            ("ends with suggestion_userMentions", false),
            ("ends with @", false),
        ] {
            let mentions = Mentions::of(body);
            let is_mentioned = mentions.contains("a1a780e3-a411-466e-b6c8-0fe04ff355fa", "ana");
            assert_eq!(is_mentioned, expected, "{body}");
        }
    }
}
