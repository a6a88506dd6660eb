//! The served description of the interface: it has every route and no other, and every answer that there is.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::header::{ALLOW, CONTENT_TYPE, HOST};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use syn::visit::{Visit, visit_expr_method_call};

use super::{Description, Inspector, inspected, payload, settled};
use crate::harness::agent::with_handler;
use crate::harness::{Answer, Receiver};

const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// The routes of the router, as its source has them: method and path.
#[derive(Default)]
struct Routes(BTreeSet<(String, String)>);

impl<'a> Visit<'a> for Routes {
    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        visit_expr_method_call(self, call);
        if call.method != "route" {
            return;
        }
        let Some(syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(path),
            ..
        })) = call.args.first()
        else {
            panic!("the path of a route is a literal");
        };
        for method in methods(call.args.last().unwrap()) {
            self.0.insert((method, path.value()));
        }
    }
}

/// The methods of `get(…)` or `get(…).post(…)`.
fn methods(routing: &syn::Expr) -> Vec<String> {
    match routing {
        syn::Expr::Call(call) => match &*call.func {
            syn::Expr::Path(name) => vec![name.path.segments.last().unwrap().ident.to_string()],
            _ => panic!("a method is named"),
        },
        syn::Expr::MethodCall(call) => {
            let mut methods = methods(&call.receiver);
            methods.push(call.method.to_string());
            methods
        }
        _ => panic!("a route is a method with its handler"),
    }
}

fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../../../edge-agent/src/inspector/api.rs");
    let mut routes = Routes::default();
    routes.visit_file(&syn::parse_file(source).unwrap());
    routes.0
}

/// The operations of the description: method and path.
fn operations(description: &Description) -> BTreeSet<(String, String)> {
    let paths = description.0["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().keys();
        (methods.filter(|name| *name != "parameters")).map(|name| (name.clone(), path.clone()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_description_has_every_route_and_no_other() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let description = Description(inspector.get("/api/openapi.json").await);
    let operations = operations(&description);
    assert_eq!(operations, routes());
    for (_, path) in &operations {
        let asked = path.replace("{id}", "evt_0");
        for method in METHODS {
            let name = method.as_str().to_lowercase();
            let answer = inspector.request(method, &asked).send().await.unwrap();
            let is_described = operations.contains(&(name.clone(), path.clone()));
            assert_eq!(answer.status() != 405, is_described, "{name} {path}");
            if !is_described {
                let allowed = answer.headers()[ALLOW].to_str().unwrap().to_lowercase();
                let other = |name: &&str| !operations.contains(&((*name).to_owned(), path.clone()));
                let others: Vec<_> = allowed.split(',').filter(other).collect();
                assert!(
                    ["", "head"].contains(&others.join(",").as_str()),
                    "{path}: {allowed}"
                );
                let problem: Value = answer.json().await.unwrap();
                assert_eq!(problem["code"], "method_not_allowed", "{name} {path}");
            }
        }
    }
    agent.stop().await;
}

/// A request that is not whole after 30 s, and a store that fails.
const UNTRIED: [&str; 2] = ["408", "500"];

/// Requests whose answers are held against the description.
struct Checked<'a> {
    inspector: &'a Inspector,
    description: Description,
    seen: BTreeSet<(String, String, String)>,
}

impl Checked<'_> {
    /// Sends a request of an operation. Its answer has to be described, with this status and, if it is a problem, this code.
    async fn answers(&mut self, path: &str, request: RequestBuilder, status: u16, code: &str) {
        let request = request.build().unwrap();
        let method = request.method().as_str().to_lowercase();
        let what = format!("{method} {path} {status} {code}");
        let answer = self.inspector.client.execute(request).await.unwrap();
        let got = answer.status().as_u16();
        let kind = answer.headers().get(CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let described = &self.description.0["paths"][path][&method]["responses"][got.to_string()];
        assert!(described.is_object(), "{what}: {got} is not described");
        let content = &described["content"][&kind];
        assert!(content.is_object(), "{what}: {kind} is not described");
        let mut found = Value::Null;
        // The document itself has no schema here.
        let is_document = path == "/api/openapi.json" && got == 200;
        if kind == "application/json" && !is_document {
            found = answer.json().await.unwrap();
            (self.description).admits(path, &method, &got.to_string(), &found);
        }
        assert_eq!(got, status, "{what}: {found}");
        if status >= 400 {
            assert_eq!(found["code"], code, "{what}");
            let text = described["description"].as_str().unwrap();
            assert!(text.contains(&format!("`{code}`")), "{what}: {text}");
        }
        (self.seen).insert((method, path.to_owned(), status.to_string()));
    }

    /// What every operation answers without the key, by another name, and to a page of another origin.
    async fn guarded(&mut self) {
        for (method, path) in operations(&self.description) {
            let asked = path.replace("{id}", "evt_1");
            let method: Method = method.to_uppercase().parse().unwrap();
            let bare = self.inspector.bare(method.clone(), &asked);
            self.answers(&path, bare, 401, "no_key").await;
            let other = self.inspector.request(method.clone(), &asked);
            let other = other.header(HOST, "evil.example");
            self.answers(&path, other, 421, "wrong_host").await;
            if method == Method::POST {
                let foreign = self.inspector.request(method, &asked);
                let foreign = foreign.header("origin", "http://evil.example");
                self.answers(&path, foreign, 403, "other_origin").await;
            }
        }
    }

    async fn gets(&mut self, path: &str, asked: &str, status: u16, code: &str) {
        let request = self.inspector.request(Method::GET, asked);
        self.answers(path, request, status, code).await;
    }

    async fn posts(&mut self, path: &str, asked: &str, body: Value, (status, code): (u16, &str)) {
        let request = self.inspector.request(Method::POST, asked).json(&body);
        self.answers(path, request, status, code).await;
    }

    /// The operations that read.
    async fn reads(&mut self) {
        for path in [
            "/api/events",
            "/api/status",
            "/api/stream",
            "/api/openapi.json",
        ] {
            self.gets(path, path, 200, "").await;
        }
        self.gets(
            "/api/events",
            "/api/events?colour=red",
            400,
            "invalid_request",
        )
        .await;
        for path in ["/api/events/{id}", "/api/events/{id}/body"] {
            self.gets(path, &path.replace("{id}", "evt_1"), 200, "")
                .await;
            self.gets(path, &path.replace("{id}", "evt_0"), 404, "no_such_event")
                .await;
            self.gets(path, &path.replace("{id}", "%ff"), 400, "invalid_request")
                .await;
        }
    }

    /// The operations that change something, with a handler that has had one delivery and is slow from now on.
    async fn changes(&mut self, slow: &Receiver) {
        let (one, all, handler) = ("/api/events/{id}/replay", "/api/replay", "/api/handler");
        let replay = one.replace("{id}", "evt_1");
        let invalid = (400, "invalid_request");
        for (path, asked) in [(one, replay.as_str()), (all, all), (handler, handler)] {
            self.posts(path, asked, json!({"colour": "red"}), invalid)
                .await;
            let text = self.inspector.request(Method::POST, asked).body("{}");
            self.answers(path, text, 415, "not_json").await;
            let large = self.inspector.request(Method::POST, asked);
            let large = large.body(vec![b' '; 20_000_001]);
            self.answers(path, large, 413, "body_too_large").await;
        }
        let large = json!({"body": "x".repeat(10_000_001)});
        self.posts(one, &replay, large, (413, "body_too_large"))
            .await;
        let missing = (404, "no_such_event");
        self.posts(
            one,
            &one.replace("{id}", "evt_0"),
            json!({"body": ""}),
            missing,
        )
        .await;
        self.posts(all, all, json!({"ids": ["evt_0"]}), missing)
            .await;
        self.posts(handler, handler, json!({"paused": false}), (200, ""))
            .await;
        self.posts(all, all, json!({"state": "failed"}), (202, ""))
            .await;
        let again = self.inspector.request(Method::POST, &replay);
        self.answers(one, again, 202, "").await;
        slow.wait_for(2).await;
        let again = self.inspector.request(Method::POST, &replay);
        self.answers(one, again, 409, "being_handled").await;
        let conflict = (409, "being_handled");
        self.posts(all, all, json!({"ids": ["evt_1"]}), conflict)
            .await;
    }
}

#[tokio::test]
async fn every_described_answer_is_given_and_every_given_one_is_described() {
    let (relay, home, handler) = with_handler().await;
    let (agent, inspector) = inspected(&relay, &home, &handler).await;
    let body = payload("Issue", "ENG-1", "Login");
    agent.accepts(&home, "evt_1", &body).await;
    settled(&inspector, 1).await;
    // Longer than this test takes.
    handler.answer([Answer::Slow(Duration::from_secs(600), 200)]);
    let description = Description(inspector.get("/api/openapi.json").await);
    let mut described = BTreeSet::new();
    for (method, path) in operations(&description) {
        let responses = &description.0["paths"][&path][&method]["responses"];
        let statuses = responses.as_object().unwrap().keys();
        for status in statuses.filter(|status| !UNTRIED.contains(&status.as_str())) {
            described.insert((method.clone(), path.clone(), status.clone()));
        }
    }
    let mut checked = Checked {
        inspector: &inspector,
        description,
        seen: BTreeSet::new(),
    };
    checked.guarded().await;
    checked.reads().await;
    checked.changes(&handler).await;
    assert_eq!(checked.seen, described);
    agent.kill().await;
}
