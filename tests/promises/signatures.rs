//! Who may speak: Linear's signature, a secret's workspace, and two signatures while a secret rotates.

use std::time::Duration;

use local::samples::{WORKSPACE, Webhook};
use protocol::linear_signature::sign;
use serde_json::json;

use crate::harness::{Receiver, SECRET, TOKEN, issue, problem, relay};

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
        problem(
            relay.send(&with(signature)).await,
            (401, "signature_invalid"),
        )
        .await;
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
        problem(relay.send(&changed).await, (401, "signature_invalid")).await;
    }
}

#[tokio::test]
async fn one_workspaces_secret_cannot_speak_for_another() {
    let secrets = json!([{"secret": "ours", "workspace": WORKSPACE}, {"secret": "app"}]);
    let relay = relay().set("LINEAR_WEBHOOK_SECRETS", secrets).start().await;
    let now = relay.clock.millis();
    let other = issue("i", 1).replace(WORKSPACE, "another-workspace");
    assert_eq!(
        relay
            .send(&Webhook::sample("ours", &issue("i", 1), now))
            .await
            .status(),
        200
    );
    assert_eq!(
        relay
            .send(&Webhook::sample("app", &other, now))
            .await
            .status(),
        200
    );
    let forged = relay.send(&Webhook::sample("ours", &other, now)).await;
    problem(forged, (401, "workspace_not_signed")).await;
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
        let aged = |age: i64| Webhook::sample(SECRET, &issue("i", 1), now - age);
        assert_eq!(relay.send(&aged(oldest - 20_000)).await.status(), 200);
        problem(
            relay.send(&aged(oldest + 1000)).await,
            (401, "timestamp_too_old"),
        )
        .await;
        problem(
            relay.send(&aged(-90_000)).await,
            (401, "timestamp_in_future"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_replaced_secret_signs_beside_the_new_one_for_a_day() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let old = relay.register("one", &receiver.url()).await;
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
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let worker = relay
        .register_as(json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()}))
        .await;
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
    let both = json!([{"secret": SECRET}, {"secret": "new"}]).to_string();
    relay.put_secrets(&both).await;
    relay.clock.advance(Duration::from_secs(11));
    for (number, secret) in ["new", SECRET, "new"].into_iter().enumerate() {
        assert_eq!(relay.send(&sample(secret, number)).await.status(), 200);
    }
    assert_eq!(asked(), 1, "when the first signature was unknown");
    relay.put_secrets("new").await;
    relay.clock.advance(Duration::from_secs(11));
    assert_eq!(relay.send(&sample("new", 3)).await.status(), 200);
    // The old one is good for nothing once the secrets were read again.
    problem(
        relay.send(&sample("junk", 4)).await,
        (401, "signature_invalid"),
    )
    .await;
    for number in 5..10 {
        let junk = relay.send(&sample(SECRET, number)).await;
        problem(junk, (401, "signature_invalid")).await;
    }
    assert_eq!(asked(), 1, "once in ten seconds");
    // What is kept there cannot be read: Linear is to try again, and what is known goes on.
    relay.put_secrets("[]").await;
    relay.clock.advance(Duration::from_secs(11));
    problem(
        relay.send(&sample("junk", 10)).await,
        (503, "webhook_secrets_malformed"),
    )
    .await;
    assert_eq!(relay.send(&sample("new", 11)).await.status(), 200);
}
