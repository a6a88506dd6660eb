//! Large bodies and many events: the page stays quick.

use futures::StreamExt as _;
use futures::stream;
use reqwest::Client;
use serde_json::json;

use super::driver::Browser;
use super::{is_quiet, payload};
use crate::harness::agent::{Agent, Home, signed, with_handler};

const EVENTS: usize = 3_000;
/// The window shows fewer than thirty, and ten above and below it are drawn, too.
const ROWS_MAX: u64 = 60;

/// Delivers many events, several at once.
async fn flood(agent: &Agent, home: &Home) {
    let client = Client::builder().no_proxy().build().unwrap();
    let deliveries = (0..EVENTS).map(|at| {
        let body = payload(&format!("ENG-{at}"), &format!("Number {at}"));
        let mut request = client.post(&agent.address);
        for (name, value) in signed(home, &format!("evt_{at}"), &body) {
            request = request.header(name, value);
        }
        request.body(body).send()
    });
    let mut answers = stream::iter(deliveries).buffer_unordered(16);
    while let Some(answer) = answers.next().await {
        assert_eq!(answer.unwrap().status(), 202);
    }
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn thousands_of_events_have_few_rows_and_are_loaded_as_the_reader_scrolls() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    agent
        .accepts(&home, "evt_oldest", &payload("ENG-0", "The oldest"))
        .await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.shows("#rows", "The oldest").await;
    // They all wait, so that nothing changes while the test scrolls.
    browser.click("#pause").await;
    browser.shows("#pause", "Resume").await;
    flood(&agent, &home).await;
    browser.shows("#filter-state label", "Waiting 3,000").await;
    browser.reload().await;
    browser.shows("#rows [aria-setsize=\"-1\"]", "Number").await;
    let mut pages = 0;
    loop {
        let rows = browser.count("#rows [role=option]").await;
        assert!(rows <= ROWS_MAX, "{rows}");
        let texts = "return document.getElementById('rows').textContent.includes('The oldest')";
        if browser.script(texts).await == true {
            break;
        }
        let height = "document.getElementById('list').scrollHeight";
        let before = browser.script(&format!("return {height}")).await;
        browser
            .script(
                "const list = document.getElementById('list'); list.scrollTop = list.scrollHeight",
            )
            .await;
        let drawn = "document.getElementById('rows').textContent.includes('The oldest')";
        browser
            .holds(&format!("{height} > {before} || {drawn}"))
            .await;
        pages += 1;
    }
    assert!(pages >= EVENTS / 500, "{pages}");
    browser
        .has(
            "#rows [aria-setsize=\"3001\"]",
            browser.count("#rows [role=option]").await,
        )
        .await;
    is_quiet(&browser, &address).await;
    agent.kill().await;
}

/// A body that the page shows: just below the largest one, with many fields and a long text.
fn shown_body() -> String {
    let items: Vec<_> = (0..40_000).map(|at| json!(at)).collect();
    let mut body: serde_json::Value =
        serde_json::from_str(&payload("ENG-2", "Just shown")).unwrap();
    body["data"]["items"] = json!(items);
    body["data"]["text"] = json!("x".repeat(700_000));
    body.to_string()
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn a_large_body_is_opened_without_freezing_the_page() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    let title = format!("Far too large {}", "x".repeat(6_000_000));
    agent
        .accepts(&home, "evt_1", &payload("ENG-1", &title))
        .await;
    let shown = shown_body();
    assert!((900_000..1_048_576).contains(&shown.len()));
    agent.accepts(&home, "evt_2", &shown).await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.shows("#rows", "Just shown").await;
    browser.open_event("Far too large").await;
    browser.shows("#pretty", "larger than 1 MiB").await;
    is_light(&browser).await;
    browser
        .holds("document.getElementById('edit-and-replay').disabled")
        .await;
    browser.open_event("Just shown").await;
    browser.shows("#pretty", "40,000 items").await;
    is_light(&browser).await;
    browser.click("#tab-raw").await;
    browser.shows("#raw", "Show all").await;
    is_light(&browser).await;
    browser.click("#tab-pretty").await;
    browser.enter("#search-text", "39999").await;
    browser.shows("#search-count", "1 of 1").await;
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

/// The document has a small part of a large body alone.
async fn is_light(browser: &Browser) {
    let length = browser
        .script("return document.body.textContent.length")
        .await;
    assert!(length.as_u64().unwrap() < 100_000, "{length}");
    let elements = browser.count("*").await;
    assert!(elements < 2_000, "{elements}");
}
