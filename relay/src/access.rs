//! Who may register, and what a worker gets.
//!
//! Invariant: nothing here does I/O, awaits, or reads a clock. What is known is an argument.

use protocol::messages::Workspace;

/// By what the relay knows a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownBy {
    /// A webhook secret belongs to it alone.
    Secret,
    /// A webhook of it was accepted, signed with a secret that is valid for all workspaces.
    Webhook,
}

/// Whether the relay serves a workspace: the operator has named it, by id or URL key, or has stored a webhook secret of it;
/// or no workspace is named, and a webhook of it was accepted. Nobody else may register: whoever has an account with Linear
/// could make the relay work for a workspace of theirs.
pub(crate) fn is_served(named: &[String], workspace: &Workspace, known: Option<KnownBy>) -> bool {
    match known {
        Some(KnownBy::Secret) => return true,
        Some(KnownBy::Webhook) if named.is_empty() => return true,
        _ => {}
    }
    named
        .iter()
        .any(|name| *name == workspace.id || name.eq_ignore_ascii_case(&workspace.url_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_served_if_it_is_named_or_has_a_secret_or_a_webhook_where_none_is_named() {
        let workspace = Workspace {
            id: "9a8f".to_owned(),
            url_key: "acme".to_owned(),
            name: "named".to_owned(),
        };
        let (secret, webhook) = (Some(KnownBy::Secret), Some(KnownBy::Webhook));
        for (named, known, expected) in [
            ("", webhook, true),
            ("", secret, true),
            ("", None, false),
            ("9a8f", None, true),
            ("other ACME", None, true),
            ("other", None, false),
            ("other", webhook, false),
            ("other", secret, true),
            ("named", None, false),
        ] {
            let named: Vec<_> = named.split_whitespace().map(str::to_owned).collect();
            let is_served = is_served(&named, &workspace, known);
            assert_eq!(is_served, expected, "{named:?} {known:?}");
        }
    }
}
