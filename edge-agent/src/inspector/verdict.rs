//! Why the signature of a stored delivery verifies, or does not any more: which secret, which value, how old.

use protocol::clock::UnixSeconds;
use protocol::signature::{Secret, SignatureError, Signed, verify, verify_form};
use protocol::signing_secrets::SigningSecrets;
use serde::Serialize;

use crate::delivery::signed;
use crate::store::Event;

/// The result of the check, made again.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    is_valid: bool,
    reason: String,
    /// The secret that it was signed with.
    secret: Option<SecretName>,
    /// How old the signature was when the delivery was received.
    age_seconds: Option<i64>,
    comparisons: Vec<Comparison>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum SecretName {
    Current,
    Previous,
}

/// One value of `webhook-signature` beside the one that a secret makes.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Comparison {
    secret: SecretName,
    /// Which value of the header, from 1.
    value: usize,
    matches: bool,
}

/// Checks with the secrets that were valid when the event was received. A delivery was stored only if it was verified then.
pub(super) fn verdict(secrets: &SigningSecrets, event: &Event) -> Verdict {
    let signed = signed(&event.headers);
    let at = match verify_form(signed) {
        Ok(at) => at,
        Err(error) => return Verdict::without_comparison(&error),
    };
    let comparisons = comparisons(secrets, signed, at, event);
    let matching = comparisons.iter().find(|comparison| comparison.matches);
    let reason = match matching {
        Some(Comparison { value, .. }) => format!(
            "The HMAC-SHA256 of `webhook-id.webhook-timestamp.body` is value {value} of `webhook-signature`."
        ),
        None => "It was verified when it arrived. No value of `webhook-signature` was made with a secret that is still known: \
                 the secret has been replaced since, or the stored event has changed."
            .to_owned(),
    };
    Verdict {
        is_valid: matching.is_some(),
        reason,
        secret: matching.map(|comparison| comparison.secret),
        age_seconds: Some(event.received_at / 1000 - at),
        comparisons,
    }
}

fn comparisons(
    secrets: &SigningSecrets,
    signed: Signed<'_>,
    at: UnixSeconds,
    event: &Event,
) -> Vec<Comparison> {
    let names = std::iter::once(SecretName::Current).chain(std::iter::repeat(SecretName::Previous));
    let mut comparisons = Vec::new();
    for (name, secret) in names.zip(secrets.valid_at(event.received_at)) {
        for (value, signature) in (1..).zip(signed.signature.split_ascii_whitespace()) {
            let one = Signed {
                signature,
                ..signed
            };
            let secret: &Secret = secret;
            comparisons.push(Comparison {
                secret: name,
                value,
                matches: verify(std::slice::from_ref(secret), one, &event.body, at).is_ok(),
            });
        }
    }
    comparisons
}

impl Verdict {
    fn without_comparison(error: &SignatureError) -> Self {
        Self {
            is_valid: false,
            reason: format!("The header {error}."),
            secret: None,
            age_seconds: None,
            comparisons: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::signature::sign;

    use super::*;
    use crate::store::Headers;

    fn event(secrets: &[Secret]) -> Event {
        let signature = sign(secrets, "evt_1", 1_000, b"{}");
        let headers = [
            ("webhook-id", "evt_1".to_owned()),
            ("webhook-timestamp", "1000".to_owned()),
            ("webhook-signature", signature),
        ];
        Event {
            headers: Headers(
                headers
                    .map(|(n, v)| (n.to_owned(), v.into_bytes()))
                    .to_vec(),
            ),
            body: b"{}".to_vec(),
            received_at: 1_002_000,
            ..crate::store::tests::event("evt_1")
        }
    }

    #[test]
    fn it_says_which_secret_and_which_value_and_how_old() {
        let [first, second] = [(); 2].map(|()| Secret::generate());
        let secrets = SigningSecrets::new(first.clone()).rotate(second.clone(), 1_001_000);
        let found = verdict(&secrets, &event(&[second.clone(), first.clone()]));
        assert!(found.is_valid);
        assert_eq!(
            (found.secret, found.age_seconds),
            (Some(SecretName::Current), Some(2))
        );
        let matches: Vec<_> = found
            .comparisons
            .iter()
            .map(|c| (c.value, c.matches))
            .collect();
        assert_eq!(matches, [(1, true), (2, false), (1, false), (2, true)]);
        let found = verdict(&secrets, &event(&[first]));
        assert_eq!(
            (found.is_valid, found.secret),
            (true, Some(SecretName::Previous))
        );
    }

    #[test]
    fn a_signature_that_is_not_known_or_not_there_has_a_reason() {
        let secrets = SigningSecrets::new(Secret::generate());
        let found = verdict(&secrets, &event(&[Secret::generate()]));
        assert!(
            !found.is_valid && found.reason.contains("replaced since"),
            "{found:?}"
        );
        let mut unsigned = event(&[Secret::generate()]);
        unsigned.headers = Headers::default();
        let found = verdict(&secrets, &unsigned);
        assert!(
            !found.is_valid && found.reason.contains("`webhook-id`"),
            "{found:?}"
        );
    }
}
