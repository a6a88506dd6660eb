//! The limits on what one caller can make the relay do: registrations, failed ones, and challenges.
//!
//! Before Linear has answered, nothing is known of a caller but its address, which a whole office may share. So only failures
//! count against an address, and a token that Linear has accepted before is not held up by them: there the user counts, before
//! Linear is asked again.

use std::time::Duration;

use protocol::envelope::digest;
use protocol::problem::Code;

use super::Register;
use super::challenge::{CHALLENGE_TIMEOUT, challenge};
use crate::error::Error;
use crate::linear::api::{LinearError, Member, bare_token};
use crate::table::Counted;

/// For how long a challenge counts as under way if its end is not recorded: its own limit, and the name resolution and the
/// writes around it.
const CHALLENGE_ENDS_AFTER: Duration = Duration::from_secs(CHALLENGE_TIMEOUT.as_secs() + 5);

/// What a user's registrations and challenges are counted by.
pub(super) fn user_key(workspace: &str, user: &str) -> String {
    format!("{workspace}-{user}")
}

impl Register {
    /// Asks Linear whose token this is, if the user has not shown too many in this minute, and too many from this address have not
    /// been in vain.
    pub(super) async fn member(&self, token: &str, caller: &str) -> Result<Member, Error> {
        // However the token is written, it is the same one.
        let token = bare_token(token);
        let digest = digest(token.as_bytes());
        let now = self.clock.millis();
        if let Some(user) = self.table.user_of_token(&digest).await? {
            self.limit(&format!("registrations-{user}")).await?;
            let asked = self.linear.member(token, now).await;
            if let Err(LinearError::TokenInvalid) = asked {
                self.table.forget_token(&digest).await?;
            }
            return Ok(asked?);
        }
        // Also while Linear is down: a flood must not reach it then, either.
        let counted = self.limit(&format!("failed-{caller}")).await?;
        let member = self.linear.member(token, now).await?;
        self.table.uncount_call(counted).await?;
        let user = user_key(&member.workspace.id, &member.user.id);
        self.table.remember_token(&digest, &user).await?;
        self.limit(&format!("registrations-{user}")).await?;
        Ok(member)
    }

    /// Challenges an address for a user, unless there are too many challenges of the user or too many failed ones from the
    /// caller's address.
    pub(super) async fn challenge(
        &self,
        user: &str,
        caller: &str,
        url: &str,
        nonce: Option<&str>,
    ) -> Result<(), Error> {
        self.limit(&format!("challenges-{user}")).await?;
        let counted = (self.limit(&format!("failed-challenges-{caller}"))).await?;
        let slot = self.table.take_challenge_slot(user, CHALLENGE_ENDS_AFTER);
        let Some(slot) = slot.await? else {
            return Err(too_many(
                "other challenges of this user are under way".to_owned(),
                CHALLENGE_TIMEOUT,
            ));
        };
        let challenged = challenge(&self.outbound, url, nonce).await;
        // A slot that cannot be given back ends by itself.
        let _ = self.table.free_challenge_slot(slot).await;
        challenged?;
        self.table.uncount_call(counted).await?;
        Ok(())
    }

    /// Counts a call and refuses it when there were too many in this minute.
    pub(super) async fn limit(&self, caller: &str) -> Result<Counted, Error> {
        let counted = self.table.count_call(caller).await?;
        let limit = self.config.registrations_per_minute;
        if counted.calls <= limit {
            return Ok(counted);
        }
        Err(too_many(
            format!("there were more than {limit} of these in this minute"),
            counted.wait,
        ))
    }
}

fn too_many(reason: String, wait: Duration) -> Error {
    Error::Refused {
        code: Code::TooManyRegistrations,
        detail: format!("{reason}: try again in {} s", wait.as_secs().max(1)),
        retry_after: Some(wait),
    }
}
