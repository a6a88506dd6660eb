//! Headless Chromium, over the WebDriver protocol (W3C, "WebDriver"). `fantoccini` depends on a crate under the MPL, which is
//! not one of our licences.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::harness::agent::{Home, in_time, run};
use crate::harness::{eventually, until};

/// Chromium with an empty profile. It ends with the test.
pub(super) struct Browser {
    client: Client,
    /// `http://127.0.0.1:<port>/session/<id>`, of chromedriver.
    session: Url,
    _driver: Child,
    profile: Home,
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

/// Starts chromedriver, and returns its port. None if it has ended: it listens on one port of IPv4 and IPv6, which may be taken on one of
/// them.
async fn start_driver() -> Option<(Child, String)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("chromedriver starts: install Debian's `chromium` and `chromium-driver`");
    let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = loop {
        let line = in_time(said.next_line()).await.unwrap()?;
        if let Some((_, port)) = line.split_once("successfully on port ") {
            break port.trim_end_matches('.').to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    Some((driver, port))
}

impl Browser {
    pub(super) async fn start() -> Self {
        let profile = Home::new();
        let (driver, port) = eventually("chromedriver listens", start_driver).await;
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
            profile,
        }
    }

    /// Opens the inspector of an agent and waits for its events.
    pub(super) async fn open(&self, home: &Path) -> String {
        let printed = run(home, &["inspect"]).await.exits(0).stdout;
        let address = printed.trim_end();
        self.ask(Method::POST, "/url", json!({"url": address}))
            .await;
        self.shows("#strip:not([hidden])", "").await;
        let (address, _) = address.split_once('?').unwrap();
        address.to_owned()
    }

    /// Opens the page again, as a reader who reloads it.
    pub(super) async fn reload(&self) {
        self.ask(Method::POST, "/refresh", json!({})).await;
        self.shows("#strip:not([hidden])", "").await;
    }

    /// The directory that downloads go to.
    pub(super) fn downloads(&self) -> PathBuf {
        downloads(&self.profile)
    }

    /// Lets the page read the clipboard, and returns its text.
    pub(super) async fn clipboard(&self) -> String {
        let permission = json!({"descriptor": {"name": "clipboard-read"}, "state": "granted"});
        self.ask(Method::POST, "/permissions", permission).await;
        let script =
            "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))";
        let body = json!({"script": script, "args": []});
        let text = self.ask(Method::POST, "/execute/async", body).await;
        text.as_str().unwrap().to_owned()
    }

    /// What a script of the test returns.
    pub(super) async fn script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.ask(Method::POST, "/execute/sync", body).await
    }

    /// Waits until an element that is displayed has this in its text.
    pub(super) async fn shows(&self, selector: &str, text: &str) {
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

    pub(super) async fn count(&self, selector: &str) -> u64 {
        let script = format!(
            "return document.querySelectorAll({}).length",
            json!(selector)
        );
        self.script(&script).await.as_u64().unwrap()
    }

    pub(super) async fn press(&self, selector: &str, keys: &str) {
        let element = self.element(selector).await;
        self.ask(
            Method::POST,
            &format!("{element}/value"),
            json!({"text": keys}),
        )
        .await;
    }

    pub(super) async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.ask(Method::POST, &format!("{element}/click"), json!({}))
            .await;
    }

    /// Presses one key after another, at what has the focus.
    pub(super) async fn keys(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))
        });
        let presses: Vec<_> = presses.collect();
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": presses});
        self.ask(Method::POST, "/actions", json!({"actions": [keyboard]}))
            .await;
    }

    /// Replaces the text of a field.
    pub(super) async fn enter(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.ask(Method::POST, &format!("{element}/clear"), json!({}))
            .await;
        self.press(selector, text).await;
    }

    /// Waits until this many elements are in the document.
    pub(super) async fn has(&self, selector: &str, count: u64) {
        until(&format!("{count} of `{selector}`"), async || {
            self.count(selector).await == count
        })
        .await;
    }

    /// Waits until a script of the test returns `true`.
    pub(super) async fn holds(&self, script: &str) {
        until(script, async || {
            self.script(&format!("return {script}")).await == true
        })
        .await;
    }

    /// Opens the event whose row has this text.
    pub(super) async fn open_event(&self, text: &str) {
        self.shows("#rows [role=option]", text).await;
        let script = format!(
            "return [...document.querySelectorAll('#rows [role=option]')].find(row => row.textContent.includes({})).id",
            json!(text)
        );
        let row = self.script(&script).await;
        self.click(&format!("#{}", row.as_str().unwrap())).await;
        self.shows("#event-title", text).await;
    }

    /// The screen of a telephone.
    pub(super) async fn narrow(&self) {
        let screen = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", screen)
            .await;
    }

    /// What the system prefers: `light` or `dark`, and nothing that moves.
    pub(super) async fn prefers(&self, scheme: &str) {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
    }

    /// The path of an element.
    pub(super) async fn element(&self, selector: &str) -> String {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.ask(Method::POST, "/element", body).await;
        let id = found.as_object().unwrap().values().next().unwrap();
        format!("/element/{}", id.as_str().unwrap())
    }

    pub(super) async fn screenshot(&self) -> Vec<u8> {
        let picture = self.ask(Method::GET, "/screenshot", Value::Null).await;
        BASE64.decode(picture.as_str().unwrap()).unwrap()
    }

    /// A command of WebDriver. Returns its value.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
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
    pub(super) async fn log(&self, kind: &'static str) -> Vec<Value> {
        let log = self
            .ask(Method::POST, "/se/log", json!({"type": kind}))
            .await;
        log.as_array().unwrap().clone()
    }

    /// A command of the Chrome DevTools Protocol.
    pub(super) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.ask(Method::POST, "/goog/cdp/execute", body).await
    }
}

fn downloads(profile: &Path) -> PathBuf {
    profile.join("downloads")
}

fn capabilities(profile: &Path) -> Value {
    let preferences = json!({"download.default_directory": downloads(profile)});
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
        "goog:chromeOptions": {"args": arguments, "prefs": preferences},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    })
}
