//! Who may speak: Linear's signature, a secret's workspace, and two signatures while a secret rotates.

use std::time::Duration;

use local::samples::{WORKSPACE, Webhook};
use protocol::linear_signature::sign;
use serde_json::json;

use crate::harness::{SECRET, issue, relay};

/// Other webhook secrets.
const OURS: &str = "our workspace's secret";
const NEW: &str = "the newer secret";

const INVALID: (u16, &str) = (401, "signature_invalid");

#[tokio::test]
async fn only_a_known_secret_over_these_bytes_is_accepted() {
    let relay = relay().start().await;
    let good = Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis());
    let with = |signature: String| Webhook {
        signature,
        ..good.clone()
    };
    for signature in [
        sign("another secret", &good.body),
        sign(SECRET, b"another body"),
        good.signature[..62].to_owned(),
        format!("sha256={}", good.signature),
        format!("{},{}", good.signature, good.signature),
        String::new(),
    ] {
        relay.refuses_webhook(&with(signature), INVALID).await;
    }
    let upper = with(good.signature.to_uppercase());
    assert_eq!(relay.send(&upper).await.status(), 200);
}

#[tokio::test]
async fn one_changed_byte_does_not_pass() {
    let relay = relay().start().await;
    let good = Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis());
    for at in [0, 10, good.body.len() / 2, good.body.len() - 1] {
        let mut changed = good.clone();
        changed.body[at] ^= 1;
        relay.refuses_webhook(&changed, INVALID).await;
    }
}

#[tokio::test]
async fn one_workspaces_secret_cannot_speak_for_another() {
    let secrets = json!([{"secret": OURS, "workspace": WORKSPACE}, {"secret": NEW}]);
    let relay = relay().set("LINEAR_WEBHOOK_SECRETS", secrets).start().await;
    let now = relay.clock.millis();
    let other = issue("i", 1).replace(WORKSPACE, "another-workspace");
    let mine = Webhook::sample(OURS, &issue("i", 1), now);
    let apps = Webhook::sample(NEW, &other, now);
    assert_eq!(relay.send(&mine).await.status(), 200);
    assert_eq!(relay.send(&apps).await.status(), 200);
    let forged = Webhook::sample(OURS, &other, now);
    let expected = (401, "workspace_not_signed");
    relay.refuses_webhook(&forged, expected).await;
}

#[tokio::test]
async fn ages_up_to_eight_hours_are_accepted_and_the_window_is_a_setting() {
    const HOUR: i64 = 3_600_000;
    for (setting, oldest) in [(None, 8 * HOUR), (Some(60), 60_000)] {
        let mut start = relay();
        if let Some(seconds) = setting {
            start = start.set("ACCEPTED_AGE_SECONDS", seconds);
        }
        let relay = start.start().await;
        let now = relay.clock.millis();
        let aged = |age_ms: i64| Webhook::sample(SECRET, &issue("i", 1), now - age_ms);
        assert_eq!(relay.send(&aged(oldest - 20_000)).await.status(), 200);
        let (old, early) = ((401, "timestamp_too_old"), (401, "timestamp_in_future"));
        relay.refuses_webhook(&aged(oldest + 1000), old).await;
        relay.refuses_webhook(&aged(-90_000), early).await;
    }
}

#[tokio::test]
async fn a_replaced_secret_signs_beside_the_new_one_for_a_day() {
    let (relay, receiver, old) = relay().with_worker().await;
    let new = relay.register("one", &receiver.url()).await;
    assert_eq!(old.path, new.path);
    assert_ne!((&old.token, &old.secret), (&new.token, &new.secret));
    relay.post(&issue("i", 1)).await;
    let both = &receiver.wait_for(1).await[0];
    assert!(both.verifies(&old.secret) && both.verifies(&new.secret));
    assert_eq!(both.header("webhook-signature").split(' ').count(), 2);
    relay.clock.advance(Duration::from_secs(24 * 3600 + 1));
    relay.post(&issue("i", 2)).await;
    let one = &receiver.wait_for(2).await[1];
    assert!(!one.verifies(&old.secret) && one.verifies(&new.secret));
}

#[tokio::test]
async fn the_public_library_verifies_what_arrives() {
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.post(&issue("i", 1)).await;
    let delivery = &receiver.wait_for(1).await[0];
    let theirs = standardwebhooks::Webhook::new(&worker.secret).unwrap();
    theirs.verify(&delivery.body, &delivery.headers).unwrap();
}

#[tokio::test]
async fn a_rotated_secret_counts_without_a_restart_and_junk_does_not_ask_for_it_again_and_again() {
    let relay = relay().start().await;
    let sample =
        |secret: &str, number| Webhook::sample(secret, &issue("i", number), relay.clock.millis());
    let asked = || {
        let calls = relay.local.calls.take();
        calls.get("GetSecretValue").copied().unwrap_or_default()
    };
    assert_eq!(asked(), 1, "at the start");
    // Both, then the new one alone: no webhook is refused.
    let both = json!([{"secret": SECRET}, {"secret": NEW}]).to_string();
    relay.put_secrets(&both).await;
    relay.clock.advance(Duration::from_secs(11));
    for (number, secret) in [NEW, SECRET, NEW].into_iter().enumerate() {
        assert_eq!(relay.send(&sample(secret, number)).await.status(), 200);
    }
    assert_eq!(asked(), 1, "when the first signature was unknown");
    relay.put_secrets(NEW).await;
    relay.clock.advance(Duration::from_secs(11));
    assert_eq!(relay.send(&sample(NEW, 3)).await.status(), 200);
    // The old one is good for nothing once the secrets were read again.
    relay.refuses_webhook(&sample("junk", 4), INVALID).await;
    for number in 5..10 {
        let old = sample(SECRET, number);
        relay.refuses_webhook(&old, INVALID).await;
    }
    assert_eq!(asked(), 1, "once in ten seconds");
    // What is stored there cannot be read: Linear is to try again, and what is known goes on.
    relay.put_secrets("[]").await;
    relay.clock.advance(Duration::from_secs(11));
    let expected = (503, "webhook_secrets_malformed");
    relay.refuses_webhook(&sample("junk", 10), expected).await;
    assert_eq!(relay.send(&sample(NEW, 11)).await.status(), 200);
}

#[tokio::test]
async fn a_removed_secret_is_accepted_for_a_minute_at_most() {
    let relay = relay().start().await;
    let sample =
        |secret: &str, number| Webhook::sample(secret, &issue("i", number), relay.clock.millis());
    relay.put_secrets(&json!({"secret": NEW}).to_string()).await;
    assert_eq!(relay.send(&sample(SECRET, 1)).await.status(), 200);
    relay.clock.advance(Duration::from_secs(61));
    relay.refuses_webhook(&sample(SECRET, 2), INVALID).await;
    assert_eq!(relay.send(&sample(NEW, 3)).await.status(), 200);
    // What is stored cannot be read: what is known goes on, and nothing is lost.
    relay.put_secrets("one").await;
    relay.clock.advance(Duration::from_secs(61));
    assert_eq!(relay.send(&sample(NEW, 4)).await.status(), 200);
}
