//! Bodies are bytes: never re-serialised, of any size up to the gateway's limit, pushed or pulled.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use local::samples::{WORKSPACE, Webhook};
use proptest::prelude::*;
use relay::event::MAX_BODY_BYTES as BODY_LIMIT;
use sha2::{Digest as _, Sha256};

use crate::harness::{Receiver, SECRET, ids, pulled, relay};

/// A payload with this text in it, and an odd way of writing JSON.
fn payload(text: &str, now: i64) -> String {
    format!(
        "{{ \"type\":\"Issue\",\r\n\t\"action\" : \"create\" ,\"organizationId\":\"{WORKSPACE}\", \"data\":\
         {{\"id\":\"i\",\"sortOrder\":-4193.2700,\"big\":1e400,\"text\":\"{text}\"}},\"webhookTimestamp\": {now}.0 }}\n"
    )
}

/// Text of this length that does not compress, in characters that JSON takes as they are.
fn noise(length: usize) -> String {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut block = Sha256::digest(b"seed");
    while bytes.len() < length {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    let mut text = BASE64.encode(bytes);
    text.truncate(length);
    text
}

#[tokio::test]
async fn large_small_and_odd_bodies_arrive_unchanged_pushed_and_pulled() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let live = relay.register("live", &receiver.url()).await;
    let pull = relay.register_pull("pull").await;
    let now = relay.clock.millis();
    let envelope = payload("", now).len();
    let mut ack = Vec::new();
    for (at, text) in [
        String::new(),
        "é \u{1f600} \\u0000 \\\" \u{7f} \u{fffd}".to_owned(),
        "\u{fffe}\u{ffff}".repeat(100),
        "x".repeat(60 * 1024 - envelope),
        "x".repeat(60 * 1024 - envelope + 1),
        "\u{ffff}".repeat(70_000),
        "compressible ".repeat(200_000),
        noise(200_000),
        noise(2_000_000),
        noise(BODY_LIMIT - envelope - 400_000),
        "x".repeat(BODY_LIMIT - envelope),
    ]
    .iter()
    .enumerate()
    {
        let webhook = Webhook::signed(SECRET, payload(text, now));
        let body = webhook.body.clone();
        let posted = relay.post_webhook(webhook).await;
        assert_eq!(posted.answer["deliveries"], 2);
        let received = receiver.wait_for(at + 1).await;
        let length = body.len();
        assert!(
            received[at].body == body,
            "body {at} of {length} bytes was changed"
        );
        assert!(received[at].verifies(&live.secret));
        relay.settled().await;
        let mailbox = relay.pull(&pull, &ack, None).await;
        assert_eq!(mailbox.events.len(), 1, "body {at}");
        let pulled = mailbox.events[0].body.as_bytes();
        assert!(pulled == body, "body {at} was changed in the mailbox");
        ack = vec![mailbox.events[0].id.clone()];
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_leaves_nothing() {
    let relay = relay().start().await;
    relay.register_pull("one").await;
    let now = relay.clock.millis();
    for length in [BODY_LIMIT + 1, 10_000_001] {
        let envelope = payload("", now).len();
        let webhook = Webhook::signed(SECRET, payload(&"x".repeat(length - envelope), now));
        let expected = (413, "body_too_large");
        relay.refuses_webhook(&webhook, expected).await;
    }
    relay.settled().await;
}

#[tokio::test]
async fn a_body_that_came_in_base64_is_the_same_body() {
    let (relay, receiver, _) = relay().with_worker().await;
    let webhook = Webhook::signed(SECRET, payload("é", relay.clock.millis()));
    let url = format!("{}/webhooks/linear", relay.local.url());
    // The gateway passes on as text only what calls itself text.
    let request = webhook.request(&relay.client, &url);
    let mut request = request.build().unwrap();
    let binary = "application/octet-stream".parse().unwrap();
    request.headers_mut().insert("content-type", binary);
    assert_eq!(relay.client.execute(request).await.unwrap().status(), 200);
    assert_eq!(receiver.wait_for(1).await[0].body, webhook.body);
}

#[tokio::test]
async fn many_large_events_are_pulled_in_pages_that_fit() {
    let relay = relay().start().await;
    let pull = relay.register_pull("pull").await;
    let now = relay.clock.millis();
    let mut bodies = Vec::new();
    for at in 0..6 {
        let webhook = Webhook::signed(SECRET, payload(&format!("{at}{}", noise(1_500_000)), now));
        bodies.push(webhook.body.clone());
        relay.post_webhook(webhook).await;
    }
    relay.settled().await;
    let (mut bodies_pulled, mut ack) = (Vec::new(), Vec::new());
    loop {
        let mailbox = relay.pull(&pull, &ack, None).await;
        if mailbox.events.is_empty() {
            break;
        }
        assert!(mailbox.events.len() <= 2);
        ack = ids(&mailbox);
        bodies_pulled.extend(mailbox.events.into_iter().map(|e| e.body.into_bytes()));
    }
    assert!(bodies_pulled == bodies);
}

#[tokio::test]
async fn a_body_that_does_not_compress_is_pulled_as_it_is() {
    let relay = relay().start().await;
    let pull = relay.register_pull("pull").await;
    // All that JSON needs no escape for.
    let characters: Vec<_> = (b' '..=b'~')
        .filter(|c| !matches!(c, b'"' | b'\\'))
        .collect();
    let mut state = 7_u64;
    let text: String = (0..5_500_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            char::from(characters[(state >> 33) as usize % characters.len()])
        })
        .collect();
    let webhook = Webhook::signed(SECRET, payload(&text, relay.clock.millis()));
    let posted = relay.post_webhook(webhook).await;
    relay.settled().await;
    let mailbox = relay.pull(&pull, &[], None).await;
    assert!(mailbox.events[0].body.as_bytes() == posted.webhook.body);
}

#[tokio::test]
async fn an_event_that_fits_into_no_response_does_not_block_the_mailbox() {
    let mut relay = relay().start().await;
    let pull = relay.register_pull("pull").await;
    relay.client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .build()
        .unwrap();
    let quotes = "\\\"".repeat(1_450_000);
    let webhook = Webhook::signed(SECRET, payload(&quotes, relay.clock.millis()));
    let event = relay.post_webhook(webhook).await.event;
    relay.settled().await;
    relay.post_all(1..3).await;
    relay.settled().await;
    let mailbox = relay.pull(&pull, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 2]);
    let reason = relay.read(&pull).await.last_error.unwrap().reason;
    assert!(
        reason.contains(&event) && reason.contains("set aside"),
        "{reason}"
    );
    let emptied = relay.pull(&pull, &ids(&mailbox), None).await;
    assert!(emptied.events.is_empty());
    assert!(!relay.read(&pull).await.waiting);
}

#[test]
fn any_text_arrives_as_it_was_posted() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let (relay, receiver, _) = runtime.block_on(relay().with_worker());
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    };
    proptest!(config, |(text in "[\\PC\u{fff0}-\u{ffff}]{0,300}")| {
        let text = serde_json::to_string(&text).unwrap();
        let webhook = Webhook::signed(SECRET, payload(&text[1..text.len() - 1], relay.clock.millis()));
        runtime.block_on(async {
            let before = receiver.count();
            relay.post_webhook(webhook.clone()).await;
            let received = receiver.wait_for(before + 1).await;
            assert!(received[before].body == webhook.body);
        });
    });
}
