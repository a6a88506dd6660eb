//! Every text that the page shows is readable, light and dark (WCAG 2.2, 1.4.3, level AA).

use reqwest::Method;
use serde_json::{Value, json};

use super::driver::Browser;
use super::{HOSTILE, payload};
use crate::harness::Answer;
use crate::harness::agent::{Agent, deliver, signed, with_handler};

const CHECK: &str = include_str!("contrast.js");
const ESCAPE: &str = "\u{e00c}";

/// Checks all texts that are shown now, light and dark.
async fn is_readable(browser: &Browser, what: &str, texts: u64) {
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        let found = browser.script(CHECK).await;
        assert_eq!(found["faults"], json!([]), "{what}, {scheme}");
        assert!(found["texts"].as_u64().unwrap() >= texts, "{what}: {found}");
    }
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn every_text_has_the_contrast_that_wcag_asks_for() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::To("Fails", 500)]);
    let settings = format!(
        "[[handler]]\ntype = 'Issue'\nto = '{}'\nretries = 0\n",
        handler.port()
    );
    home.write("edge-agent.toml", settings);
    let mut up = Agent::up(&relay, &home);
    let agent = Agent::start(up.env("EDGE_AGENT_INSPECT", "127.0.0.1:0")).await;
    let dropped = payload("ENG-0", "Dropped").replace("Issue", "Comment");
    agent.accepts(&home, "evt_0", &dropped).await;
    for (at, title) in [(1, HOSTILE), (2, "Fails"), (3, "Done")] {
        let body = payload("ENG-1", title);
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    let refused = deliver(&agent.address, &signed(&home, "evt_9", "{}"), "{ }").await;
    assert_eq!(refused.0, 401);
    let browser = Browser::start().await;
    locked(&browser, &browser.open(&home).await).await;
    browser.open(&home).await;
    for state in ["dropped", "failed", "done"] {
        browser.shows("#rows .state", state).await;
    }
    browser.click("#pause").await;
    browser
        .shows("#problems .warn", "Handling is paused.")
        .await;
    browser.shows("#problems .bad", "refused").await;
    let waiting = payload("ENG-1", "Waits");
    agent.accepts(&home, "evt_4", &waiting).await;
    browser.shows("#rows .state", "waiting").await;
    is_readable(&browser, "the list", 40).await;
    events(&browser).await;
    dialogs(&browser).await;
    agent.kill().await;
    browser.shows("#connection", "does not answer").await;
    is_readable(&browser, "the page without an agent", 40).await;
}

/// An open event: with a search, as raw text, and as an edited copy.
async fn events(browser: &Browser) {
    browser.open_event("<img src=x").await;
    browser.shows("#changes", "before").await;
    browser.shows("#signature", "valid").await;
    browser.enter("#search-text", "alert").await;
    browser.shows("#search-count", "1 of 1").await;
    browser.shows("#pretty .match .escaped", "\\u202e").await;
    is_readable(browser, "an event", 80).await;
    for (text, found) in [("data", "field"), ("webhookTimestamp", "1")] {
        browser.enter("#search-text", text).await;
        browser.shows("#pretty .match", found).await;
        is_readable(browser, "a match", 80).await;
    }
    browser.click("#tab-raw").await;
    browser.shows("#raw", "SHA-256").await;
    is_readable(browser, "a raw body", 80).await;
    browser.click("#tab-pretty").await;
    browser.open_event("Fails").await;
    browser.shows("#event-facts .state", "failed").await;
    is_readable(browser, "a failed event", 80).await;
    browser.click("#edit-and-replay").await;
    browser.enter("#edit-text", "{").await;
    browser.shows("#edit-problem", "This is not JSON").await;
    is_readable(browser, "the editor", 80).await;
    browser.enter("#edit-text", "{}").await;
    browser.click("#edit-form [type=submit]").await;
    browser.shows("#event-facts", "edited copy of").await;
    browser
        .shows("#notice", "The edited copy is replayed.")
        .await;
    is_readable(browser, "an edited copy", 80).await;
}

/// What opens above the page.
async fn dialogs(browser: &Browser) {
    browser.click("#show-why").await;
    browser.shows("#missing", "Asks for").await;
    is_readable(browser, "the popover", 80).await;
    browser.keys(ESCAPE).await;
    browser.click("#show-help").await;
    browser.shows("#help .state", "dropped").await;
    is_readable(browser, "the help", 80).await;
    browser.keys(ESCAPE).await;
    browser
        .script("document.getElementById('by-hand').showModal()")
        .await;
    is_readable(browser, "the command to copy by hand", 80).await;
    browser.keys(ESCAPE).await;
}

/// Without the key.
async fn locked(browser: &Browser, address: &str) {
    browser.ask(Method::DELETE, "/cookie", Value::Null).await;
    browser
        .ask(Method::POST, "/url", json!({"url": address}))
        .await;
    browser.shows("main", "edge-agent inspect").await;
    is_readable(browser, "the page without the key", 2).await;
}
