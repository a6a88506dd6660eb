//! The relay is no weapon: one answer for every address that is not allowed, also where it hides.

use serde_json::json;

use crate::harness::{TOKEN, relay};

#[tokio::test]
async fn all_blocked_addresses_get_one_answer() {
    let relay = relay().start().await;
    let mut details = Vec::new();
    for url in [
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/",
        "https://[::ffff:192.168.1.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://0xa9fea9fe/",
        "https://3232235777/",
        // Whether a private name exists is not told.
        "https://nowhere.invalid/",
    ] {
        let request = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": url});
        let expected = (400, "address_blocked");
        let problem = relay.refuses_registration(&request, expected).await;
        details.push(problem.detail);
    }
    details.dedup();
    assert_eq!(details.len(), 1);
    // Linear is not asked for what is refused anyway.
    assert_eq!(relay.linear.calls(), 1);
}

#[tokio::test]
async fn the_error_for_a_malformed_address_names_the_rule() {
    let relay = relay().start().await;
    for url in [
        "",
        "/relative",
        "ftp://example.com",
        "http://example.com",
        "http://10.0.0.1/",
        "https://user:hush@example.com",
        "https://example.com/#fragment",
        "https://example.com:22/",
        &format!("https://example.com/{}", "x".repeat(3000)),
    ] {
        let request = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": url});
        let expected = (400, "invalid_webhook_url");
        let problem = relay.refuses_registration(&request, expected).await;
        assert!(problem.detail.contains("`webhookUrl`") && !problem.detail.contains("hush"));
    }
}
