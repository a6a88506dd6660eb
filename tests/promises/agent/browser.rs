//! The inspector in a real browser: headless Chromium, over the WebDriver protocol (W3C, "WebDriver"). `fantoccini` depends on
//! a crate under the MPL, which is not one of our licences.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use local::samples::FIVE_KINDS;
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::agent::{Agent, Home, in_time, run, with_handler};
use crate::harness::until;

const HOSTILE: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>\u{202e}gnp\u{0007}";

/// Chromium with an empty profile. It ends with the test.
struct Browser {
    client: Client,
    /// `http://127.0.0.1:<port>/session/<id>`, of chromedriver.
    session: Url,
    _driver: Child,
    _profile: Home,
}

/// The browser outlives a driver that is killed, so that its session is ended first, also when a test fails.
impl Drop for Browser {
    fn drop(&mut self) {
        let host = (self.session.host_str(), self.session.port());
        let (Some(host), Some(port)) = host else {
            return;
        };
        let request = format!(
            "DELETE {} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n",
            self.session.path()
        );
        if let Ok(mut driver) = TcpStream::connect((host, port)) {
            let _ = driver.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = driver.write_all(request.as_bytes());
            // It answers once the browser has ended.
            let _ = driver.read(&mut [0; 512]);
        }
    }
}

impl Browser {
    async fn start() -> Self {
        let profile = Home::new();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts: install Debian's `chromium` and `chromium-driver`");
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = in_time(said.next_line()).await.unwrap().expect("it ended");
            if let Some((_, port)) = line.split_once("successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let client = Client::builder().no_proxy().build().unwrap();
        let sessions = format!("http://127.0.0.1:{port}/session");
        let wanted = json!({"capabilities": {"alwaysMatch": capabilities(&profile)}});
        let answer = client.post(&sessions).json(&wanted).send().await.unwrap();
        let begun: Value = answer.json().await.unwrap();
        let id = begun["value"]["sessionId"].as_str().expect("a session");
        Self {
            client,
            session: format!("{sessions}/{id}").parse().unwrap(),
            _driver: driver,
            _profile: profile,
        }
    }

    /// Opens the inspector of an agent and waits for its events.
    async fn open(&self, home: &Path) -> String {
        let printed = run(home, &["inspect"]).await.exits(0).stdout;
        let address = printed.trim_end();
        self.ask(Method::POST, "/url", json!({"url": address}))
            .await;
        self.shows("#strip:not([hidden])", "").await;
        let (address, _) = address.split_once('?').unwrap();
        address.to_owned()
    }

    /// What a script of the test returns.
    async fn script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.ask(Method::POST, "/execute/sync", body).await
    }

    /// Waits until an element that is displayed has this in its text.
    async fn shows(&self, selector: &str, text: &str) {
        let script = format!(
            "return [...document.querySelectorAll({})].filter(e => e.checkVisibility()).map(e => e.textContent)",
            json!(selector)
        );
        until(&format!("`{selector}` shows `{text}`"), async || {
            let texts = self.script(&script).await;
            let texts = texts.as_array().unwrap();
            texts
                .iter()
                .any(|found| found.as_str().unwrap().contains(text))
        })
        .await;
    }

    async fn count(&self, selector: &str) -> u64 {
        let script = format!(
            "return document.querySelectorAll({}).length",
            json!(selector)
        );
        self.script(&script).await.as_u64().unwrap()
    }

    async fn press(&self, selector: &str, keys: &str) {
        let element = self.element(selector).await;
        self.ask(
            Method::POST,
            &format!("{element}/value"),
            json!({"text": keys}),
        )
        .await;
    }

    async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.ask(Method::POST, &format!("{element}/click"), json!({}))
            .await;
    }

    /// The path of an element.
    async fn element(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.ask(Method::POST, "/element", body).await;
        let id = found.as_object().unwrap().values().next().unwrap();
        format!("/element/{}", id.as_str().unwrap())
    }

    async fn screenshot(&self) -> Vec<u8> {
        let picture = self.ask(Method::GET, "/screenshot", Value::Null).await;
        BASE64.decode(picture.as_str().unwrap()).unwrap()
    }

    /// A command of WebDriver. Returns its value.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.session));
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = in_time(request.send()).await.unwrap();
        let status = answer.status();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].take()
    }

    /// What chromedriver noted: `browser` is the console, `performance` has each request.
    async fn log(&self, kind: &'static str) -> Vec<Value> {
        let log = self
            .ask(Method::POST, "/se/log", json!({"type": kind}))
            .await;
        log.as_array().unwrap().clone()
    }

    /// A command of the Chrome DevTools Protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.ask(Method::POST, "/goog/cdp/execute", body).await
    }
}

fn capabilities(profile: &Path) -> Value {
    let profile = format!("--user-data-dir={}", profile.display());
    // A root user has no sandbox; the pages are our own.
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1360,860",
        &profile,
    ];
    json!({
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    })
}

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
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.devtools("Emulation.setEmulatedMedia", dark).await;
    assert_ne!(browser.script(background).await, light);
    let narrow = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true});
    browser
        .devtools("Emulation.setDeviceMetricsOverride", narrow)
        .await;
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
    assert!(
        ["", "The event is handled again."].contains(&notice.as_str().unwrap()),
        "{notice}"
    );
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
