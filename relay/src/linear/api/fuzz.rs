//! A fuzz target for the answers of Linear's API, compared with a reader that looks into any JSON.

use http::StatusCode;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{LinearError, MAX_TEXT, Member, decide, is_identifier};

/// Whether an error in an answer has this code.
fn has_code(answer: &Value, code: &str) -> bool {
    let errors = answer["errors"].as_array().into_iter().flatten();
    let mut extensions = errors.map(|error| &error["extensions"]);
    extensions.any(|extensions| extensions["code"] == code)
}

/// An answer that proves a token says all of this.
fn assert_is_proof(status: StatusCode, answer: &Value, member: &Member, next: Option<&str>) {
    assert!(status.is_success(), "{status}");
    assert!(!has_code(answer, "AUTHENTICATION_ERROR") && !has_code(answer, "FORBIDDEN"));
    let (data, user) = (&answer["data"], &member.user);
    let (viewer, teams) = (&data["viewer"], &data["teams"]);
    assert_eq!(
        (&viewer["id"], &data["organization"]["id"]),
        (&Value::from(&*user.id), &Value::from(&*member.workspace.id))
    );
    assert!(is_identifier(&user.id) && is_identifier(&member.workspace.id));
    assert!(viewer["active"] != false && viewer["guest"] != true);
    assert_eq!(user.is_app, viewer["app"] == true);
    for (text, written) in [
        (&user.name, &viewer["name"]),
        (&user.display_name, &viewer["displayName"]),
        (&user.email, &viewer["email"]),
    ] {
        let written = written.as_str().unwrap_or_default();
        assert!(text.len() <= MAX_TEXT && written.starts_with(&**text));
    }
    let nodes = teams["nodes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let named = |(id, key): (&String, &String)| {
        nodes
            .iter()
            .any(|team| team["id"] == **id && team["key"] == **key)
    };
    assert!(member.teams.iter().all(named));
    // A member of whom not all teams are known would lose the events of the others.
    assert!(nodes.iter().all(|team| {
        team["id"]
            .as_str()
            .is_some_and(|id| member.teams.contains_key(id))
    }));
    assert_eq!(teams["pageInfo"]["hasNextPage"] == true, next.is_some());
}

#[test]
fn fuzz_linear_answer() {
    fuzz::target!("linear-answer", |input: &[u8]| {
        // The status, a line feed, and the body.
        let mut parts = input.splitn(2, |b| *b == b'\n');
        let status = parts
            .next()
            .and_then(|status| StatusCode::from_bytes(status).ok());
        let (Some(status), Some(body)) = (status, parts.next()) else {
            return;
        };
        let decided = decide(status, body);
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            // What is skipped may be a text or a number that cannot be read.
            assert!(decided.is_err() || serde_json::from_slice::<IgnoredAny>(body).is_ok());
            return;
        };
        match decided {
            Ok((member, next)) => assert_is_proof(status, &answer, &member, next.as_deref()),
            Err(LinearError::TokenInvalid) => {
                let kind = |error: &Value| {
                    error["extensions"]["type"]
                        .as_str()
                        .unwrap_or_default()
                        .to_lowercase()
                };
                let mut errors = answer["errors"].as_array().into_iter().flatten();
                let says_so = has_code(&answer, "AUTHENTICATION_ERROR")
                    || errors.any(|error| kind(error) == "authentication error");
                assert!(status == StatusCode::UNAUTHORIZED || says_so);
            }
            // What is not GraphQL says nothing about a token.
            Err(
                LinearError::TokenForbidden
                | LinearError::TokenMalformed
                | LinearError::UserRefused,
            ) => {
                assert!(answer.is_object() && status != StatusCode::UNAUTHORIZED);
            }
            Err(LinearError::Unavailable { .. }) => assert_ne!(status, StatusCode::UNAUTHORIZED),
        }
    });
}
