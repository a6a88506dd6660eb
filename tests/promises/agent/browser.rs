//! The inspector in a real browser.

mod contrast;
mod driver;
mod event;
mod large;
mod list;

use std::time::Duration;

use local::samples::FIVE_KINDS;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, with_handler};
use crate::harness::until;
use driver::Browser;

const HOSTILE: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>\u{202e}gnp\u{0007}";

/// What the page notifies of what succeeded.
const GOOD_NOTICES: [&str; 5] = [
    "",
    "The event is handled again.",
    "2 events are replayed.",
    "Copied as curl.",
    "The edited copy is replayed.",
];

fn payload(identifier: &str, title: &str) -> String {
    json!({
        "action": "update", "type": "Issue", "organizationId": "org", "webhookTimestamp": 1,
        "data": {"id": format!("id-{identifier}"), "identifier": identifier, "title": title},
        "updatedFrom": {"title": "before"},
    })
    .to_string()
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn an_event_appears_is_opened_and_replayed_without_a_reload() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    for (at, body) in FIVE_KINDS.iter().enumerate() {
        agent.accepts(&home, &format!("evt_{at}"), body).await;
    }
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.shows("#rows", "Queue consumer drops").await;
    assert_eq!(browser.script("return location.href").await, address);
    browser.script("window.loadedOnce = true").await;

    agent
        .accepts(&home, "evt_9", &payload("ENG-2", "Fix the login"))
        .await;
    browser.shows("#rows [role=option]", "Fix the login").await;
    browser.shows("#rows [role=option]", "done").await;
    browser.press("#list", "k").await;
    browser.press("#list", "\u{e007}").await;
    browser.shows("#event-title", "Fix the login").await;
    browser.shows("#changes", "before").await;
    browser.shows("#signature", "HMAC-SHA256").await;
    assert_eq!(browser.count("#attempts > li").await, 1);
    browser.click("#replay").await;
    handler.wait_for(FIVE_KINDS.len() + 2).await;
    until("the second attempt is shown", async || {
        browser.count("#attempts > li").await == 2
    })
    .await;
    assert_eq!(browser.script("return window.loadedOnce").await, true);

    let picture = browser.screenshot().await;
    std::fs::write(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/inspector.png"),
        picture,
    )
    .unwrap();
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn the_list_is_filtered_and_dark_where_the_system_is() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    for (at, title) in [
        (1, "Export to CSV"),
        (2, "Fix the login"),
        (3, "Login twice"),
    ] {
        let body = payload(&format!("ENG-{at}"), title);
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.shows("#rows", "Login twice").await;
    let rows = async |count| {
        until("the rows are filtered", async || {
            browser.count("#rows [role=option]").await == count
        })
        .await;
    };
    rows(3).await;
    browser.press("#filter-text", "login").await;
    rows(2).await;
    agent
        .accepts(&home, "evt_4", &payload("ENG-4", "Other"))
        .await;
    agent
        .accepts(&home, "evt_5", &payload("ENG-5", "No login"))
        .await;
    browser.shows("#rows", "No login").await;
    rows(3).await;
    browser
        .click("#filter-state label:has([value=failed])")
        .await;
    rows(0).await;

    let background = "return getComputedStyle(document.body).backgroundColor";
    let light = browser.script(background).await;
    browser.prefers("dark").await;
    assert_ne!(browser.script(background).await, light);
    browser.narrow().await;
    let overflow =
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(browser.script(overflow).await, 0);
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn a_hostile_payload_is_shown_and_does_nothing() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    agent
        .accepts(&home, "evt_1", &payload("ENG-1", HOSTILE))
        .await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser
        .shows("#rows [role=option]", "<img src=x onerror=alert(1)>")
        .await;
    browser.press("#list", "k").await;
    browser.press("#list", "\u{e007}").await;
    browser.shows("#event-title", "\\u202e").await;
    browser.shows("#pretty", "<script>alert(2)</script>").await;
    assert_eq!(browser.count("img[src=x], #panes script").await, 0);
    let shown = browser.script("return document.body.textContent").await;
    assert!(!shown.as_str().unwrap().contains('\u{202e}'));
    is_quiet(&browser, &address).await;

    // Without the key there is nothing to see.
    browser.ask(Method::DELETE, "/cookie", Value::Null).await;
    browser
        .ask(Method::POST, "/url", json!({"url": address}))
        .await;
    browser.shows("main", "edge-agent inspect").await;
    assert_eq!(browser.count("#rows").await, 0);
    agent.stop().await;
}

/// Nothing was refused or failed in the page, and nothing was asked of another host.
async fn is_quiet(browser: &Browser, address: &str) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    let shown = browser.script("return document.body.textContent").await;
    assert!(!shown.as_str().unwrap().contains("undefined"), "{shown}");
    let notice = browser
        .script("return document.getElementById('notice').textContent")
        .await;
    assert!(GOOD_NOTICES.contains(&notice.as_str().unwrap()), "{notice}");
    let console = browser.log("browser").await;
    assert!(console.is_empty(), "{console:?}");
    let log = browser.log("performance").await;
    let messages = log.iter().map(|entry| {
        let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        message["message"].clone()
    });
    let asked: Vec<_> = messages
        .filter(|message| message["method"] == "Network.requestWillBeSent")
        .map(|message| {
            message["params"]["request"]["url"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .filter(|url| url.starts_with("http"))
        .collect();
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(
        asked.iter().all(|url| url.starts_with(address)),
        "{asked:?}"
    );
}
