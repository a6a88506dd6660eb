//! Whose secret signed a webhook, and for which workspaces it speaks.

use std::fmt;

use protocol::linear_signature::verify;
use serde::Deserialize;

/// A webhook secret, and the workspace it may speak for.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSecret {
    secret: String,
    /// A workspace's own webhook can only speak for that workspace; an OAuth app's secret serves all.
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
    /// A secret for all workspaces.
    pub fn any(secret: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            workspace: None,
        }
    }

    /// Reads one secret, or a JSON list of `{"secret","workspace"?}`.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let text = text.trim();
        let secrets = if text.starts_with('[') {
            // The parser's own words could quote a part of a secret.
            serde_json::from_str::<Vec<Self>>(text).map_err(|error| {
                format!(
                    "is not a JSON list of {{\"secret\",\"workspace\"?}} (line {}, column {})",
                    error.line(),
                    error.column()
                )
            })?
        } else {
            vec![Self::any(text)]
        };
        if secrets.is_empty() || secrets.iter().any(|s| s.secret.trim().is_empty()) {
            return Err(
                "holds an empty secret: paste what Linear shows for the webhook".to_owned(),
            );
        }
        Ok(secrets)
    }
}

/// Whose secret signed a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Signer {
    /// One that speaks for all workspaces.
    Any,
    /// One that speaks for these alone.
    Only(Vec<String>),
}

impl Signer {
    /// Whether the signer may speak for `workspace`.
    pub fn speaks_for(&self, workspace: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(workspaces) => workspaces.iter().any(|w| w == workspace),
        }
    }
}

/// Finds who signed `body`, if any of `secrets` did; hex of either case is taken.
pub fn signer(secrets: &[WebhookSecret], body: &[u8], signature: &str) -> Option<Signer> {
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

    #[test]
    fn hex_of_either_case_is_taken_and_nothing_else() {
        let secrets = [WebhookSecret::any("one"), WebhookSecret::any("two")];
        let signature = sign("two", b"{}");
        assert_eq!(signer(&secrets, b"{}", &signature), Some(Signer::Any));
        let upper = signature.to_uppercase();
        assert_eq!(signer(&secrets, b"{}", &upper), Some(Signer::Any));
        for wrong in [
            "",
            "sha256=",
            &signature[1..],
            &format!("{signature}00"),
            &"g".repeat(64),
        ] {
            assert_eq!(signer(&secrets, b"{}", wrong), None);
        }
        assert_eq!(signer(&secrets, b"{ }", &signature), None);
    }

    #[test]
    fn a_workspaces_secret_speaks_for_it_alone() {
        let secrets =
            WebhookSecret::parse_list(r#"[{"secret":"s","workspace":"a"},{"secret":"t"}]"#)
                .unwrap();
        let bound = signer(&secrets, b"{}", &sign("s", b"{}")).unwrap();
        assert!(bound.speaks_for("a"));
        assert!(!bound.speaks_for("b"));
        let any = signer(&secrets, b"{}", &sign("t", b"{}")).unwrap();
        assert!(any.speaks_for("b"));
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
        ] {
            let message = WebhookSecret::parse_list(wrong).unwrap_err();
            assert!(!message.contains("hush"), "{message}");
        }
        assert!(!format!("{:?}", WebhookSecret::any("hush")).contains("hush"));
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
            prop_assert_eq!(signer(&secrets, &body, &signature), Some(Signer::Any));
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            prop_assert_eq!(signer(&secrets, &changed, &signature), None);
        }
    }
}
