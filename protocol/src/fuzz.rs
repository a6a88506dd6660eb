//! Fuzz targets for what this crate reads: bodies of Linear, patterns, and the headers of deliveries.

use fuzz::json::{self, Member};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::envelope::{self, Envelope, EnvelopeError, is_identifier};
use crate::mention::Mentions;
use crate::messages::{ChallengeResponse, Control, Mailbox, Pull, Register, Renew};
use crate::signature::{self, Secret, Signed};
use crate::{capability, linear_signature};

/// The secret of the published examples.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The values of a top-level field.
fn values<'a>(body: &'a str, members: &[Member], name: &str) -> Vec<&'a str> {
    (members.iter())
        .filter(|member| json::is_name(&body.as_bytes()[member.name.clone()], name))
        .map(|member| &body[member.value.clone()])
        .collect()
}

/// Whether a body is JSON whose numbers and nesting a reader can hold.
fn is_readable(body: &str) -> bool {
    serde_json::from_str::<Value>(&without_surrogates(body)).is_ok()
}

/// The same, but with another character in place of each surrogate: half of a pair is JSON, but not for `serde_json`.
fn without_surrogates(body: &str) -> String {
    let mut parts = body.split('\\').map(str::to_owned).collect::<Vec<_>>();
    let mut at = 1;
    while let Some(part) = parts.get_mut(at) {
        let is_surrogate = matches!(
            part.as_bytes(),
            [
                b'u',
                b'd' | b'D',
                b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F',
                ..,
            ]
        );
        let has_digits = part
            .get(1..5)
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_surrogate && has_digits {
            part.replace_range(1..5, "fffd");
        }
        // After a backslash that is escaped, there is no escape.
        at += if part.is_empty() { 2 } else { 1 };
    }
    parts.join("\\")
}

/// The text that this JSON is.
fn text(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

fn assert_is_of(body: &str, envelope: &Envelope<'_>) {
    let members = json::members(body.as_bytes());
    let only = |name| match values(body, &members, name).as_slice() {
        [] => None,
        [value] => Some(*value),
        several => panic!("`{name}` is there {} times", several.len()),
    };
    assert_eq!(
        only("organizationId").and_then(text).as_deref(),
        Some(&*envelope.workspace)
    );
    assert_eq!(
        only("type").and_then(text).as_deref(),
        Some(&*envelope.kind)
    );
    if !envelope.action.is_empty() {
        assert_eq!(
            only("action").and_then(text).as_deref(),
            Some(&*envelope.action)
        );
    }
    let stamp = only("webhookTimestamp").filter(|stamp| *stamp != "null");
    if let Some(stamp) = stamp {
        assert_eq!(serde_json::from_str(stamp).ok(), envelope.sent_at_ms);
    }
    assert!(is_identifier(&envelope.workspace) && is_identifier(&envelope.ordering_key));
    let (teams, people) = (&envelope.audience.teams, &envelope.audience.people);
    assert!(teams.iter().all(|id| is_identifier(id)) && teams.is_sorted());
    assert!(people.iter().all(|id| !id.is_empty()) && people.is_sorted());
}

#[test]
fn fuzz_envelope() {
    fuzz::target!("payloads", ["samples"], |body: &[u8]| {
        let Ok(body) = std::str::from_utf8(body) else {
            return;
        };
        let members = || json::members(body.as_bytes());
        match envelope::parse(body) {
            Ok(envelope) => {
                let is_json = serde_json::from_str::<IgnoredAny>(body).is_ok();
                assert!(is_json, "it is not JSON");
                assert_is_of(body, &envelope);
            }
            Err(EnvelopeError::NotJson { .. }) => assert!(!is_readable(body), "it is JSON"),
            Err(EnvelopeError::NotAnObject) => assert!(!body.trim_start().starts_with('{')),
            Err(EnvelopeError::Missing(name)) => {
                assert_eq!(values(body, &members(), name).len(), 0);
            }
            Err(EnvelopeError::Repeated(name)) => {
                assert!(values(body, &members(), name).len() > 1);
            }
            Err(EnvelopeError::WrongType(name)) => {
                assert_eq!(values(body, &members(), name).len(), 1);
            }
            Err(EnvelopeError::NoWorkspace) => {
                assert_eq!(values(body, &members(), "organizationId"), ["null"]);
            }
            Err(EnvelopeError::InvalidWorkspace | EnvelopeError::InvalidType) => {}
        }
    });
}

#[test]
fn fuzz_mentions() {
    fuzz::target!("payloads", ["samples"], |body: &[u8]| {
        let Ok(body) = std::str::from_utf8(body) else {
            return;
        };
        let mentions = Mentions::of(body);
        let lower = body.to_lowercase();
        assert!(mentions.ids().all(|id| body.contains(id)));
        assert!(mentions.names().all(|name| lower.contains(name)));
    });
}

/// Whether a pattern is one, letter by letter.
fn is_pattern(pattern: &str) -> bool {
    let parts: Vec<_> = pattern.split('.').collect();
    let is_word = |word: &str| {
        !word.is_empty()
            && word.len() <= 64
            && word
                .chars()
                .all(|c| "abcdefghijklmnopqrstuvwxyz0123456789_-".contains(c.to_ascii_lowercase()))
    };
    match parts.as_slice() {
        [kind] => *kind == "*" || is_word(kind),
        [kind, action] => is_word(kind) && (*action == "*" || is_word(action)),
        _ => false,
    }
}

#[test]
fn fuzz_capability() {
    fuzz::target!("capability", |input: &[u8]| {
        // A type, an action, and patterns.
        let Ok(input) = std::str::from_utf8(input) else {
            return;
        };
        let mut lines = input.split('\n').map(str::to_owned);
        let (kind, action) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let patterns: Vec<_> = lines.collect();
        let is_list = (1..=capability::MAX).contains(&patterns.len());
        let are_patterns = patterns.iter().all(|pattern| is_pattern(pattern));
        assert_eq!(
            capability::validate(&patterns).is_ok(),
            is_list && are_patterns
        );
        let names = [
            "*".to_owned(),
            format!("{kind}.*"),
            format!("{kind}.{action}"),
            kind.clone(),
        ];
        let is_wanted = patterns.iter().any(|pattern| names.contains(pattern));
        assert_eq!(
            capability::wanted(Some(&patterns), &kind, &action),
            is_wanted
        );
    });
}

/// The parts of an input up to a line feed each, and the rest.
fn lines<const N: usize>(input: &[u8]) -> Option<([&str; N], &[u8])> {
    let mut parts = input.splitn(N + 1, |b| *b == b'\n');
    let mut texts = [""; N];
    for text in &mut texts {
        *text = std::str::from_utf8(parts.next()?).ok()?;
    }
    Some((texts, parts.next()?))
}

#[test]
fn fuzz_signature() {
    fuzz::target!("signature", |input: &[u8]| {
        // The three headers, and the body. `SIGNED` is the signature.
        let Some(([id, timestamp, header], body)) = lines(input) else {
            return;
        };
        let secrets = [Secret::parse(SECRET).expect("it is published")];
        let at = timestamp.parse().unwrap_or(1_614_265_330);
        let signature = signature::sign(&secrets, id, at, body);
        let header = header.replace("SIGNED", &signature);
        let signed = Signed {
            id,
            timestamp,
            signature: &header,
        };
        let verified = signature::verify(&secrets, signed, body, at);
        let form = signature::verify_form(signed);
        // What `sign` makes is accepted, if it is for this time as it is written, and nothing else is.
        let is_of_sign = header.split(' ').any(|part| part == signature);
        if form.is_ok() && is_of_sign && timestamp == at.to_string() {
            assert_eq!(verified, Ok(()));
        }
        if verified.is_ok() {
            assert_eq!(form, Ok(at));
            assert!(is_of_sign && timestamp == at.to_string());
            let other = format!("{id}x");
            let changed = signature::verify(
                &secrets,
                Signed {
                    id: &other,
                    ..signed
                },
                body,
                at,
            );
            assert_eq!(changed, Err(signature::SignatureError::Digest));
            let receipt = signature::receipt(&secrets, id, timestamp);
            assert!(signature::is_receipt(&secrets, id, at, &receipt));
        }
        let is_receipt = signature::is_receipt(&secrets, id, at, &header);
        assert_eq!(
            is_receipt,
            header
                .split(' ')
                .any(|part| part == signature::receipt(&secrets, id, &at.to_string()))
        );
    });
}

#[test]
fn fuzz_linear_signature() {
    fuzz::target!("linear-signature", |input: &[u8]| {
        // The header, and the body. `SIGNED` is the signature.
        let Some(([header], body)) = lines(input) else {
            return;
        };
        let signature = linear_signature::sign(SECRET, body);
        let header = header.replace("SIGNED", &signature);
        let verified = linear_signature::verify(SECRET, body, &header);
        assert_eq!(verified, header.eq_ignore_ascii_case(&signature));
        let longer = [body, b" "].concat();
        assert!(!linear_signature::verify(SECRET, &longer, &signature));
    });
}

/// A message that is read stays the same when it is written and read again.
fn assert_is_kept<T: Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(input) {
        let written = serde_json::to_string(&message).expect("it was read");
        let again: T = serde_json::from_str(&written).expect("what is written can be read");
        assert_eq!(serde_json::to_string(&again).expect("it was read"), written);
    }
}

#[test]
fn fuzz_messages() {
    fuzz::target!("messages", |input: &[u8]| {
        assert_is_kept::<Register>(input);
        assert_is_kept::<Renew>(input);
        assert_is_kept::<Pull>(input);
        assert_is_kept::<Mailbox>(input);
        assert_is_kept::<Control>(input);
        assert_is_kept::<ChallengeResponse>(input);
    });
}
