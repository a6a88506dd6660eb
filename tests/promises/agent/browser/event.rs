//! An open event: what is shown of it, and what can be done with it.

use std::path::Path;

use protocol::envelope::digest;
use serde_json::json;
use tokio::process::Command;

use super::driver::Browser;
use super::{is_quiet, payload};
use crate::harness::Receiver;
use crate::harness::agent::{Agent, output, run, with_handler};
use crate::harness::eventually;

/// What a shell, a page or JavaScript's numbers could change.
const BODY: &str = "{\"action\":\"update\",\"type\":\"Issue\",\"organizationId\":\"org\",\"webhookTimestamp\":1,\
    \"data\":{\"id\":\"i\",\"identifier\":\"ENG-1\",\"title\":\"Grün: it's $HOME `id` !\u{200b} \\\"\\\\n\",\
    \"estimate\":12345678901234567890,\"first\":{\"second\":{\"third\":[{\"needle\":\"one\"},\"two needles\"]}}},\n\
    \t\"updatedFrom\":{\"title\":\"before\"}}";

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn an_event_is_read_searched_copied_saved_edited_and_replayed() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    agent.accepts(&home, "evt_1", BODY).await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.open_event("Grün").await;
    shows_raw(&browser).await;
    finds(&browser).await;
    copies(&browser, &handler).await;
    saves(&browser).await;
    edits(&browser, &home, &handler).await;
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

/// The raw tab has the bytes, their number and their hash.
async fn shows_raw(browser: &Browser) {
    browser.click("#tab-raw").await;
    browser
        .shows("#raw", &format!("({} bytes)", BODY.len()))
        .await;
    browser.shows("#raw code", &digest(BODY.as_bytes())).await;
    let raw = browser
        .script("return document.querySelector('#raw pre').textContent")
        .await;
    assert_eq!(raw, BODY.replace('\u{200b}', "\\u200b"));
    assert_eq!(browser.count("#pretty:not([hidden])").await, 0);
    browser.click("#tab-pretty").await;
    browser.shows("#pretty", "12345678901234567890").await;
}

/// A search opens the way to each match, in both directions.
async fn finds(browser: &Browser) {
    let marked = "document.querySelector('#pretty .match')?.checkVisibility() === true";
    browser.enter("#search-text", "NEEDLE").await;
    browser.shows("#search-count", "1 of 2").await;
    browser.holds(marked).await;
    browser.shows("#pretty .match", "one").await;
    browser.press("#search-text", "\u{e007}").await;
    browser.shows("#search-count", "2 of 2").await;
    browser.shows("#pretty .match", "two needles").await;
    browser.click("#search-previous").await;
    browser.shows("#search-count", "1 of 2").await;
    browser.enter("#search-text", "haystack").await;
    browser.shows("#search-count", "no match").await;
    browser.has("#pretty .match", 0).await;
}

/// A shell that runs the copied command sends the handler what the agent sent it.
async fn copies(browser: &Browser, handler: &Receiver) {
    browser.click("#copy").await;
    browser.shows("#notice", "Copied as curl.").await;
    let command = browser.clipboard().await;
    assert!(!command.contains('\u{200b}'), "{command}");
    let mut shell = Command::new("bash");
    let shell = shell.args(["-c", &format!("{command} --fail --silent --noproxy '*'")]);
    output(shell).await.exits(0);
    let [sent, copied] = handler.wait_for(2).await.try_into().unwrap();
    assert_eq!(copied.body, sent.body);
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert_eq!(copied.header(name), sent.header(name), "{name}");
    }
}

/// The fixture is the body, byte for byte.
async fn saves(browser: &Browser) {
    browser.click("#save").await;
    let fixture = browser.downloads().join("Issue.update-evt_1.json");
    let saved = eventually("the fixture is saved", async || {
        std::fs::read(&fixture)
            .ok()
            .filter(|saved| !saved.is_empty())
    })
    .await;
    assert_eq!(saved, BODY.as_bytes());
}

/// An edited copy goes to the handler, marked as such, and the original stays as it was.
async fn edits(browser: &Browser, home: &Path, handler: &Receiver) {
    browser.click("#edit-and-replay").await;
    browser.holds("document.getElementById('edit').open").await;
    let offered = browser
        .script("return document.getElementById('edit-text').value")
        .await;
    let offered = offered.as_str().unwrap();
    assert!(
        offered.contains("12345678901234567890") && offered.contains("\\u200b"),
        "{offered}"
    );
    browser.enter("#edit-text", "{\"title\": }").await;
    browser.shows("#edit-problem", "This is not JSON").await;
    let edited = payload("ENG-7", "Edited here");
    browser.enter("#edit-text", &edited).await;
    browser.click("#edit-form [type=submit]").await;
    browser.shows("#event-title", "Edited here").await;
    browser.shows("#event-facts", "edited copy of evt_1").await;
    browser.shows("#rows .tag", "edited").await;
    let received = handler.wait_for(3).await;
    assert_eq!(received[2].body, edited.as_bytes());
    assert_eq!(received[2].header("edge-edited-from"), "evt_1");
    browser.shows("#event-facts .state", "done").await;

    browser.click("#event-facts .link").await;
    browser.shows("#event-title", "Grün").await;
    browser.has("#attempts > li", 1).await;
    let original = run(home, &["events", "evt_1", "--body"]).await.exits(0);
    assert_eq!(original.stdout, BODY);
}

#[tokio::test]
#[ignore = "needs Chromium and its driver"]
async fn an_open_event_is_usable_on_a_narrow_screen() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::inspected(&relay, &home, &handler).await;
    let word = "Donaudampfschifffahrt".repeat(12);
    agent
        .accepts(&home, "evt_1", &payload("ENG-1", &word))
        .await;
    let browser = Browser::start().await;
    let address = browser.open(&home).await;
    browser.narrow().await;
    browser.open_event("Donau").await;
    browser.shows("#attempts", "done").await;
    fits(&browser, "#pane").await;
    browser.click("#tab-raw").await;
    browser.shows("#raw", "SHA-256").await;
    fits(&browser, "#pane").await;
    browser.click("#replay").await;
    handler.wait_for(2).await;
    browser.has("#attempts > li", 2).await;
    browser.click("#edit-and-replay").await;
    browser.holds("document.getElementById('edit').open").await;
    fits(&browser, "#edit").await;
    browser.click("#edit [data-close]").await;
    browser.click("#close").await;
    browser
        .holds("document.getElementById('pane').hidden")
        .await;
    browser.open_event("Donau").await;
    is_quiet(&browser, &address).await;
    agent.stop().await;
}

/// An element fills the width of the screen at most. Nothing in it is cut off or scrolls to the side, and each of its buttons can
/// be touched.
async fn fits(browser: &Browser, selector: &str) {
    let script = format!(
        "const root = document.querySelector({});
         const faults = [];
         for (const element of [document.documentElement, root, ...root.querySelectorAll('*')]) {{
           if (!element.checkVisibility() || element.closest('.unseen, summary, svg')) continue;
           const {{ left, right }} = element.getBoundingClientRect();
           const scrolls = element.scrollWidth > element.clientWidth && ['auto', 'scroll'].includes(getComputedStyle(element).overflowX);
           if (left < 0 || right > 360 || scrolls) faults.push(element.outerHTML.slice(0, 200));
         }}
         for (const button of root.querySelectorAll('button, a.button')) {{
           if (!button.checkVisibility()) continue;
           button.scrollIntoView({{ block: 'center' }});
           const {{ left, top, width, height }} = button.getBoundingClientRect();
           const touched = document.elementFromPoint(left + width / 2, top + height / 2);
           if (!button.contains(touched)) faults.push('covered: ' + button.outerHTML);
         }}
         root.scrollTop = 0;
         return faults;",
        json!(selector)
    );
    assert_eq!(browser.script(&script).await, json!([]));
}
