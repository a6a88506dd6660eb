//! The relay is no weapon: one answer for every address that is not allowed, also where it hides, and not a packet to it.

mod name_server;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::raw::{Raw, Script};
use crate::harness::special_purpose::{addresses, embedded, notations};
use crate::harness::target::Target;
use crate::harness::{Registration, Relay, TOKEN, eventually, issue, relay, until};

const BLOCKED: &str = "unreachable: the address is not allowed or its name is not resolved";

/// Where workers are. It is on loopback, too, but a listener at 127.0.0.1 does not get its connections.
const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection to it reaches 127.0.0.1, but it is no address of loopback.
const HIDDEN: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// The whole answer to a registration that is refused.
async fn refusal(relay: &Relay, url: &str) -> Value {
    let request = json!({"name": "refused", "linearToken": TOKEN, "webhookUrl": url});
    let answer = (relay.call(Method::POST, "/edge/register", None, &request)).await;
    assert_eq!(answer.status(), 400, "{url}");
    answer.json().await.unwrap()
}

/// Why the first attempt for this worker failed.
async fn failure(relay: &Relay, worker: &Registration) -> String {
    let error = async || relay.read(worker).await.last_error;
    eventually("the attempt failed", error).await.reason
}

/// Names, all of which have these addresses.
#[derive(Debug, Clone, Default)]
struct Names(Arc<Mutex<Vec<IpAddr>>>);

impl Names {
    fn have(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        *self.0.lock().unwrap() = addresses.into_iter().collect();
    }

    fn lookup(&self) -> impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static {
        let names = self.clone();
        move |_| names.0.lock().unwrap().clone()
    }
}

/// A worker that takes everything, and a listener at the same port of 127.0.0.1, where nothing may arrive.
async fn worker_beside_a_target() -> (Raw, Target) {
    let target = Target::start().await;
    let address = format!("{ALLOWED}:{}", target.address.port());
    (Raw::start_at(&address, accepted()).await, target)
}

fn accepted() -> Script {
    Script::again(
        "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        1,
    )
}

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

#[tokio::test]
async fn every_special_purpose_address_gets_that_answer_in_every_notation() {
    let relay = relay().public().start().await;
    let expected = refusal(&relay, "https://nowhere.invalid/").await;
    assert_eq!(expected["code"], "address_blocked");
    let addresses = addresses();
    assert!(addresses.len() > 80, "{addresses:?}");
    let hosts = addresses.into_iter().flat_map(notations);
    for (host, port) in hosts.zip(["", ":443", ":1024", ":65535"].into_iter().cycle()) {
        let url = format!("https://{host}{port}/hook?x=1");
        assert_eq!(refusal(&relay, &url).await, expected, "{url}");
    }
    assert_eq!(relay.linear.calls(), 1);
}

#[tokio::test]
async fn a_name_of_special_purpose_addresses_gets_that_answer_too() {
    let names = Names::default();
    let relay = relay().public().named(names.lookup()).start().await;
    let url = "https://worker.example/";
    let expected = refusal(&relay, url).await;
    assert_eq!(expected["code"], "address_blocked", "there is no such name");
    let mut all = addresses();
    for address in all.clone() {
        if let IpAddr::V4(v4) = address {
            all.extend(embedded(v4).into_iter().map(IpAddr::from));
        }
    }
    // If one of them were allowed, it would be connected to.
    names.have(all);
    assert_eq!(refusal(&relay, url).await, expected);
}

#[tokio::test]
async fn nothing_is_sent_to_an_address_that_is_not_allowed() {
    let (target, names) = (Target::start().await, Names::default());
    let port = target.address.port();
    let blocked = relay().public().named(names.lookup()).start().await;
    let expected = refusal(&blocked, "https://worker.example/").await;
    names.have([Ipv4Addr::LOCALHOST.into(), HIDDEN.into()]);
    let mut hosts: Vec<_> = [Ipv4Addr::LOCALHOST.into(), HIDDEN.into()]
        .into_iter()
        .flat_map(notations)
        .collect();
    let written = "localhost LocalHost localhost. %6cocalhost loca\u{ad}lhost \u{24db}ocalhost a.localhost [::1] [::] \
        worker.example WORKER.example. b\u{fc}cher.example xn--bcher-kva.example";
    hosts.extend(written.split_whitespace().map(str::to_owned));
    for host in hosts {
        let url = format!("https://{host}:{port}/");
        assert_eq!(refusal(&blocked, &url).await, expected, "{url}");
    }
    for (url, code) in [
        // Which host this is depends on who reads it.
        (
            format!("https://127.0.0.1:{port}@worker.example/"),
            "invalid_webhook_url",
        ),
        (
            format!("https://worker.example@127.0.0.1:{port}/"),
            "invalid_webhook_url",
        ),
        (
            format!("https://worker.example%40127.0.0.1:{port}/"),
            "invalid_webhook_url",
        ),
        (
            format!("https://worker.example#@127.0.0.1:{port}/"),
            "invalid_webhook_url",
        ),
        (
            format!("https://worker.example:{port}\\@127.0.0.1:{port}/"),
            "address_blocked",
        ),
        (format!("https:127.0.0.1:{port}/"), "address_blocked"),
        (format!("https:\\\\127.0.0.1:{port}\\"), "address_blocked"),
        (
            format!(" ht\ttps://127.0.\n0.1:{port}/ "),
            "address_blocked",
        ),
    ] {
        assert_eq!(refusal(&blocked, &url).await["code"], code, "{url}");
    }
    assert_eq!(target.connections().await, 0);
    // Where it is allowed, it is connected to: what was counted above could have come.
    let allowed = relay().named(names.lookup()).start().await;
    for (host, count) in [("127.1", 1), ("localhost", 2), ("worker.example", 3)] {
        let answer = refusal(&allowed, &format!("https://{host}:{port}/")).await;
        assert_eq!(answer["code"], "challenge_failed", "{answer}");
        assert_eq!(target.connections().await, count, "{host}");
    }
}

#[tokio::test]
async fn a_name_is_resolved_and_checked_for_every_connection() {
    let (receiver, target) = worker_beside_a_target().await;
    let names = Names::default();
    let relay = relay().named(names.lookup()).start().await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    for (name, address) in [
        ("unspecified", HIDDEN.into()),
        ("mapped", HIDDEN.to_ipv6_mapped().into()),
        ("v6", "::".parse().unwrap()),
        ("private", IpAddr::from([10, 0, 0, 1])),
        ("metadata", [169, 254, 169, 254].into()),
    ] {
        names.have([ALLOWED.into()]);
        let worker = relay.register(name, &url).await;
        names.have([address]);
        relay.post(&issue(name, 1)).await;
        assert_eq!(failure(&relay, &worker).await, BLOCKED, "{name}");
        relay.remove(&worker).await;
    }
    assert_eq!((receiver.deliveries(), target.connections().await), (0, 0));
}

#[tokio::test]
async fn of_a_mixed_answer_only_the_allowed_addresses_are_connected_to() {
    let (receiver, target) = worker_beside_a_target().await;
    let names = Names::default();
    let relay = relay().named(names.lookup()).start().await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    let hidden = [
        HIDDEN.into(),
        HIDDEN.to_ipv6_mapped().into(),
        [10, 0, 0, 1].into(),
    ];
    names.have(hidden.into_iter().chain([ALLOWED.into()]).chain(hidden));
    relay.register("one", &url).await;
    for count in 1..4 {
        relay.post(&issue("i", count)).await;
        until("it arrived", async || receiver.deliveries() == count).await;
    }
    assert_eq!(target.connections().await, 0);
}

#[tokio::test]
async fn a_name_that_changes_with_every_lookup_is_reached_only_where_it_is_allowed() {
    let (receiver, target) = worker_beside_a_target().await;
    let lookups = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&lookups);
    let relay = relay().named(move |_| {
        let mut count = counted.lock().unwrap();
        *count += 1;
        vec![if *count % 2 == 1 { ALLOWED } else { HIDDEN }.into()]
    });
    let relay = relay.start().await;
    let url = format!("http://localhost:{}/", receiver.address.port());
    let worker = relay.register("one", &url).await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(failure(&relay, &worker).await, BLOCKED);
    // The next attempt succeeds.
    relay.settled().await;
    assert_eq!((receiver.deliveries(), target.connections().await), (1, 0));
    assert_eq!(*lookups.lock().unwrap(), 3);
}

#[tokio::test]
async fn nothing_is_sent_to_a_stored_address_that_is_no_longer_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let first = relay().keep(directory.path()).start().await;
    let receiver = Raw::start(accepted()).await;
    let port = receiver.address.port();
    let mut workers = Vec::new();
    for host in ["127.0.0.1", "0x7f.1", "localhost"] {
        workers.push(
            first
                .register(host, &format!("http://{host}:{port}/"))
                .await,
        );
    }
    first.local.stop().await;
    let second = relay().keep(directory.path()).public().start().await;
    assert_eq!(second.deliveries(1).await, 3);
    for worker in &workers {
        assert_eq!(failure(&second, worker).await, BLOCKED);
    }
    assert_eq!(receiver.deliveries(), 0);
}

/// Answers with this status and location.
fn redirect(status: u16, location: &str) -> Script {
    let head = format!(
        "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\nrefresh: 0; url={location}\r\n"
    );
    Script::again(
        format!("{head}content-length: 0\r\nconnection: close\r\n\r\n"),
        1,
    )
}

#[tokio::test]
async fn a_redirect_is_followed_to_no_scheme() {
    let (relay, target) = (relay().start().await, Target::start().await);
    let to = target.address;
    let statuses = [300, 301, 303, 305, 307, 308].map(|status| (status, format!("http://{to}/")));
    let locations =
        "http: HTTPS: ftp: gopher: ws: wss: ldap: dict: tftp: unix: jar:http: view-source:http:"
            .split(' ')
            .map(|scheme| format!("{scheme}//{to}/"))
            .chain([
                format!("//{to}/"),
                "file:///etc/passwd".into(),
                "data:,x".into(),
                String::new(),
            ])
            .map(|location| (302, location));
    for (status, location) in statuses.into_iter().chain(locations) {
        let receiver = Raw::start(redirect(status, &location)).await;
        let worker = relay.register("one", &receiver.url()).await;
        relay.post(&issue(&location, usize::from(status))).await;
        let reason = failure(&relay, &worker).await;
        assert_eq!(
            reason,
            format!("unreachable: answered {status}"),
            "{location}"
        );
        relay.remove(&worker).await;

        receiver.script_challenges();
        let answer = refusal(&relay, &receiver.url()).await;
        assert_eq!(answer["code"], "challenge_failed");
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.ends_with(&format!("it answered {status}")),
            "{detail}"
        );
    }
    assert_eq!(target.connections().await, 0);
}
