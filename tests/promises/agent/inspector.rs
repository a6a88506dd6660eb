//! The inspector: who may use it, what it says, and what it does.

mod description;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::agent::{Agent, deliver, output, relay_and_home, run, signed, with_handler};
use crate::harness::{Answer, Receiver, Relay, issue, until};

/// What no payload may do to the page: leave its text, run, reorder or hide what is shown.
const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}\u{2066}\u{0007}\u{001b}[31m&amp;";

/// The inspector of a running agent.
struct Inspector {
    client: Client,
    /// `http://127.0.0.1:<port>/<path of the run>`
    address: String,
    key: String,
}

impl Inspector {
    async fn of(home: &Path) -> Self {
        let printed = run(home, &["inspect"]).await.exits(0).stdout;
        let (address, key) = printed.trim_end().split_once("/?key=").unwrap();
        Self {
            client: Client::builder().no_proxy().build().unwrap(),
            address: address.to_owned(),
            key: key.to_owned(),
        }
    }

    /// A request without the key.
    fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.address))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.request(Method::GET, path).send().await.unwrap();
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let request = self.request(Method::POST, path).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn replay(&self, id: &str) -> (StatusCode, Value) {
        let path = format!("/api/events/{id}/replay");
        let answer = self.request(Method::POST, &path).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn events(&self, query: &str) -> Vec<Value> {
        let list = self.get(&format!("/api/events{query}")).await;
        list["events"].as_array().unwrap().clone()
    }

    fn cookie(&self) -> String {
        let port = self.origin().rsplit(':').next().unwrap();
        format!("edge-agent-{port}={}", self.key)
    }

    fn origin(&self) -> &str {
        self.address.rsplit_once('/').unwrap().0
    }
}

async fn code(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    (status, problem["code"].clone())
}

/// An agent with an inspector, whose handler is this server.
async fn inspected(relay: &Relay, home: &Path, handler: &Receiver) -> (Agent, Inspector) {
    let agent = Agent::inspected(relay, home, handler).await;
    let inspector = Inspector::of(home).await;
    (agent, inspector)
}

fn payload(kind: &str, identifier: &str, title: &str) -> String {
    json!({
        "action": "update", "type": kind, "organizationId": "org", "webhookTimestamp": 1,
        "data": {"id": format!("id-{identifier}"), "identifier": identifier, "title": title},
        "updatedFrom": {"title": "before"},
    })
    .to_string()
}

async fn settled(inspector: &Inspector, count: usize) -> Vec<Value> {
    until("all are settled", async || {
        let events = inspector.events("").await;
        events.len() == count && events.iter().all(|event| event["state"] != "waiting")
    })
    .await;
    inspector.events("").await
}

#[tokio::test]
async fn an_event_is_shown_with_its_attempts_its_verdict_and_what_it_changed() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let body = payload("Issue", "ENG-1", "Fix the login");
    agent.accepts(&home, "evt_1", &body).await;
    let [event] = settled(&inspector, 1).await.try_into().unwrap();
    for (name, expected) in [
        ("id", json!("evt_1")),
        ("type", json!("Issue")),
        ("action", json!("update")),
        ("identifier", json!("ENG-1")),
        ("title", json!("Fix the login")),
        ("state", json!("done")),
        ("attempts", json!(1)),
        ("size", json!(body.len())),
    ] {
        assert_eq!(event[name], expected, "{name}");
    }
    let detail = inspector.get("/api/events/evt_1").await;
    assert_eq!(detail["body"], json!(body));
    assert_eq!(
        detail["digest"],
        protocol::envelope::digest(body.as_bytes())
    );
    let signed = detail["headers"].as_array().unwrap();
    assert!(
        signed.contains(&json!(["webhook-id", "evt_1"])),
        "{signed:?}"
    );
    assert_eq!(detail["isIntact"], true);
    assert_eq!(
        detail["changes"],
        json!([{"field": "title", "before": "before", "after": "Fix the login"}])
    );
    assert_eq!(detail["tries"][0]["outcome"], "done");
    let verdict = &detail["verdict"];
    assert_eq!(
        (&verdict["isValid"], &verdict["secret"]),
        (&json!(true), &json!("current"))
    );
    let answer = inspector.request(Method::GET, "/api/events/evt_1/body");
    let answer = answer.send().await.unwrap();
    let kept = answer.headers()["content-disposition"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(kept, "attachment; filename=\"Issue.update-evt_1.json\"");
    assert_eq!(answer.bytes().await.unwrap(), body.as_bytes());
    agent.stop().await;
}

#[tokio::test]
async fn a_list_is_filtered_and_paged() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    for (at, kind, title) in [
        (1, "Issue", "Login"),
        (2, "Comment", "logout"),
        (3, "Issue", "Other"),
    ] {
        let body = payload(kind, &format!("ENG-{at}"), title);
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    let key = settled(&inspector, 3).await[2]["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let ids = async |query: &str| {
        let events = inspector.events(query).await;
        let ids = events
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>().join(" ")
    };
    for (query, expected) in [
        ("", "evt_3 evt_2 evt_1"),
        ("?text=LOG", "evt_2 evt_1"),
        ("?text=eng-3", "evt_3"),
        ("?text=comment.up", "evt_2"),
        ("?type=Issue", "evt_3 evt_1"),
        ("?type=Comment.update", "evt_2"),
        ("?state=done&limit=2", "evt_3 evt_2"),
        ("?state=failed", ""),
        ("?id=evt_1", "evt_1"),
        (&format!("?key={key}"), "evt_1"),
    ] {
        assert_eq!(ids(query).await, expected, "{query}");
    }
    let first = inspector.get("/api/events?limit=2").await;
    assert_eq!(first["more"], true);
    let before = first["events"][1]["sequence"].as_i64().unwrap();
    let rest = inspector
        .get(&format!("/api/events?limit=2&before={before}"))
        .await;
    assert_eq!(
        (&rest["more"], &rest["events"][0]["id"]),
        (&json!(false), &json!("evt_1"))
    );
    for query in [
        "?limit=0",
        "?limit=501",
        "?limit=x",
        "?state=lost",
        "?type=?",
        "?since=now",
        "?colour=red",
    ] {
        let path = format!("/api/events{query}");
        let answer = inspector.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(
            code(answer).await,
            (400, json!("invalid_request")),
            "{query}"
        );
    }
    let nobody = inspector
        .request(Method::GET, "/api/events/evt_9")
        .send()
        .await
        .unwrap();
    assert_eq!(code(nobody).await, (404, json!("no_such_event")));
    agent.stop().await;
}

#[tokio::test]
async fn an_event_is_replayed_and_an_edited_copy_goes_to_the_handler_alone() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let body = payload("Issue", "ENG-1", "Login");
    agent.accepts(&home, "evt_1", &body).await;
    settled(&inspector, 1).await;
    let (status, event) = inspector.replay("evt_1").await;
    assert_eq!(
        (status, &event["id"]),
        (StatusCode::ACCEPTED, &json!("evt_1"))
    );
    handler.wait_for(2).await;
    let edited = body.replace("Login", "Edited");
    let (status, copy) = inspector
        .post("/api/events/evt_1/replay", json!({"body": edited}))
        .await;
    assert_eq!(
        (status, &copy["editedFrom"]),
        (StatusCode::ACCEPTED, &json!("evt_1"))
    );
    let requests = handler.wait_for(3).await;
    assert_eq!(requests[1].body, body.as_bytes());
    assert_eq!(requests[2].body, edited.as_bytes());
    let id = copy["id"].as_str().unwrap();
    let header = |name: &str| requests[2].header(name);
    assert_eq!(
        (header("webhook-id"), header("edge-edited-from")),
        (id, "evt_1")
    );
    assert_eq!(
        (header("webhook-signature"), header("linear-signature")),
        ("", "")
    );
    settled(&inspector, 2).await;
    let detail = inspector.get(&format!("/api/events/{id}")).await;
    assert_eq!(
        (&detail["verdict"], &detail["title"]),
        (&Value::Null, &json!("Edited"))
    );
    for (body, status, expected) in [
        (json!({"body": 7}), 400, "invalid_request"),
        (json!({"text": "x"}), 400, "invalid_request"),
    ] {
        let (got, problem) = inspector.post("/api/events/evt_1/replay", body).await;
        assert_eq!((got.as_u16(), &problem["code"]), (status, &json!(expected)));
    }
    assert_eq!(inspector.events("").await.len(), 2);
    agent.stop().await;
}

#[tokio::test]
async fn all_that_failed_is_retried_at_once_and_nothing_else_is() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::To("Fails", 500)]);
    let agent = Agent::inspected_without_retries(&relay, &home, &handler).await;
    let inspector = Inspector::of(&home).await;
    for (at, title) in [(1, "Fails"), (2, "Fails"), (3, "Works")] {
        let body = payload("Issue", &format!("ENG-{at}"), title);
        agent.accepts(&home, &format!("evt_{at}"), &body).await;
    }
    settled(&inspector, 3).await;
    assert_eq!(inspector.events("?state=failed").await.len(), 2);
    handler.answer([Answer::Status(200)]);
    let failed = json!({"state": "failed"});
    let (status, replayed) = inspector.post("/api/replay", failed).await;
    assert_eq!(
        (status, replayed),
        (StatusCode::ACCEPTED, json!({"replayed": 2}))
    );
    settled(&inspector, 3).await;
    assert_eq!(inspector.events("?state=done").await.len(), 3);
    assert_eq!(handler.count(), 5);
    for (request, status, code) in [
        (json!({"state": "done"}), 400, "invalid_request"),
        (json!({"ids": ["evt_1", "evt_9"]}), 404, "no_such_event"),
    ] {
        let (got, problem) = inspector.post("/api/replay", request).await;
        assert_eq!((got.as_u16(), &problem["code"]), (status, &json!(code)));
    }
    assert_eq!(handler.count(), 5);
    agent.stop().await;
}

#[tokio::test]
async fn a_replay_does_not_wait_for_a_retry_and_none_is_lost_while_an_event_is_handled() {
    let (relay, home, handler) = with_handler().await;
    let slow = Answer::Slow(Duration::from_secs(3), 200);
    handler.answer([Answer::Status(500), Answer::Status(500), slow]);
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    agent
        .accepts(&home, "evt_1", &payload("Issue", "ENG-1", "t"))
        .await;
    // The next retry is five seconds away.
    until("it has failed twice", async || {
        inspector.events("").await[0]["attempts"] == 2
    })
    .await;
    let began = std::time::Instant::now();
    assert_eq!(inspector.replay("evt_1").await.0, StatusCode::ACCEPTED);
    handler.wait_for(3).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{began:?}");
    let (status, problem) = inspector.replay("evt_1").await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (409, &json!("being_handled"))
    );
    settled(&inspector, 1).await;
    assert_eq!(inspector.replay("evt_1").await.0, StatusCode::ACCEPTED);
    handler.wait_for(4).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_is_printed_and_not_taken_is_not_replayed() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    up.env("EDGE_AGENT_INSPECT", "127.0.0.1:0");
    up.arg("--ack").stdin(Stdio::piped());
    let mut agent = Agent::start(&mut up).await;
    let inspector = Inspector::of(&home).await;
    relay.post(&issue("i", 1)).await;
    let id = agent.event().await["id"].as_str().unwrap().to_owned();
    // It would be marked as done when it is taken, and not printed again.
    let (status, problem) = inspector.replay(&id).await;
    assert_eq!(
        (status.as_u16(), &problem["code"]),
        (409, &json!("being_handled"))
    );
    let mut stdin = agent.child.stdin.take().unwrap();
    let ack = format!("{id}\n");
    stdin.write_all(ack.as_bytes()).await.unwrap();
    until("it can be replayed", async || {
        inspector.replay(&id).await.0 == 202
    })
    .await;
    assert_eq!(agent.event().await["id"], json!(id));
}

#[tokio::test]
async fn a_paused_handler_gets_nothing_until_it_is_resumed() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let (status, facts) = inspector
        .post("/api/handler", json!({"paused": true}))
        .await;
    assert_eq!((status, &facts["isPaused"]), (StatusCode::OK, &json!(true)));
    agent
        .accepts(&home, "evt_1", &payload("Issue", "ENG-1", "t"))
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handler.count(), 0);
    assert_eq!(
        run(&home, &["status", "--json"]).await.json()["isPaused"],
        true
    );
    inspector
        .post("/api/handler", json!({"paused": false}))
        .await;
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_stream_tells_what_arrives_and_what_becomes_of_it() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let mut stream = inspector
        .request(Method::GET, "/api/stream")
        .send()
        .await
        .unwrap();
    assert_eq!(stream.headers()[CONTENT_TYPE], "text/event-stream");
    agent
        .accepts(&home, "evt_1", &payload("Issue", "ENG-1", "t"))
        .await;
    let mut told = String::new();
    while !(told.contains("event: status")
        && told.contains(r#""id":"evt_1""#)
        && told.contains(r#""state":"done""#))
    {
        let chunk = tokio::time::timeout(Duration::from_secs(60), stream.chunk()).await;
        told += std::str::from_utf8(&chunk.expect("in time").unwrap().unwrap()).unwrap();
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_status_says_what_the_command_says_and_why_events_did_not_come() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let (status, _) = deliver(&agent.address, &signed(&home, "evt_0", "{}"), "{ }").await;
    assert_eq!(status, 401);
    until(
        "the refusal is reported, and the relay was asked",
        async || {
            let status = inspector.get("/api/status").await;
            status["refused"].is_string() && status["atRelay"].is_object()
        },
    )
    .await;
    let shown = inspector.get("/api/status").await;
    let said = run(&home, &["status", "--json"]).await.json();
    for name in [
        "pid", "listen", "relay", "name", "state", "handlers", "events", "workerId", "refused",
    ] {
        assert_eq!(shown[name], said[name], "{name}");
    }
    assert_eq!(shown["atRelay"]["waiting"], false);
    assert_eq!(shown["activity"].as_array().unwrap().len(), 60);
    let refusals = shown["refusals"].as_array().unwrap();
    assert!(
        refusals[0]["reason"]
            .as_str()
            .unwrap()
            .contains("no signature matches")
    );
    agent.stop().await;
}

#[tokio::test]
async fn only_a_name_of_loopback_is_answered() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    for host in ["evil.example", "127.0.0.1:1", "127.0.0.1.evil.example"] {
        for path in ["/", "/inspector.js", "/api/status"] {
            let request = inspector.request(Method::GET, path).header(HOST, host);
            let answer = request.send().await.unwrap();
            assert_eq!(
                code(answer).await,
                (421, json!("wrong_host")),
                "{host} {path}"
            );
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_answered_without_the_key_but_the_page_that_says_so() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    for (method, path) in [
        (Method::GET, "/api/events"),
        (Method::GET, "/api/events/evt_1"),
        (Method::GET, "/api/status"),
        (Method::GET, "/api/stream"),
        (Method::GET, "/api/openapi.json"),
        (Method::POST, "/api/events/evt_1/replay"),
        (Method::POST, "/api/replay"),
        (Method::POST, "/api/handler"),
        (Method::GET, "/api/nowhere"),
    ] {
        let answer = inspector.bare(method, path).send().await.unwrap();
        assert_eq!(code(answer).await, (401, json!("no_key")), "{path}");
    }
    for path in ["/", "/?key=", "/?key=0123"] {
        let answer = inspector.bare(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert!(answer.headers().get(SET_COOKIE).is_none());
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("edge-agent inspect") && !page.contains(&inspector.key),
            "{page}"
        );
    }
    let path = format!("/?key={}", inspector.key);
    let answer = inspector.bare(Method::GET, &path).send().await.unwrap();
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert_eq!(cookie, {
        // A server at another port of this host does not get it.
        let path = inspector.address.rsplit('/').next().unwrap();
        assert_eq!(path.len(), 32);
        format!(
            "{}; Path=/{path}/; HttpOnly; SameSite=Strict",
            inspector.cookie()
        )
    });
    let request = inspector.bare(Method::GET, "/api/status");
    let answer = request
        .header(COOKIE, inspector.cookie())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    agent.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_can_change_nothing_even_with_the_cookie() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let pause = |origin: Option<&str>, kind: &str| {
        let mut request = inspector
            .bare(Method::POST, "/api/handler")
            .header(COOKIE, inspector.cookie())
            .header(CONTENT_TYPE, kind)
            .body(r#"{"paused":true}"#);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        request.send()
    };
    for origin in [
        None,
        Some("http://evil.example"),
        Some("http://127.0.0.1:1"),
        Some("null"),
    ] {
        let answer = pause(origin, "application/json").await.unwrap();
        assert_eq!(
            code(answer).await,
            (403, json!("other_origin")),
            "{origin:?}"
        );
    }
    let own = Some(inspector.origin());
    let answer = pause(own, "text/plain").await.unwrap();
    assert_eq!(code(answer).await, (415, json!("not_json")));
    assert_eq!(inspector.get("/api/status").await["isPaused"], false);
    let answer = pause(own, "application/json").await.unwrap();
    assert_eq!(answer.status(), 200);
    agent.stop().await;
}

#[tokio::test]
async fn every_error_is_a_code_and_a_sentence() {
    let (relay, home, handler) = with_handler().await;
    let (_agent, inspector) = inspected(&relay, &home, &handler).await;
    let invalid = (400, json!("invalid_request"));
    for path in [
        "/api/events/%ff",
        "/api/events/%ff/body",
        "/api/events?limit=0",
        "/api/events?limit=1&limit=2",
        "/api/events?since=yesterday",
    ] {
        let answer = inspector.request(Method::GET, path).send().await.unwrap();
        assert_eq!(code(answer).await, invalid, "{path}");
    }
    let post = |path| {
        let request = inspector.request(Method::POST, path);
        request.header(CONTENT_TYPE, "application/json")
    };
    for body in ["", "[]", r#"{"paused":1}"#, r#"{"paused":true,"more":1}"#] {
        let answer = post("/api/handler").body(body).send().await.unwrap();
        assert_eq!(code(answer).await, invalid, "{body}");
    }
    let large = post("/api/replay").body(vec![b' '; 20_000_001]);
    let expected = (413, json!("body_too_large"));
    assert_eq!(code(large.send().await.unwrap()).await, expected);
    let expected = (405, json!("method_not_allowed"));
    for (method, path) in [
        (Method::DELETE, "/api/events/1"),
        (Method::POST, "/"),
        (Method::PUT, "/inspector.js"),
    ] {
        let answer = inspector.request(method, path).send().await.unwrap();
        assert_eq!(code(answer).await, expected, "{path}");
    }
    // An address with two keys has none.
    let path = format!("/?key={0}&key={0}", inspector.key);
    let answer = inspector.bare(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
}

#[tokio::test]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let page = format!("/?key={}", inspector.key);
    for path in [
        page.as_str(),
        "/",
        "/inspector.js",
        "/inspector.css",
        "/api/status",
        "/nowhere",
    ] {
        let answer = inspector.bare(Method::GET, path).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        let text = answer.text().await.unwrap();
        assert!(
            !text.contains("http://") && !text.contains("https://") || path.ends_with("js"),
            "{path}"
        );
    }
    agent.stop().await;
}

#[tokio::test]
async fn hostile_payloads_come_out_as_the_text_that_they_are() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    agent
        .accepts(&home, "evt_1", &payload("Issue", "ENG-1", HOSTILE))
        .await;
    let large = payload("Issue", "ENG-2", &"x".repeat(6_000_000));
    agent.accepts(&home, "evt_2", &large).await;
    let events = settled(&inspector, 2).await;
    assert_eq!(events[1]["title"], HOSTILE);
    assert_eq!(events[0]["title"].as_str().unwrap().len(), 300);
    let answer = inspector
        .request(Method::GET, "/api/events/evt_1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    let detail = inspector.get("/api/events/evt_2").await;
    assert_eq!(
        (&detail["body"], &detail["size"]),
        (&Value::Null, &json!(large.len()))
    );
    let answer = inspector.request(Method::GET, "/api/events/evt_2/body");
    let body = answer.send().await.unwrap().bytes().await.unwrap();
    assert_eq!(body, large.as_bytes());
    agent.stop().await;
}

/// The schemas of the description that an answer has to fit, by its operation.
struct Description(Value);

impl Description {
    /// Asserts that an answer is as the description says, without a field that it does not name.
    fn admits(&self, path: &str, method: &str, status: &str, answer: &Value) {
        let operation = &self.0["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let schema = &operation["responses"][status]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {path} has no answer {status}");
        self.compare(schema, answer, path);
    }

    fn compare(&self, schema: &Value, value: &Value, at: &str) {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap();
            return self.compare(&self.0["components"]["schemas"][name], value, at);
        }
        if let Some(all) = schema["allOf"].as_array() {
            let parts = all.iter().map(|part| match part["$ref"].as_str() {
                Some(name) => &self.0["components"]["schemas"][name.rsplit('/').next().unwrap()],
                None => part,
            });
            let mut merged = json!({"type": "object", "properties": {}, "required": []});
            for part in parts {
                let properties = part["properties"].as_object().unwrap().clone();
                merged["properties"]
                    .as_object_mut()
                    .unwrap()
                    .extend(properties);
                let required = part["required"].as_array().unwrap().clone();
                merged["required"].as_array_mut().unwrap().extend(required);
            }
            return self.compare(&merged, value, at);
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is_kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().any(|of| of == kind),
            Value::Null => true,
            of => of == kind,
        };
        assert!(is_kind, "{at} is {kind}: {schema}");
        if let Some(values) = schema["enum"].as_array() {
            assert!(values.contains(value), "{at}: {value}");
        }
        if let Value::Array(items) = value {
            for item in items {
                self.compare(&schema["items"], item, &format!("{at}[]"));
            }
        }
        if let (Value::Object(fields), Some(known)) = (value, schema["properties"].as_object()) {
            for (name, field) in fields {
                let schema = known
                    .get(name)
                    .unwrap_or_else(|| panic!("{at}.{name} is not described"));
                self.compare(schema, field, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().unwrap() {
                assert!(
                    fields.contains_key(name.as_str().unwrap()),
                    "{at}.{name} is missing"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_answer_is_as_its_description_says() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let description = Description(inspector.get("/api/openapi.json").await);
    let body = payload("Issue", "ENG-1", "Login");
    agent.accepts(&home, "evt_1", &body).await;
    settled(&inspector, 1).await;
    let (_, copy) = inspector
        .post("/api/events/evt_1/replay", json!({"body": "{}"}))
        .await;
    description.admits("/api/events/{id}/replay", "post", "202", &copy);
    settled(&inspector, 2).await;
    let copy = format!("/api/events/{}", copy["id"].as_str().unwrap());
    for (path, asked) in [
        ("/api/events", "/api/events"),
        ("/api/events/{id}", "/api/events/evt_1"),
        ("/api/events/{id}", &copy),
        ("/api/status", "/api/status"),
    ] {
        description.admits(path, "get", "200", &inspector.get(asked).await);
    }
    let (_, replayed) = inspector
        .post("/api/replay", json!({"state": "failed"}))
        .await;
    description.admits("/api/replay", "post", "202", &replayed);
    let (_, status) = inspector
        .post("/api/handler", json!({"paused": false}))
        .await;
    description.admits("/api/handler", "post", "200", &status);
    let (_, problem) = inspector.post("/api/handler", json!({})).await;
    description.admits("/api/handler", "post", "400", &problem);
    agent.stop().await;
}

#[tokio::test]
async fn the_commands_ask_the_running_agent_and_read_the_file_without_one() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let body = payload("Issue", "ENG-1", "Login");
    for id in ["evt_1", "evt_2"] {
        agent.accepts(&home, id, &body).await;
    }
    settled(&inspector, 2).await;
    let said = async || {
        let mut said = Vec::new();
        for arguments in [
            vec!["events"],
            vec!["events", "--json", "-n", "1"],
            vec!["events", "evt_2"],
            vec!["events", "evt_2", "--json"],
            vec!["events", "evt_1", "--body"],
            vec!["events", "--type", "Comment"],
            vec!["events", "evt_3"],
            vec!["events", "evt_"],
        ] {
            let output = run(&home, &arguments).await;
            said.push((output.code, output.stdout, output.stderr));
        }
        said
    };
    let of_agent = said().await;
    assert_eq!(of_agent[4].1, body);
    run(&home, &["replay", "evt_1"]).await.exits(0);
    handler.wait_for(3).await;
    settled(&inspector, 2).await;
    let of_agent = said().await;
    // The agent is asked, and not the file: its key does not fit any more.
    std::fs::write(home.join("inspector.key"), "0").unwrap();
    run(&home, &["events"]).await.exits(1).warns("401");
    run(&home, &["status"]).await.exits(1).warns("401");
    agent.stop().await;
    assert_eq!(said().await, of_agent);
}

#[tokio::test]
async fn it_is_off_or_elsewhere_if_asked_and_never_beyond_this_machine() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::start(Agent::up(&relay, &home).env("EDGE_AGENT_INSPECT", "off")).await;
    run(&home, &["inspect"])
        .await
        .exits(3)
        .warns("has no inspector");
    agent.stop().await;
    run(&home, &["inspect"]).await.exits(3).warns("not running");
    for address in ["0.0.0.0:4748", "192.168.0.1:1", "here"] {
        let mut up = Agent::up(&relay, &home);
        let refused = output(up.args(["--inspect", address])).await;
        refused.exits(2).warns("one of this machine alone");
    }
}
