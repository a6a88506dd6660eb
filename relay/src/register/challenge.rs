//! The challenge: an address is registered only after it has echoed a random text, so that the relay cannot be aimed at a
//! stranger.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use protocol::messages::{ChallengeResponse, Control};
use protocol::problem::Code;

use crate::egress::UrlError;
use crate::error::Error;
use crate::outbound::{self, Outbound, SendError};

/// How long an address may take to answer the challenge.
pub const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(3);
/// How much of the answer is read.
const ANSWER_BYTES: usize = 16 * 1024;

/// Sends a challenge with this nonce to `url`.
pub(super) async fn challenge(
    client: &Outbound,
    url: &str,
    nonce: Option<&str>,
) -> Result<(), Error> {
    let mut random = [0; 24];
    getrandom::fill(&mut random).expect("the system's random source works");
    let challenge = hex::encode(random);
    let body = serde_json::to_vec(&Control::Challenge {
        challenge: challenge.clone(),
        nonce: nonce.map(str::to_owned),
    })
    .expect("a challenge is a text");
    let headers = outbound::headers([])?;
    let failed = |reason: &str| {
        Error::refused(
            Code::ChallengeFailed,
            format!(
                "`webhookUrl` has to answer the POSTed challenge with 200 and \
                 `{{\"challenge\":\"<the same text>\"}}`: {reason}"
            ),
        )
    };
    let asked = client.ask(url, headers, Bytes::from(body), ANSWER_BYTES);
    let (status, answer) = match asked.await {
        Ok(answered) => answered,
        Err(call) if call.error == SendError::Blocked => return Err(UrlError::Blocked.into()),
        Err(call) => return Err(failed(&call.to_string())),
    };
    if status != StatusCode::OK {
        return Err(failed(&format!("it answered {}", status.as_u16())));
    }
    match serde_json::from_slice::<ChallengeResponse>(&answer) {
        Ok(answer) if answer.challenge == challenge => Ok(()),
        _ => Err(failed("it answered something else")),
    }
}
