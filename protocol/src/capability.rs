//! Capabilities: which events a worker wants, as patterns over `type` and `type.action`.

/// How many patterns a worker may have.
pub const MAX: usize = 50;

/// Why a list of patterns is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilityError {
    /// The list is empty or too long.
    Length,
    /// The entry at this index is not a pattern.
    Pattern(usize),
}

impl CapabilityError {
    /// The message for a list of this name: `capabilities` on the wire, `type` in the agent's settings.
    pub fn message(self, list: &str) -> String {
        match self {
            Self::Length => {
                format!("`{list}` takes 1 to {MAX} patterns; leave it out to get all events")
            }
            Self::Pattern(at) => format!("`{list}[{at}]` is not a pattern: use {EXAMPLES}"),
        }
    }
}

/// What patterns look like, for messages.
pub const EXAMPLES: &str = "`Issue`, `Comment.create`, `AgentSessionEvent.*` or `*`";

/// Checks a list of patterns.
///
/// # Errors
///
/// The list is empty, too long, or holds an entry that is not a pattern.
pub fn validate(patterns: &[String]) -> Result<(), CapabilityError> {
    if patterns.is_empty() || patterns.len() > MAX {
        return Err(CapabilityError::Length);
    }
    match patterns.iter().position(|pattern| !is_pattern(pattern)) {
        None => Ok(()),
        Some(at) => Err(CapabilityError::Pattern(at)),
    }
}

/// Whether a text is a pattern: `*`, a type, or a type and an action.
pub fn is_pattern(pattern: &str) -> bool {
    let is_word = |word: &str| {
        (1..=64).contains(&word.len())
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    match pattern.split_once('.') {
        None => pattern == "*" || is_word(pattern),
        Some((kind, action)) => is_word(kind) && (action == "*" || is_word(action)),
    }
}

/// Whether any pattern matches an event of this type and action. Without a list, every event matches.
///
/// ```
/// use protocol::capability::wanted;
///
/// let patterns = ["Issue".to_owned(), "Comment.create".to_owned()];
/// assert!(wanted(Some(&patterns), "Issue", "update"));
/// assert!(wanted(Some(&patterns), "Comment", "create"));
/// assert!(!wanted(Some(&patterns), "Comment", "remove"));
/// assert!(wanted(None, "Project", "create"));
/// ```
pub fn wanted(patterns: Option<&[String]>, kind: &str, action: &str) -> bool {
    patterns.is_none_or(|patterns| patterns.iter().any(|p| matches(p, kind, action)))
}

fn matches(pattern: &str, kind: &str, action: &str) -> bool {
    pattern == "*"
        || pattern.strip_prefix(kind).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix('.')
                    .is_some_and(|wanted| wanted == "*" || wanted == action)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_type_and_action() {
        for (pattern, kind, action, expected) in [
            ("*", "Issue", "create", true),
            ("Issue", "Issue", "create", true),
            ("Issue.create", "Issue", "create", true),
            ("Issue.*", "Issue", "", true),
            ("Issue.create", "Issue", "update", false),
            ("Issue", "IssueSLA", "set", false),
            ("IssueSLA", "Issue", "set", false),
            ("Issue.", "Issue", "", true),
        ] {
            assert_eq!(matches(pattern, kind, action), expected, "{pattern} {kind}");
        }
    }

    #[test]
    fn a_wrong_pattern_is_named_by_its_place() {
        for wrong in [
            "",
            "Issue.",
            ".create",
            "Issue.create.x",
            "Iss*",
            "*.create",
            "a b",
        ] {
            let checked = validate(&["Issue".to_owned(), wrong.to_owned()]);
            assert_eq!(checked, Err(CapabilityError::Pattern(1)), "{wrong}");
        }
        assert!(validate(&[]).is_err());
        assert!(validate(&vec!["Issue".to_owned(); MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn a_pattern_made_of_an_event_wants_that_event(
            kind in "[A-Za-z0-9_-]{1,20}",
            action in "[A-Za-z0-9_-]{1,20}",
            other in "[A-Za-z0-9_-]{1,20}",
        ) {
            for pattern in [kind.clone(), format!("{kind}.{action}"), format!("{kind}.*"), "*".into()] {
                prop_assert_eq!(validate(std::slice::from_ref(&pattern)), Ok(()));
                prop_assert!(wanted(Some(&[pattern]), &kind, &action));
            }
            prop_assert!(wanted(None, &kind, &action));
            prop_assert_eq!(wanted(Some(std::slice::from_ref(&other)), &kind, &action), other == kind);
            prop_assert_eq!(
                wanted(Some(&[format!("{kind}.{other}")]), &kind, &action),
                other == action
            );
        }

        #[test]
        fn no_text_makes_the_check_panic(text in "\\PC{0,80}") {
            let _ = validate(std::slice::from_ref(&text));
            let _ = wanted(Some(std::slice::from_ref(&text)), "Issue", "create");
        }
    }
}
