//! The secret that signed a webhook, and the workspaces that it is valid for.

use std::fmt;

use protocol::linear_signature::verify;
use serde::Deserialize;

/// The length in characters of the shortest secret. Linear's own have more than 40; a shorter one than this was mistyped, or
/// can be guessed from one signed body.
pub(crate) const MIN_SECRET: usize = 16;

/// A webhook secret, and the workspace that it is valid for.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSecret {
    secret: String,
    /// The secret of a workspace's webhook is valid for that workspace; that of an OAuth app is valid for all.
    #[serde(default)]
    workspace: Option<String>,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSecret")
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

impl WebhookSecret {
    /// The workspace that it is valid for; none: all.
    pub(crate) fn workspace(&self) -> Option<&str> {
        self.workspace.as_deref()
    }

    /// A secret for all workspaces.
    pub fn any(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            workspace: None,
        }
    }

    /// Parses one secret, one `{"secret","workspace"?}`, as the console of AWS stores it, or a JSON list of them.
    ///
    /// # Errors
    ///
    /// The JSON is malformed, or a secret is shorter than [`MIN_SECRET`].
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, InvalidSecrets> {
        let text = text.trim();
        let malformed = |error: serde_json::Error| InvalidSecrets::Malformed {
            line: error.line(),
            column: error.column(),
        };
        let secrets = match text.bytes().next() {
            Some(b'[') => serde_json::from_str(text).map_err(malformed)?,
            Some(b'{') => vec![serde_json::from_str(text).map_err(malformed)?],
            _ => vec![Self::any(text)],
        };
        let is_short = |s: &Self| s.secret.trim().chars().count() < MIN_SECRET;
        if secrets.is_empty() || secrets.iter().any(is_short) {
            return Err(InvalidSecrets::TooShort);
        }
        Ok(secrets)
    }
}

/// What is wrong with the webhook secrets, without quoting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecrets {
    /// The text begins as JSON, but is not of this form.
    #[error(
        "is neither a JSON object {{\"secret\",\"workspace\"?}} nor a list of them (line {line}, column {column})"
    )]
    Malformed {
        /// The line of the first error, from 1.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// There is no secret, or one is so short that it can be guessed.
    #[error(
        "holds no secret, or one of fewer than {MIN_SECRET} characters: paste what Linear shows for the webhook"
    )]
    TooShort,
}

/// Whose secret signed a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Signer {
    /// One that is valid for all workspaces.
    Any,
    /// One that is valid for these workspaces.
    Only(Vec<String>),
}

impl Signer {
    /// Whether the signer's secret is valid for some workspaces alone.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self, Self::Only(_))
    }

    /// Whether the signer's secret is valid for `workspace`.
    pub(crate) fn is_valid_for(&self, workspace: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(workspaces) => workspaces.iter().any(|w| w == workspace),
        }
    }
}

/// Finds whose secret signed `body`. The signature may be hex of either case.
pub fn find_signer(secrets: &[WebhookSecret], body: &[u8], signature: &str) -> Option<Signer> {
    let mut only = Vec::new();
    for secret in secrets {
        if verify(&secret.secret, body, signature) {
            match &secret.workspace {
                None => return Some(Signer::Any),
                Some(workspace) => only.push(workspace.clone()),
            }
        }
    }
    (!only.is_empty()).then_some(Signer::Only(only))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::linear_signature::sign;

    use super::*;

    const ONE: &str = "one webhook secret";
    const OTHER: &str = "another webhook secret";

    #[test]
    fn hex_of_either_case_is_taken_and_nothing_else() {
        let secrets = [WebhookSecret::any("one"), WebhookSecret::any("two")];
        let signature = sign("two", b"{}");
        assert_eq!(find_signer(&secrets, b"{}", &signature), Some(Signer::Any));
        let upper = signature.to_uppercase();
        assert_eq!(find_signer(&secrets, b"{}", &upper), Some(Signer::Any));
        for wrong in [
            "",
            "sha256=",
            &signature[1..],
            &format!("{signature}00"),
            &"g".repeat(64),
        ] {
            assert_eq!(find_signer(&secrets, b"{}", wrong), None);
        }
        assert_eq!(find_signer(&secrets, b"{ }", &signature), None);
    }

    #[test]
    fn a_workspaces_secret_is_valid_for_it_alone() {
        let secrets = WebhookSecret::parse_list(&format!(
            r#"[{{"secret":"{ONE}","workspace":"a"}},{{"secret":"{OTHER}"}}]"#
        ))
        .unwrap();
        let bound = find_signer(&secrets, b"{}", &sign(ONE, b"{}")).unwrap();
        assert!(bound.is_valid_for("a"));
        assert!(!bound.is_valid_for("b"));
        let any = find_signer(&secrets, b"{}", &sign(OTHER, b"{}")).unwrap();
        assert!(any.is_valid_for("b"));
    }

    #[test]
    fn a_wrong_list_is_refused_without_showing_it() {
        for wrong in [
            "",
            "  ",
            "[]",
            "[{\"secret\":\"\"}]",
            "[{\"secret\":\"hush\",\"org\":\"x\"}]",
            "[\"hush\"]",
            "[{\"secret\":hush}]",
            "hush hush hush!",
            "{\"secret\":\"x\"}",
            "{\"token\":\"hush hush hush hush\"}",
        ] {
            let message = WebhookSecret::parse_list(wrong).unwrap_err().to_string();
            assert!(!message.contains("hush"), "{message}");
        }
        assert!(!format!("{:?}", WebhookSecret::any("hush")).contains("hush"));
    }

    #[test]
    fn one_secret_is_read_as_text_and_as_the_object_that_the_console_of_aws_stores() {
        let object = format!(r#"{{"secret":"{ONE}"}}"#);
        for text in [ONE, &format!(" {ONE}\n"), &object, &format!("[{object}]")] {
            let secrets = WebhookSecret::parse_list(text).unwrap();
            assert_eq!(secrets, [WebhookSecret::any(ONE)], "{text}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_byte_does_not_verify(
            body in proptest::collection::vec(any::<u8>(), 1..100),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let secrets = [WebhookSecret::any("secret")];
            let signature = sign("secret", &body);
            prop_assert_eq!(find_signer(&secrets, &body, &signature), Some(Signer::Any));
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(find_signer(&secrets, &changed, &signature), None);
        }
    }
}
