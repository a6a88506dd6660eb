//! The errors of both HTTP interfaces, the relay's and the agent's: RFC 9457 `application/problem+json` with a stable
//! code.
//!
//! Every code is declared once, in [`Code`], with its status, its meaning and its remedy. The table in
//! `docs/api.md` is generated from it.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error in a response. `code` is text, so that a reader accepts the codes of a newer sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The reason phrase of the status (RFC 9457, section 4.2.1).
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable, for programs: [`Code::as_str`].
    pub code: String,
    /// What was wrong and what would be right, for people.
    pub detail: String,
}

impl Problem {
    /// A problem with the status and title of its code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            code: code.as_str().to_owned(),
            detail: detail.into(),
        }
    }

    /// Whether the problem has this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.as_str()
    }
}

/// Which HTTP interface answers with a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The relay.
    Relay,
    /// The agent.
    Agent,
    /// Both.
    Both,
}

macro_rules! codes {
    ($($name:ident = $code:literal, $status:ident, $origin:ident, $meaning:literal, $remedy:literal;)*) => {
        /// A problem's code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// All codes, by name.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code in a response.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// The status of the response.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }

            /// Which interface answers with the code.
            pub const fn origin(self) -> Origin {
                match self {
                    $(Self::$name => Origin::$origin,)*
                }
            }

            /// What the code says about the request.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }

            /// What the caller or the operator can do about it.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }
        }
    };
}

codes! {
    AddressBlocked = "address_blocked", BAD_REQUEST, Relay,
        "`webhookUrl` is not a public https address.",
        "Register the public address of the worker, or leave `webhookUrl` out and pull.";
    BodyIncomplete = "body_broken_off", BAD_REQUEST, Relay,
        "The connection ended before the whole body was received.",
        "Send the request again.";
    BodyMalformed = "body_malformed", BAD_REQUEST, Relay,
        "The webhook's body is not JSON, or a top-level field that the relay needs is missing, repeated or malformed.",
        "Send a payload as Linear sends it; `detail` names the field.";
    BodyNotUtf8 = "body_not_utf8", BAD_REQUEST, Relay,
        "The webhook's body is not UTF-8.",
        "Send JSON in UTF-8.";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, Both,
        "The body is larger than this path accepts.",
        "Send less; `detail` has the limit in bytes.";
    BodyTooSlow = "body_too_slow", REQUEST_TIMEOUT, Both,
        "The body was not received in time.",
        "Send the request again over a faster connection.";
    ChallengeFailed = "challenge_failed", BAD_REQUEST, Relay,
        "`webhookUrl` did not answer the challenge with 200 and the same text.",
        "Start the receiver before registering its address; `detail` says what the address answered.";
    ChallengeSigned = "challenge_signed", BAD_REQUEST, Agent,
        "A challenge carried a signature. A challenge is sent before there is a secret to sign with.",
        "None: the relay does not send such a request.";
    DeliveryInvalid = "delivery_invalid", BAD_REQUEST, Relay,
        "The webhook has no `Linear-Delivery` header, several, or one that is not an identifier.",
        "Send exactly one `Linear-Delivery` header, 1 to 64 of A-Z a-z 0-9 _ -.";
    Ending = "ending", SERVICE_UNAVAILABLE, Agent,
        "The agent is shutting down and accepts no more deliveries.",
        "None: the relay keeps the delivery in the mailbox.";
    Internal = "internal_error", INTERNAL_SERVER_ERROR, Relay,
        "The request failed by a defect of the relay, or because an item in its table is malformed.",
        "Look for the request in the log and report the defect.";
    InvalidAck = "invalid_ack", BAD_REQUEST, Relay,
        "`ack` holds more identifiers than one call accepts, or one that is not from a mailbox.",
        "Acknowledge the `id`s of pulled events, at most 100 in one call.";
    InvalidLimit = "invalid_limit", BAD_REQUEST, Relay,
        "`limit` is out of range.",
        "Use a whole number from 1 to 100.";
    InvalidRequest = "invalid_request", BAD_REQUEST, Relay,
        "The body is not a JSON object, or one of its fields is missing or malformed.",
        "Correct the field that `detail` names.";
    InvalidWebhookUrl = "invalid_webhook_url", BAD_REQUEST, Relay,
        "`webhookUrl` is not an address that a worker can have.",
        "Use https on port 443 or above 1023, without user, password and fragment.";
    LinearTokenForbidden = "linear_token_forbidden", FORBIDDEN, Relay,
        "Linear accepts the token but does not let it read.",
        "Create a token with the `read` scope.";
    LinearTokenInvalid = "linear_token_invalid", UNAUTHORIZED, Relay,
        "Linear does not accept the token.",
        "Create a new token: this one is mistyped, revoked or expired.";
    LinearTokenMalformed = "linear_token_malformed", BAD_REQUEST, Relay,
        "Linear could not read the token.",
        "Use an API key (`lin_api_…`) or an OAuth access token.";
    LinearUnavailable = "linear_unavailable", SERVICE_UNAVAILABLE, Relay,
        "The token could not be checked, because Linear's API was unreachable or answered with an error.",
        "Try again after `Retry-After`.";
    LinearUserDiffers = "linear_user_differs", FORBIDDEN, Relay,
        "The token belongs to another user, or to another workspace, than the one that registered the worker.",
        "Show the token of the same user, or register again.";
    LinearUserRefused = "linear_user_refused", FORBIDDEN, Relay,
        "The token belongs to a guest, or to a user who is not active in the workspace.",
        "Use the token of an active member.";
    MembershipCheckDue = "membership_check_due", FORBIDDEN, Relay,
        "The relay has not seen for a long time that the worker's user is a member of the workspace. Its events are parked meanwhile.",
        "Renew with a `linearToken`: `edge-agent` does so if it has a Linear token.";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, Both,
        "The path does not accept this method.",
        "Use a method that the `Allow` header names.";
    NameInUse = "name_in_use", CONFLICT, Relay,
        "The same user has a worker of this name that is in use, and the registration was not to replace it.",
        "Give one of the two another name, or register with `replace` to take over.";
    NotFound = "not_found", NOT_FOUND, Both,
        "There is nothing at this path.",
        "Correct the path.";
    NotRegistering = "not_registering", FORBIDDEN, Agent,
        "A challenge arrived while the agent was not registering.",
        "None: the agent confirms its address only for its own registration.";
    NotStored = "not_stored", SERVICE_UNAVAILABLE, Agent,
        "The event could not be stored.",
        "Free disk space, or look at the agent's output; the relay delivers the event again.";
    SignatureAge = "signature_age", UNAUTHORIZED, Agent,
        "The signature is older or newer than five minutes.",
        "Set the machine's clock.";
    SignatureDigest = "signature_digest", UNAUTHORIZED, Agent,
        "No signature matches the body.",
        "Use the secret of this registration, and let nothing on the way change the body.";
    SignatureFormat = "signature_format", UNAUTHORIZED, Agent,
        "A signature header is missing or malformed.",
        "Send the three headers of Standard Webhooks; `detail` names the header.";
    SignatureInvalid = "signature_invalid", UNAUTHORIZED, Relay,
        "`Linear-Signature` is not that of the body with any secret that the relay has.",
        "Store the secret that Linear shows for the webhook.";
    SignatureMissing = "signature_missing", UNAUTHORIZED, Relay,
        "The webhook has no `Linear-Signature` header, or several.",
        "Send exactly one `Linear-Signature` header.";
    StorageUnavailable = "storage_unavailable", SERVICE_UNAVAILABLE, Relay,
        "DynamoDB, SQS or Secrets Manager failed or throttled a call, or took longer than a webhook may take.",
        "Try again after `Retry-After`. The operator finds the cause in the log.";
    TimestampInFuture = "timestamp_in_future", UNAUTHORIZED, Relay,
        "`webhookTimestamp` is more than a minute in the future.",
        "Set the sender's clock.";
    TimestampTooOld = "timestamp_too_old", UNAUTHORIZED, Relay,
        "`webhookTimestamp` is older than `ACCEPTED_AGE_SECONDS`.",
        "None: the webhook is a replay, or Linear's last retry came too late.";
    TooManyRegistrations = "too_many_registrations", TOO_MANY_REQUESTS, Relay,
        "The user has made too many registrations, membership checks or challenges in this minute or has two challenges under way, or too many from this address have failed.",
        "Try again after `Retry-After`.";
    TooManyWorkers = "too_many_workers", FORBIDDEN, Relay,
        "The user, or the workspace, has as many workers as it may have.",
        "Remove workers that are not used any more (`edge-agent forget`), or wait until their leases end.";
    UnknownTeam = "unknown_team", BAD_REQUEST, Relay,
        "`filter.teams` names a team that does not exist, or that the user of the token cannot see.",
        "Use the keys of teams as Linear shows them, such as `ENG`.";
    WebhookSecretsMalformed = "webhook_secrets_malformed", SERVICE_UNAVAILABLE, Relay,
        "The webhook secrets in Secrets Manager cannot be parsed.",
        "Store one secret of at least 16 characters, one `{\"secret\",\"workspace\"?}`, or a JSON list of them. Linear tries again meanwhile.";
    WorkerChanged = "worker_changed", CONFLICT, Relay,
        "Another call changed the worker at the same time.",
        "Try again.";
    WorkerTokenInvalid = "worker_token_invalid", UNAUTHORIZED, Relay,
        "The worker is unknown, removed or expired, or the token is not its token.",
        "Register again.";
    WorkerTokenMissing = "worker_token_missing", UNAUTHORIZED, Relay,
        "The request has no `Authorization: Bearer` header.",
        "Send the token from the registration.";
    WorkerTokenReplaced = "worker_token_replaced", UNAUTHORIZED, Relay,
        "The same user has registered the same name again, and the newer registration receives the events.",
        "Give one of the two another name, or register again to take over.";
    WorkspaceNotServed = "workspace_not_served", FORBIDDEN, Relay,
        "The relay does not serve the workspace of the token: its operator has not named it, or no webhook of it has arrived.",
        "Trigger any change in Linear, or have the operator name the workspace in `WORKSPACES`.";
    WorkspaceNotSigned = "workspace_not_signed", UNAUTHORIZED, Relay,
        "The secret that signed the webhook belongs to another workspace.",
        "Correct the `workspace` of the secret in `LINEAR_WEBHOOK_SECRETS`.";
}

impl Code {
    /// The reason phrase of the status.
    pub fn title(self) -> &'static str {
        self.status().canonical_reason().unwrap_or("Error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    const BEGIN: &str = "<!-- Generated from protocol/src/problem.rs by its tests. -->\n";

    #[test]
    fn the_page_of_errors_is_generated_from_the_codes() {
        let mut table =
            String::from("| code | status | from | meaning | remedy |\n|---|---|---|---|---|\n");
        for code in Code::ALL {
            let origin = match code.origin() {
                Origin::Relay => "relay",
                Origin::Agent => "agent",
                Origin::Both => "both",
            };
            let (name, status) = (code.as_str(), code.status().as_u16());
            let (meaning, remedy) = (code.meaning(), code.remedy());
            let row = format!("| `{name}` | {status} | {origin} | {meaning} | {remedy} |\n");
            table.push_str(&row);
        }
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (before, _) = page.split_once(BEGIN).unwrap();
        let expected = format!("{before}{BEGIN}{table}");
        if page != expected {
            std::fs::write(PAGE, expected).unwrap();
            panic!("docs/api.md was out of date and has been generated again: commit it");
        }
    }

    #[test]
    fn codes_are_sorted_and_each_occurs_once() {
        let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(codes.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn a_code_of_a_newer_sender_is_read() {
        let json = r#"{"title":"Gone","status":410,"code":"brand_new","detail":"…","more":1}"#;
        let problem: Problem = serde_json::from_str(json).unwrap();
        assert!(!problem.is(Code::NotFound));
    }
}
