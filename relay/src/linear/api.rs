//! Linear's GraphQL API: finds the user and the workspace of a token.
//!
//! Invariant: "Linear refuses this token" and "Linear could not be asked" are never confused. Only a `viewer` and an
//! `organization` in the answer prove a token, because public queries succeed without one.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use protocol::clock::UnixMillis;
use protocol::envelope::is_identifier;
use protocol::messages::Workspace;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use url::Url;

use crate::subscription::User;

use crate::outbound::{self, ClientError, FailedCall, Network, Outbound};

/// The endpoint of Linear's API.
pub(crate) const API_URL: &str = "https://api.linear.app/graphql";

/// Asks who the viewer is, and for one page of the teams whose issues the viewer can see.
const QUERY: &str = "query($after: String) { viewer { id name displayName email active guest app } \
     organization { id urlKey name } \
     teams(first: 250, after: $after) { nodes { id key } pageInfo { hasNextPage endCursor } } }";
/// How many pages of teams are read at most.
const MAX_PAGES: usize = 40;
/// How long Linear may take to answer, all pages together.
pub const TIMEOUT: Duration = Duration::from_secs(8);
const ANSWER_LIMIT: usize = 64 * 1024;
/// The longest name and e-mail address of a user in bytes. E-mail addresses have at most 254 (RFC 5321, section 4.5.3.1.3).
const MAX_TEXT: usize = 256;

/// When a registration may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The same after Linear's rate limit.
const RATE_LIMIT_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum LinearError {
    /// Linear does not accept the token.
    #[error("Linear does not accept this token: it may be mistyped, revoked or expired")]
    TokenInvalid,
    /// The token lacks a scope.
    #[error("Linear accepts this token but not for reading: it needs the `read` scope")]
    TokenForbidden,
    /// The token has no form that Linear knows.
    #[error(
        "Linear could not read this token: use an API key (`lin_api_…`) or an OAuth access token"
    )]
    TokenMalformed,
    /// The user may not register.
    #[error("the token belongs to a guest or to a user who is not active in this workspace")]
    UserRefused,
    /// Linear could not be asked.
    #[error("the token could not be checked: Linear's API {reason}; try again")]
    Unavailable {
        /// What Linear's API did.
        reason: String,
        /// When to try again.
        retry_after: Duration,
        /// Why there was no answer.
        source: Option<FailedCall>,
    },
}

/// A Linear user in a workspace.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) user: User,
    /// Whether the token is an OAuth access token, and not a personal API key.
    pub(crate) is_oauth: bool,
    /// The workspace that the token belongs to.
    pub(crate) workspace: Workspace,
    /// The keys of the teams that the user can see, by id.
    pub(crate) teams: BTreeMap<String, String>,
    /// When Linear was asked.
    pub(crate) asked_at: UnixMillis,
}

/// Linear's GraphQL API.
#[derive(Debug)]
pub(crate) struct Linear {
    client: Outbound,
    url: Url,
}

/// An object. What serde derives reads a list, too, as an object whose fields have no names.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

#[derive(Deserialize)]
struct GraphqlResponse {
    #[serde(default)]
    data: Option<Object<Data>>,
    #[serde(default)]
    errors: Option<Vec<Object<GraphqlError>>>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    viewer: Option<Object<Viewer>>,
    #[serde(default)]
    organization: Option<Object<Workspace>>,
    #[serde(default)]
    teams: Option<Object<Teams>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Teams {
    nodes: Vec<Object<Team>>,
    page_info: Object<PageInfo>,
}

#[derive(Deserialize)]
struct Team {
    id: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    #[serde(default)]
    end_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Viewer {
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    app: Option<bool>,
    #[serde(default)]
    active: Option<bool>,
    #[serde(default)]
    guest: Option<bool>,
}

#[derive(Deserialize)]
struct GraphqlError {
    #[serde(default)]
    extensions: Option<Object<Extensions>>,
}

#[derive(Default, Deserialize)]
struct Extensions {
    #[serde(default)]
    code: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

impl GraphqlResponse {
    fn has_error(&self, code: &str, kind: &str) -> bool {
        self.errors
            .iter()
            .flatten()
            .filter_map(|Object(error)| error.extensions.as_ref())
            .any(|Object(e)| {
                e.code.as_deref() == Some(code)
                    || (e.kind.as_deref()).is_some_and(|k| k.eq_ignore_ascii_case(kind))
            })
    }
}

impl Linear {
    /// A client for the API at `url`.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub(crate) fn new(network: Network, url: Url) -> Result<Self, ClientError> {
        let client = Outbound::new(network, None, TIMEOUT)?;
        Ok(Self { client, url })
    }

    /// Finds the user and the workspace of a token, and the teams that the user can see; `now` is when that is asked.
    ///
    /// # Errors
    ///
    /// Linear refuses the token, it belongs to a guest or an inactive user, or Linear could not be asked.
    pub(crate) async fn member(&self, token: &str, now: UnixMillis) -> Result<Member, LinearError> {
        let member = (tokio::time::timeout(TIMEOUT, self.read_pages(token)).await)
            .unwrap_or_else(|_| Err(unavailable("did not answer in time")))?;
        Ok(Member {
            asked_at: now,
            ..member
        })
    }

    async fn read_pages(&self, token: &str) -> Result<Member, LinearError> {
        let (mut member, mut after) = self.page(token, None).await?;
        for _ in 1..MAX_PAGES {
            if after.is_none() {
                return Ok(member);
            }
            let (more, next) = self.page(token, after.as_deref()).await?;
            member.teams.extend(more.teams);
            after = next;
        }
        Err(unavailable("names more teams than the relay reads"))
    }

    /// Reads one page of teams. Returns the cursor of the next one, too, if there is one.
    async fn page(
        &self,
        token: &str,
        after: Option<&str>,
    ) -> Result<(Member, Option<String>), LinearError> {
        let headers = outbound::headers([("authorization", authorization(token))])
            .map_err(|_| LinearError::TokenMalformed)?;
        let query = json!({"query": QUERY, "variables": {"after": after}}).to_string();
        let asked = self
            .client
            .ask(self.url.as_str(), headers, Bytes::from(query), ANSWER_LIMIT);
        let (status, body) = asked.await.map_err(|source| LinearError::Unavailable {
            reason: "could not be reached".to_owned(),
            retry_after: RETRY_AFTER,
            source: Some(source),
        })?;
        let (member, next) = decide(status, &body)?;
        let is_oauth = !is_key(bare_token(token));
        Ok((Member { is_oauth, ..member }, next))
    }
}

/// A token without the scheme that it may be written with.
pub(crate) fn bare_token(token: &str) -> &str {
    let token = token.trim();
    match token.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer ") => rest.trim(),
        _ => token,
    }
}

/// Whether a token is a personal API key.
fn is_key(token: &str) -> bool {
    token.starts_with("lin_api_")
}

/// The value of `Authorization`: a personal key as it is, every other token as a bearer token.
fn authorization(token: &str) -> String {
    let bare = bare_token(token);
    if is_key(bare) {
        bare.to_owned()
    } else {
        format!("Bearer {bare}")
    }
}

/// A text of Linear, at most as long as it is stored.
fn shortened(text: Option<String>) -> String {
    let mut text = text.unwrap_or_default();
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

fn unavailable(reason: impl Into<String>) -> LinearError {
    LinearError::Unavailable {
        reason: reason.into(),
        retry_after: RETRY_AFTER,
        source: None,
    }
}

/// What an answer says: the member with the teams of this page, and the cursor of the next page.
fn decide(status: StatusCode, body: &[u8]) -> Result<(Member, Option<String>), LinearError> {
    let answer: Option<GraphqlResponse> = serde_json::from_slice(body)
        .ok()
        .map(|Object(answer)| answer);
    let has_error = |code, kind| answer.as_ref().is_some_and(|a| a.has_error(code, kind));
    if has_error("AUTHENTICATION_ERROR", "authentication error")
        || status == StatusCode::UNAUTHORIZED
    {
        return Err(LinearError::TokenInvalid);
    }
    if has_error("RATELIMITED", "ratelimited") || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(LinearError::Unavailable {
            reason: "asks to wait".to_owned(),
            retry_after: RATE_LIMIT_RETRY_AFTER,
            source: None,
        });
    }
    // A 403 that is not GraphQL comes from something in front of Linear and says nothing about the token.
    if has_error("FORBIDDEN", "forbidden") || (status == StatusCode::FORBIDDEN && answer.is_some())
    {
        return Err(LinearError::TokenForbidden);
    }
    if !status.is_success() && !status.is_client_error() {
        return Err(unavailable(format!("answered {}", status.as_u16())));
    }
    let Some(answer) = answer else {
        return Err(unavailable("answered something that is not GraphQL"));
    };
    if status.is_client_error() {
        return Err(LinearError::TokenMalformed);
    }
    let Some(Object(Data {
        viewer: Some(Object(viewer)),
        organization: Some(Object(workspace)),
        teams: Some(Object(teams)),
    })) = answer.data
    else {
        return Err(unavailable(
            "answered without a viewer, an organization and teams",
        ));
    };
    if !is_identifier(&workspace.id) || !is_identifier(&viewer.id) {
        return Err(unavailable(
            "answered with an identifier of an unknown form",
        ));
    }
    if viewer.active == Some(false) || viewer.guest == Some(true) {
        return Err(LinearError::UserRefused);
    }
    let next = next_page(teams.page_info.0)?;
    let member = Member {
        user: User {
            id: viewer.id,
            name: shortened(viewer.name),
            display_name: shortened(viewer.display_name),
            email: shortened(viewer.email),
            is_app: viewer.app == Some(true),
        },
        is_oauth: false,
        workspace,
        teams: (teams.nodes.into_iter())
            .map(|Object(team)| (team.id, team.key))
            .collect(),
        asked_at: 0,
    };
    Ok((member, next))
}

/// The cursor of the next page, if there is one. Without its cursor it cannot be read, and a member with a part of the teams would lose
/// the events of the others.
fn next_page(page: PageInfo) -> Result<Option<String>, LinearError> {
    match page.end_cursor {
        _ if !page.has_next_page => Ok(None),
        Some(cursor) => Ok(Some(cursor)),
        None => Err(unavailable("names no cursor for the next page of teams")),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const REFUSED: &str = r#"{"errors":[{"message":"Authentication required, not authenticated","extensions":{"type":"authentication error","code":"AUTHENTICATION_ERROR","statusCode":401}}]}"#;
    const LIMITED: &str =
        r#"{"errors":[{"message":"slow down","extensions":{"code":"RATELIMITED"}}]}"#;

    /// The fields of a valid answer, without their names.
    const LISTS: &str = r#"[[["u"],["o","k","n"],[[["t","ENG"]],[true,"c"]]]]"#;

    fn valid(viewer: &str) -> String {
        format!(
            r#"{{"data":{{"viewer":{{"id":"u",{viewer}}},"organization":{{"id":"o","urlKey":"k","name":"n"}},
            "teams":{{"nodes":[{{"id":"t","key":"ENG"}}],"pageInfo":{{"hasNextPage":true,"endCursor":"c"}}}}}}}}"#
        )
    }

    #[test]
    fn every_answer_of_linear_has_its_error() {
        let member = valid(r#""active":true,"guest":false"#);
        let null = member.replacen('{', r#"{"errors":null,"#, 1);
        let partial = member.replacen('{', r#"{"errors":[{"message":"x"}],"#, 1);
        for (status, body, expected) in [
            (200, member.as_str(), "valid"),
            (200, &partial, "valid"),
            (200, &null, "valid"),
            (200, &valid(r#""active":false"#), "linear_user_refused"),
            (200, &valid(r#""guest":true"#), "linear_user_refused"),
            (401, REFUSED, "linear_token_invalid"),
            (401, "", "linear_token_invalid"),
            (400, REFUSED, "linear_token_invalid"),
            (200, REFUSED, "linear_token_invalid"),
            (400, LIMITED, "linear_unavailable"),
            (429, "", "linear_unavailable"),
            (
                500,
                REFUSED
                    .replace("AUTHENTICATION_ERROR", "X")
                    .replace("authentication error", "x")
                    .as_str(),
                "linear_unavailable",
            ),
            (502, "<html>", "linear_unavailable"),
            (302, "", "linear_unavailable"),
            (200, LISTS, "linear_unavailable"),
            (403, LISTS, "linear_unavailable"),
            (200, &member.replace(r#""c""#, "null"), "linear_unavailable"),
            (100, &member, "linear_unavailable"),
            (999, &member, "linear_unavailable"),
            (403, "<html>", "linear_unavailable"),
            (200, "<html>", "linear_unavailable"),
            (200, "{}", "linear_unavailable"),
            (
                200,
                r#"{"data":{"viewer":null,"organization":null}}"#,
                "linear_unavailable",
            ),
            (
                200,
                r#"{"data":{"viewer":{"id":"u"}}}"#,
                "linear_unavailable",
            ),
            (200, &member.replace("teams", "team"), "linear_unavailable"),
            (
                400,
                r#"{"errors":[{"message":"It looks like you're trying to use an API key as a Bearer token"}]}"#,
                "linear_token_malformed",
            ),
            (
                403,
                r#"{"errors":[{"message":"Invalid scope: `read` required"}]}"#,
                "linear_token_forbidden",
            ),
            (
                400,
                r#"{"errors":[{"extensions":{"type":"forbidden"}}]}"#,
                "linear_token_forbidden",
            ),
        ] {
            let code = match decide(StatusCode::from_u16(status).unwrap(), body.as_bytes()) {
                Ok((member, next)) => {
                    assert_eq!(member.user.id, "u");
                    assert_eq!((&*member.teams["t"], next.as_deref()), ("ENG", Some("c")));
                    "valid"
                }
                Err(error) => Error::from(error).code().as_str(),
            };
            assert_eq!(code, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_key_goes_as_it_is_and_a_token_as_bearer() {
        for (token, expected) in [
            ("lin_api_x", "lin_api_x"),
            (" Bearer lin_api_x ", "lin_api_x"),
            ("lin_oauth_x", "Bearer lin_oauth_x"),
            ("bearer lin_oauth_x", "Bearer lin_oauth_x"),
            ("é", "Bearer é"),
        ] {
            assert_eq!(authorization(token), expected);
        }
    }
}
