//! What happens in the histories, one of which comes to each place.

use std::time::Duration;

use local::linear_api::{Account, LinearApi};
use local::samples::WORKSPACE;
use protocol::clock::{elapsed, millis};
use serde_json::{Value, json};

use super::cloud::{LEASE, MAILBOX};
use super::history::History;
use crate::harness::{Answer, TOKEN, issue, large_issue, number};

const HOUR: Duration = Duration::from_secs(3600);

/// Does not fit into a message, compressed or not.
const LARGE: usize = 250_000;
/// Fits into a message, and not into an item of a mailbox.
const MIDDLE: usize = 100_000;
/// Quotation marks that fit into an event, and not, as text in the JSON of an answer, into the answer to a pull.
const QUOTES: usize = 1_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Seven events about two issues, to a worker whose mailbox the relay delivers (Ann), to one that pulls it (Bob), and to a
    /// group of two. Ann and Bob are away in between; Ann's membership is checked, and Ann rejects an event; Bob leaves.
    Mailboxes,
    /// Workers whose users see one team more, or no other one, or lose their access.
    Members,
    /// Workers that are not there, are probed, come back, or let their lease or their mailbox end.
    Silence,
}

impl Script {
    pub(super) const ALL: [Self; 3] = [Self::Mailboxes, Self::Members, Self::Silence];
}

impl History {
    pub(super) async fn mailboxes(&mut self) {
        const REJECTED: usize = 6;
        self.register("ann", json!({})).await;
        self.register("bob", json!({"pulls": true})).await;
        self.register("cy", json!({"group": "g"})).await;
        self.register("di", json!({"group": "g"})).await;
        self.post(&issue("i", 1)).await;
        self.post(&issue("j", 2)).await;
        self.post(&large_issue("i", 3, LARGE)).await;
        self.cloud.settle().await;

        self.renew("ann", json!({"state": "away"})).await;
        self.renew("bob", json!({"state": "away"})).await;
        self.post(&issue("i", 4)).await;
        self.post(&large_issue("j", 5, LARGE)).await;
        self.cloud.settle().await;
        self.watch(2).await;
        self.renew("ann", json!({})).await;
        self.pull("bob").await;
        self.cloud.settle().await;

        // A membership check.
        self.renew("ann", json!({"linearToken": TOKEN})).await;
        let rejects = Answer::To("\"number\":6", 400);
        self.workers["ann"].receiver.answer([rejects]);
        self.post(&issue("i", REJECTED)).await;
        self.cloud.settle().await;
        self.pull("bob").await;
        self.remove("bob").await;
        self.post(&issue("i", 7)).await;
        self.cloud.settle().await;
        self.end().await;

        self.check("ann", 1..=7);
        self.check("bob", 1..=6);
        self.check_group(1..=7);
        let letters = self.cloud.dead_letters();
        let most = if self.repeats { 2 } else { 1 };
        assert!((1..=most).contains(&letters.len()), "{letters:?}");
        for letter in letters {
            let attribute = |name: &str| letter.attributes[name].string_value.as_deref().unwrap();
            assert_eq!(number(letter.body.as_bytes()), REJECTED);
            assert!(self.workers["ann"].path.ends_with(attribute("worker")));
            assert!(attribute("reason").starts_with("rejected"));
        }
    }

    /// What a fault has put into a mailbox is delivered, or pulled.
    async fn end(&mut self) {
        self.renew("ann", json!({})).await;
        self.cloud.settle().await;
        for name in ["cy", "di"] {
            self.pull(name).await;
        }
    }

    /// Each of these events has come to one of the group.
    fn check_group(&mut self, expected: impl IntoIterator<Item = usize>) {
        let mut both: Vec<_> = ["cy", "di"]
            .into_iter()
            .flat_map(|name| self.effects(name))
            .collect();
        both.sort_unstable();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(both, expected, "of the group");
    }

    pub(super) async fn members(&mut self) {
        let before = self.cloud.clock.millis();
        admit_members(&self.linear);
        self.register("ann", json!({"linearToken": "lin_oauth_ann"}))
            .await;
        self.register("bob", pulling("lin_oauth_bob")).await;
        self.register("app", pulling("lin_oauth_app")).await;
        self.register("hal", pulling("lin_api_hal")).await;
        self.register("ivy", pulling("lin_oauth_ivy")).await;
        self.register("joe", json!({"linearToken": "lin_oauth_joe"}))
            .await;
        self.register("kay", pulling("lin_oauth_kay")).await;
        self.renew("joe", json!({"state": "away"})).await;
        self.close("joe");
        self.post(&issue("i", 1)).await;
        let ops = issue("i", 2).replace("\"number\"", "\"teamId\":\"team-ops\",\"number\"");
        self.post(&ops).await;
        let own = json!({"appUserId": "app", "oauthClientId": "client"});
        self.post(&payload(3, ("AppUserNotification", "issueMention"), own))
            .await;
        self.pass(Duration::from_secs(120)).await;
        // A team was taken from Joe, who was not there, and from Kay.
        for (name, token) in [
            ("joe", "lin_oauth_joe_later"),
            ("kay", "lin_oauth_kay_later"),
        ] {
            self.renew(name, json!({"linearToken": token})).await;
        }
        self.reopen("joe").await;
        self.cloud.settle().await;
        self.pull("kay").await;
        // Ann has joined a team.
        self.renew("ann", json!({"linearToken": "lin_oauth_ann_later"}))
            .await;
        self.post(&issue("i", 4)).await;
        self.renew("bob", json!({"linearToken": "lin_oauth_bob"}))
            .await;
        let own = json!({"appUserId": "app"});
        self.post(&payload(5, ("AppUserNotification", "issueMention"), own))
            .await;
        // `health` has Ann's mailbox drained, when she is probed: after 5, 10, 20, 40 and 80 minutes.
        self.watch(17).await;
        self.cloud.settle().await;
        for name in ["bob", "app", "ivy"] {
            self.pull(name).await;
        }
        self.forgotten_token().await;
        // Their access ends.
        for (number, user) in [(6, "ann"), (7, "bob")] {
            let revoked =
                json!({"userId": user, "oauthClientId": "other", "activeTokensForUser": 0});
            self.post(&payload(number, ("OAuthAuthorization", "revoked"), revoked))
                .await;
            self.cloud.settle().await;
            self.is_removed(user).await;
            if user == "ann" {
                self.pull("bob").await;
            }
        }
        self.pull("app").await;
        let revoked = json!({"oauthClientId": "client"});
        self.post(&payload(8, ("OAuthApp", "revoked"), revoked))
            .await;
        self.cloud.settle().await;
        self.is_removed("app").await;
        self.remove("hal").await;
        // Linear says late that Ivy's access had ended before she registered.
        let ended = json!({"data": {"id": "ivy", "active": false, "number": 10}});
        let ended = payload(10, ("User", "update"), ended);
        self.post_of(&ended, before).await;
        self.cloud.settle().await;
        self.post(&issue("i", 9)).await;
        self.cloud.settle().await;
        self.pull("ivy").await;
        self.pull("kay").await;

        for name in ["joe", "kay"] {
            self.check(name, [1].into_iter().chain(3..=10));
        }
        self.check("ann", 1..=5);
        self.check("bob", [1, 3, 4, 5, 6]);
        self.check("app", [3, 5]);
        self.check("hal", []);
        self.check("ivy", 1..=9);
        assert!(self.cloud.dead_letters().is_empty());
    }

    /// Linear accepts a token, and later does not.
    async fn forgotten_token(&mut self) {
        // No other history has it.
        let token = format!("lin_oauth_{:016x}", fastrand::u64(..));
        self.linear.admit(&token, "kim", WORKSPACE);
        self.register("kim", pulling(&token)).await;
        self.linear.revoke(&token);
        let request = json!({"name": "kim", "linearToken": token});
        self.ask("POST", "/edge/register", None, &request, &[401])
            .await;
    }

    pub(super) async fn silence(&mut self) {
        self.register("ann", json!({})).await;
        self.register("ann", json!({})).await;
        self.register("bob", pulling(TOKEN)).await;
        for name in ["cy", "di"] {
            self.register(name, json!({"group": "g", "pulls": true}))
                .await;
        }
        self.post(&issue("i", 1)).await;
        self.cloud.settle().await;
        let owner = if self.effects("cy").is_empty() {
            "di"
        } else {
            "cy"
        };
        self.renew(owner, json!({"state": "away"})).await;
        self.post(&issue("i", 2)).await;
        self.cloud.settle().await;
        self.pull(owner).await;

        self.silent_and_probed().await;
        self.away_and_back().await;
        self.lease_ends().await;
        self.mailbox_ends().await;
        self.set_aside().await;
        self.gone_and_removed().await;
        self.remove(owner).await;
        self.post(&issue("i", 10)).await;
        self.cloud.settle().await;
        self.pull("bob").await;
        self.remove("bob").await;
        let other = if owner == "cy" { "di" } else { "cy" };
        self.renew("ann", json!({})).await;
        self.watch(3).await;
        self.cloud.settle().await;
        self.pull(other).await;

        self.check("ann", 1..=10);
        // The sixth has expired, and the seventh is set aside.
        self.check("bob", [1, 2, 3, 4, 5, 8, 9, 10]);
        self.check_group(1..=10);
        self.check("gus", []);
        self.check("eve", []);
        self.check("fay", []);
        assert!(self.cloud.dead_letters().is_empty());
    }

    /// Ann gets nothing for hours, and is probed: she rejects a probe, does not answer one, answers one, and then none until she is
    /// away.
    async fn silent_and_probed(&mut self) {
        let ann = self.workers["ann"].receiver.clone();
        let since = self.cloud.clock.millis();
        for (hours, status) in [(1, 400), (2, 503), (4, 200), (8, 503), (12, 503), (16, 503)] {
            ann.answer_ping(Answer::Status(status));
            let before = since + millis(hours * HOUR - Duration::from_secs(420));
            self.pass(elapsed(self.cloud.clock.millis(), before)).await;
            self.watch(3).await;
            self.stay(&["ann", "bob", "cy", "di"]).await;
        }
        ann.answer_ping(Answer::Status(200));
        self.watch(3).await;
    }

    /// Ann cannot be reached, comes back for one event, refuses the next one, and takes it at last.
    async fn away_and_back(&mut self) {
        self.close("ann");
        self.post(&issue("i", 3)).await;
        self.pass(Duration::from_secs(120)).await;
        self.post(&issue("i", 4)).await;
        self.pass(Duration::from_secs(5)).await;
        let ann = self.workers["ann"].receiver.clone();
        ann.answer([Answer::To("\"number\":4", 503)]);
        self.reopen("ann").await;
        self.pass(Duration::from_secs(120)).await;
        ann.answer([Answer::To("\"number\":4", 409)]);
        self.pass(Duration::from_secs(120)).await;
        ann.answer([Answer::Status(200)]);
        self.effects("ann");
        let refused = self.workers["ann"].times(4);
        self.cloud.settle().await;
        self.stay(&["bob", "cy", "di"]).await;
        self.effects("ann");
        assert!(
            self.workers["ann"].times(4) > refused,
            "it was not accepted"
        );
    }

    /// Ann's lease ends while something is in her mailbox.
    async fn lease_ends(&mut self) {
        self.close("ann");
        self.post(&large_issue("i", 5, MIDDLE)).await;
        for _ in 0..2 {
            self.pass(LEASE / 2).await;
            self.stay(&["bob", "cy", "di"]).await;
        }
        self.watch(1).await;
        self.reopen("ann").await;
        self.register("ann", json!({})).await;
        self.watch(3).await;
        self.cloud.settle().await;
        self.stay(&["ann", "bob", "cy", "di"]).await;
    }

    /// What Bob does not pull for so long, and Gus is away for, is gone. So is what Lou did not pull, whose address is down then.
    async fn mailbox_ends(&mut self) {
        self.register("lou", pulling(TOKEN)).await;
        self.register("gus", json!({})).await;
        self.renew("gus", json!({"state": "away"})).await;
        self.close("gus");
        self.post(&issue("i", 6)).await;
        for _ in 0..3 {
            self.pass(MAILBOX / 2).await;
            self.renew("gus", json!({"state": "away"})).await;
            for name in ["ann", "bob", "cy", "di", "lou"] {
                self.renew(name, json!({})).await;
            }
        }
        self.pull("bob").await;
        self.reopen("gus").await;
        self.renew("gus", json!({})).await;
        self.cloud.settle().await;
        self.remove("gus").await;
        let url = self.workers["lou"].receiver.url();
        self.renew("lou", json!({"webhookUrl": url, "pulls": true}))
            .await;
        self.close("lou");
        self.watch(2).await;
        self.remove("lou").await;
    }

    /// An event does not fit into the answer to Bob's pull. He registers again.
    async fn set_aside(&mut self) {
        let quotes = format!("\"text\":\"{}\",\"number\"", "\\\"".repeat(QUOTES));
        let large = issue("i", 7).replace("\"number\"", &quotes);
        self.post(&large).await;
        self.cloud.settle().await;
        self.pull("bob").await;
        self.register("bob", pulling(TOKEN)).await;
    }

    /// Eve is gone, with something in her mailbox, and Fay is removed, with a delivery in backoff.
    async fn gone_and_removed(&mut self) {
        self.register("eve", json!({"pulls": true})).await;
        self.renew("eve", json!({"state": "away"})).await;
        self.post(&issue("i", 8)).await;
        self.cloud.settle().await;
        let eve = self.workers["eve"].receiver.clone();
        eve.answer_ping(Answer::Status(410));
        self.watch(3).await;
        self.register("fay", json!({})).await;
        self.close("fay");
        self.post(&issue("i", 9)).await;
        self.pass(Duration::from_secs(2)).await;
        self.remove("fay").await;
    }

    /// These workers are there: they renew, and pull.
    async fn stay(&mut self, names: &[&str]) {
        for name in names {
            self.renew(name, json!({})).await;
            if *name != "ann" {
                self.pull(name).await;
            }
        }
    }

    fn close(&self, name: &str) {
        self.workers[name].receiver.close();
    }

    async fn reopen(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).unwrap();
        worker.receiver.reopen().await;
    }
}

/// Makes Linear know the members. Each stays as it is, since all histories have one Linear.
fn admit_members(linear: &LinearApi) {
    const ENG: (&str, &str) = ("team-eng", "ENG");
    const OPS: (&str, &str) = ("team-ops", "OPS");
    for (token, user, teams) in [
        ("lin_oauth_ann", "ann", &[ENG][..]),
        ("lin_oauth_ann_later", "ann", &[ENG, OPS]),
        ("lin_oauth_bob", "bob", &[ENG]),
        ("lin_oauth_app", "app", &[ENG]),
        ("lin_api_hal", "hal", &[ENG]),
        ("lin_oauth_joe", "joe", &[ENG, OPS]),
        ("lin_oauth_joe_later", "joe", &[ENG]),
        ("lin_oauth_kay", "kay", &[ENG, OPS]),
        ("lin_oauth_kay_later", "kay", &[ENG]),
        // More than a page.
        (
            "lin_oauth_ivy",
            "ivy",
            &[ENG, OPS, ("team-a", "A"), ("team-b", "B")],
        ),
    ] {
        let teams = teams
            .iter()
            .map(|(id, key)| ((*id).to_owned(), (*key).to_owned()));
        let account = Account {
            teams: teams.collect(),
            is_app: user == "app",
            ..Account::member(user, WORKSPACE)
        };
        linear.admit_as(token, account);
    }
}

/// A registration without an address.
fn pulling(token: &str) -> Value {
    json!({"linearToken": token, "webhookUrl": null})
}

/// A payload of this type and action.
fn payload(number: usize, (kind, action): (&str, &str), more: Value) -> String {
    let mut payload = json!({
        "type": kind, "action": action, "organizationId": WORKSPACE, "webhookTimestamp": 0,
        "data": {"id": "other", "number": number},
    });
    (payload.as_object_mut().unwrap()).extend(more.as_object().unwrap().clone());
    payload.to_string()
}
