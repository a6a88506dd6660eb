//! The list of events, the keyboard, and what the page answers about the agent.

use serde_json::json;

use super::driver::Browser;
use super::{is_quiet, payload};
use crate::harness::agent::{Agent, Home, deliver, run, signed, with_handler};
use crate::harness::{Answer, Receiver, issue, sorted};

const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn events_are_filtered_by_type_and_state_retried_and_paused() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::To("Fails", 500)]);
    let agent = Agent::inspected_without_retries(&relay, &home, &handler).await;
    for (at, title) in [(1, "Fails first"), (2, "Fails second"), (3, "Works")] {
        let body = payload(&format!("ENG-{at}"), title);
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    let comment = payload("ENG-4", "A comment").replace("Issue", "Comment");
    agent.accepts(&home, "evt_4", &comment).await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    filters(&browser).await;
    retries(&browser, &handler).await;
    pauses(&browser, &agent, &home, &handler).await;
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

/// Filters by type and by state, which a reload keeps.
async fn filters(browser: &Browser) {
    let rows = "#rows [role=option]";
    browser.has(rows, 4).await;
    for (pattern, count) in [
        ("Comment", 1),
        ("Issue.update", 3),
        ("Issue.create", 0),
        ("*", 4),
    ] {
        browser.enter("#filter-type", pattern).await;
        browser.has(rows, count).await;
    }
    browser.enter("#filter-type", "Comment").await;
    browser.has(rows, 1).await;
    browser.shows(rows, "A comment").await;
    browser.enter("#filter-type", "Issue").await;
    browser.has(rows, 3).await;
    browser.shows("#filter-state label", "Failed 2").await;
    browser
        .click("#filter-state label:has([value=failed])")
        .await;
    browser.has(rows, 2).await;
    browser.shows(rows, "Fails first").await;
    browser.reload().await;
    browser.has(rows, 2).await;
    browser.click("#filter-state label:has([value=done])").await;
    browser.has(rows, 1).await;
    browser.shows(rows, "Works").await;
    browser.click("#filter-state label:has([value=\"\"])").await;
    browser.has(rows, 3).await;
    browser.enter("#filter-type", "*").await;
    browser.has(rows, 4).await;
}

/// Retries what has failed, and nothing else.
async fn retries(browser: &Browser, handler: &Receiver) {
    assert_eq!(handler.count(), 4);
    handler.answer([Answer::Status(200)]);
    browser.click("#retry-failed").await;
    browser.shows("#notice", "2 events are replayed.").await;
    browser.has("#rows .state.done", 4).await;
    browser
        .holds("document.getElementById('retry-failed').hidden")
        .await;
    let received = handler.received();
    let ids = received[4..].iter().map(|r| r.header("webhook-id"));
    assert_eq!(sorted(ids), ["evt_1", "evt_2"]);
}

/// A paused handler gets an event when it is resumed.
async fn pauses(browser: &Browser, agent: &Agent, home: &Home, handler: &Receiver) {
    browser.click("#pause").await;
    browser.shows("#pause", "Resume").await;
    browser.shows("#problems", "Handling is paused.").await;
    let body = payload("ENG-5", "Waits");
    agent.accepts(home, "evt_5", &body).await;
    browser.shows("#rows [role=option]", "Waits").await;
    browser.shows("#waiting", "1 here").await;
    let status = run(home, &["status", "--json"]).await.json();
    assert_eq!(
        (&status["isPaused"], &status["events"]["waiting"]),
        (&json!(true), &json!(1))
    );
    browser.shows("#rows [role=option]", "waiting").await;
    assert_eq!(handler.count(), 6);
    browser.click("#pause").await;
    handler.wait_for(7).await;
    browser.shows("#pause", "Pause").await;
    browser.has("#rows .state.done", 5).await;
    browser.has("#problems > li", 0).await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn the_keyboard_moves_opens_replays_edits_filters_and_helps() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    for at in 1..=3 {
        let body = payload(&format!("ENG-{at}"), &format!("Number {at}"));
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    handler.wait_for(3).await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.has("#rows [role=option]", 3).await;
    let selected = "#rows [aria-selected=true]";
    for (key, title) in [("j", "Number 3"), ("j", "Number 2"), ("k", "Number 3")] {
        browser.keys(key).await;
        browser.shows(selected, title).await;
    }
    browser.keys(ENTER).await;
    browser.shows("#event-title", "Number 3").await;
    browser.keys("j").await;
    browser.shows("#event-title", "Number 2").await;
    browser.keys("r").await;
    let received = handler.wait_for(4).await;
    assert_eq!(received[3].header("webhook-id"), "evt_2");
    browser.has("#attempts > li", 2).await;
    browser.keys("e").await;
    browser.holds("document.getElementById('edit').open").await;
    browser.keys(ESCAPE).await;
    browser.holds("!document.getElementById('edit').open").await;
    browser.keys(ESCAPE).await;
    browser
        .holds("document.getElementById('pane').hidden")
        .await;
    asks(&browser, selected).await;
    assert_eq!(handler.count(), 4);
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

/// The keys that lead to the filter and to the help. A key that is text in a field, or pressed in a dialog, does nothing else.
async fn asks(browser: &Browser, selected: &str) {
    browser.keys("/").await;
    browser
        .holds("document.activeElement.id === 'filter-text'")
        .await;
    browser.keys("jr?/").await;
    browser
        .holds("document.getElementById('filter-text').value === 'jr?/'")
        .await;
    browser.has("#rows [role=option]", 0).await;
    browser.enter("#filter-text", "number").await;
    browser.keys(ENTER).await;
    browser.holds("document.activeElement.id === 'list'").await;
    browser.has("#rows [role=option]", 3).await;
    browser.keys("?").await;
    browser.holds("document.getElementById('help').open").await;
    browser.shows("#help", "Replay the event").await;
    browser.keys("kr").await;
    browser.shows(selected, "Number 2").await;
    browser.keys(ESCAPE).await;
    browser.holds("!document.getElementById('help').open").await;
    browser.keys("k").await;
    browser.shows(selected, "Number 3").await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn the_page_says_why_an_event_did_not_come() {
    let (relay, home, handler) = with_handler().await;
    let mut up = Agent::up(&relay, &home);
    let up = up.env("EDGE_AGENT_INSPECT", "127.0.0.1:0");
    let agent = Agent::start(up.args(["--type", "Comment", &handler.port()])).await;
    relay.post(&issue("i", 1)).await;
    let signed = signed(&home, "evt_0", "{}");
    assert_eq!(deliver(&agent.address, &signed, "{ }").await.0, 401);
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    assert_eq!(browser.count("#why:popover-open").await, 0);
    browser.click("#show-why").await;
    browser.has("#why:popover-open", 1).await;
    for part in [
        "1 event",
        "Its type is not one that this worker asked for.",
        "No event waits at the relay.",
        "Asks for",
        "Comment",
        "no signature matches",
    ] {
        browser.shows("#missing", part).await;
    }
    for part in [relay.local.url(), agent.address.clone(), handler.port()] {
        let part = part
            .trim_start_matches("http://")
            .trim_end_matches("/webhook");
        browser.shows("#facts", part).await;
    }
    browser
        .holds("[...document.querySelectorAll('#why :is(dt, dd)')].every(element => element.textContent.trim())")
        .await;
    browser.keys(ESCAPE).await;
    browser.has("#why:popover-open", 0).await;
    is_quiet(&browser, &address).await;
    agent.stop().await;
}
