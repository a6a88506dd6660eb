//! `verify`: why a delivery verifies or does not, from a capture of its headers and its body.

use std::path::{Path, PathBuf};

use clap::Args;
use protocol::clock::UnixSeconds;
use protocol::signature::{Secret, SignatureError, verify, verify_age};
use serde::Serialize;

use super::{print, print_json};
use crate::config::read_secret;
use crate::context::Context;
use crate::delivery::signed;
use crate::failure::Failure;
use crate::output::hint;
use crate::store::Headers;

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The headers: `Name: value` lines, or a JSON object
    #[arg(long, value_name = "FILE")]
    headers: PathBuf,
    /// The raw body, byte for byte
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// A file with the signing secret, `whsec_…` [default: this worker's]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Verification {
    verifies: bool,
    format: Verdict,
    age: Verdict,
    digest: Verdict,
}

/// The result of one check; unknown if an earlier one failed.
#[derive(Serialize)]
#[serde(untagged)]
enum Verdict {
    Well(bool),
    Failed(String),
    Unknown(Option<()>),
}

impl Verdict {
    const WELL: Self = Self::Well(true);
    const UNKNOWN: Self = Self::Unknown(None);

    fn text(&self) -> String {
        match self {
            Self::Well(_) => "ok".to_owned(),
            Self::Failed(why) => format!("failed: {why}"),
            Self::Unknown(_) => "not checked".to_owned(),
        }
    }
}

pub(crate) fn run(context: &Context, arguments: &Verify) -> Result<(), Failure> {
    let headers = read_headers(&arguments.headers)?;
    let body = read_file(&arguments.body)?;
    let now = context.clock.millis();
    let secrets =
        match &arguments.secret_file {
            None => context
                .registration()?
                .secrets
                .valid_at(now)
                .cloned()
                .collect(),
            Some(file) => vec![Secret::parse(&read_secret(file)?).map_err(|error| {
                Failure::Configuration(format!("`{}`: {error}", file.display()))
            })?],
        };
    let facts = check(&secrets, &headers, &body, now / 1000);
    if context.json {
        print_json(&facts)?;
    } else {
        let line = |name: &str, check: &Verdict| format!("{name:<7} {}\n", check.text());
        let text = [
            line("format", &facts.format),
            line("age", &facts.age),
            line("digest", &facts.digest),
        ];
        print(text.concat().as_bytes())?;
    }
    if facts.verifies {
        return Ok(());
    }
    if let Verdict::Failed(_) = facts.digest {
        match changed_on_the_way(&secrets, &headers, &body) {
            Some(how) => hint(how),
            None => {
                hint("take the bytes as they came: not parsed, not written again, not re-encoded")
            }
        }
    }
    Err(Failure::Unhealthy("it does not verify".to_owned()))
}

/// Each check by itself: an old delivery can have the right digest.
fn check(secrets: &[Secret], headers: &Headers, body: &[u8], now: UnixSeconds) -> Verification {
    let signed = signed(headers);
    let (mut format, mut age, mut digest) = (Verdict::WELL, Verdict::WELL, Verdict::WELL);
    match verify(secrets, signed, body, now) {
        Ok(()) => {}
        Err(error @ SignatureError::Format { .. }) => {
            format = Verdict::Failed(error.to_string());
            (age, digest) = (Verdict::UNKNOWN, Verdict::UNKNOWN);
        }
        Err(error @ SignatureError::Age { .. }) => age = Verdict::Failed(error.to_string()),
        Err(error @ SignatureError::Digest) => {
            digest = Verdict::Failed(error.to_string());
            let at = signed.timestamp.parse().unwrap_or(now);
            if let Err(error) = verify_age(at, now) {
                age = Verdict::Failed(error.to_string());
            }
        }
    }
    Verification {
        verifies: matches!(
            (&format, &age, &digest),
            (Verdict::Well(_), Verdict::Well(_), Verdict::Well(_))
        ),
        format,
        age,
        digest,
    }
}

/// The change by an editor or a shell that would explain a wrong digest, if there is one.
fn changed_on_the_way(secrets: &[Secret], headers: &Headers, body: &[u8]) -> Option<&'static str> {
    let signed = signed(headers);
    let then = signed.timestamp.parse().ok()?;
    let is_right = |body: &[u8]| verify(secrets, signed, body, then).is_ok();
    let text = String::from_utf8_lossy(body);
    let without = text.strip_suffix('\n').unwrap_or(&text);
    if is_right(without.as_bytes()) || is_right(without.trim_end_matches('\r').as_bytes()) {
        return Some("it matches without the last line break: the file has one that was not sent");
    }
    if is_right(format!("{text}\n").as_bytes()) {
        return Some("it matches with a line break at its end: the file lacks one that was sent");
    }
    if is_right(text.replace("\r\n", "\n").as_bytes())
        || is_right(text.replace('\n', "\r\n").as_bytes())
    {
        return Some("it matches with other line breaks: LF and CRLF were exchanged");
    }
    if is_right(text.trim_start_matches('\u{feff}').as_bytes()) {
        return Some("it matches without the byte order mark at its beginning");
    }
    None
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })
}

fn read_headers(file: &Path) -> Result<Headers, Failure> {
    let text = String::from_utf8_lossy(&read_file(file)?).into_owned();
    let wrong = |what: &str| {
        Failure::Configuration(format!(
            "`{}`: {what}; use `Name: value` lines, or a JSON object of texts",
            file.display()
        ))
    };
    let pairs: Vec<(String, String)> = if text.trim_start().starts_with('{') {
        serde_json::from_str::<std::collections::BTreeMap<String, String>>(&text)
            .map_err(|_| wrong("not a JSON object of texts"))?
            .into_iter()
            .collect()
    } else {
        let mut pairs = Vec::new();
        for (at, line) in text.lines().enumerate() {
            // The first line of a capture may be that of the request.
            if line.trim().is_empty() || (at == 0 && line.contains(" HTTP/")) {
                continue;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| wrong(&format!("line {} has no colon", at + 1)))?;
            pairs.push((name.to_owned(), value.to_owned()));
        }
        pairs
    };
    Ok(Headers(
        pairs
            .into_iter()
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().into()))
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(secret: &Secret, at: UnixSeconds, body: &[u8]) -> Headers {
        let signature = protocol::signature::sign(std::slice::from_ref(secret), "evt_1", at, body);
        Headers(
            [
                ("webhook-id", "evt_1".to_owned()),
                ("webhook-timestamp", at.to_string()),
                ("webhook-signature", signature),
            ]
            .map(|(name, value)| (name.to_owned(), value.into_bytes()))
            .to_vec(),
        )
    }

    #[test]
    fn each_check_is_reported_separately() {
        let secret = [Secret::generate()];
        let results = |at: UnixSeconds, body: &[u8]| {
            let facts = check(&secret, &headers(&secret[0], at, b"{}"), body, 1_000);
            [facts.format, facts.age, facts.digest].map(|check| check.text())
        };
        assert_eq!(results(1_000, b"{}"), ["ok", "ok", "ok"]);
        let [_, age, digest] = results(0, b"{}");
        assert!(age.contains("1000 s ago") && digest == "ok");
        let [_, age, digest] = results(0, b"{ }");
        assert!(age.contains("1000 s ago") && digest.contains("no signature matches"));
        let none = check(&secret, &Headers::default(), b"", 0);
        assert!(none.format.text().contains("webhook-id"));
        assert_eq!(none.digest.text(), "not checked");
    }

    #[test]
    fn what_editors_do_to_a_body_is_recognised() {
        let secret = [Secret::generate()];
        for (sent, has, hint) in [
            ("{}", "{}\n", "without the last line break"),
            ("{}\n", "{}", "with a line break at its end"),
            ("{\r\n}", "{\n}", "LF and CRLF"),
            ("{}", "\u{feff}{}", "byte order mark"),
        ] {
            let headers = headers(&secret[0], 5, sent.as_bytes());
            let found = changed_on_the_way(&secret, &headers, has.as_bytes());
            assert!(found.is_some_and(|found| found.contains(hint)), "{has:?}");
        }
        let headers = headers(&secret[0], 5, b"{}");
        assert_eq!(changed_on_the_way(&secret, &headers, b"[]"), None);
    }
}
