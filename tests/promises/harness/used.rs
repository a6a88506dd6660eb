//! What the functions used and logged while the tests ran, written down for other tests: which action on which resource, from
//! which place of the code, and a log line of each kind, from which CloudWatch takes the metrics.
//!
//! One JSON object a line, in `USED` and `LOGGED`, each once.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, Once};

use local::testing::calls::Observer;
use local::testing::place::place;
use relay::{logging, metrics};
use serde_json::{Value, json};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// What was used, by function: an IAM action and what it was used on, a partition, an attribute, and a place of the code.
pub(crate) const USED: &str = "used.jsonl";
/// What was logged: a line of each kind, as it was written.
pub(crate) const LOGGED: &str = "logged.jsonl";

/// Where both are.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("seen")
}

/// The promises that together make every function use and log all that it can.
const COVERING: [&str; 16] = [
    "bad_input",
    "bodies_are_bytes",
    "calls",
    "drain",
    "durability",
    "gone",
    "groups",
    "health",
    "no_duplicate_effect",
    "nothing_is_lost",
    "registration",
    "rejecting_workers",
    "signatures",
    "sleeping_laptops",
    "tokens",
    "who_gets_what",
];

/// What the functions used or logged while the promises were tested: just before, if the environment says so, or those that are
/// covering, in a process that is started once for it.
pub(crate) fn noted(name: &str) -> Vec<Value> {
    static RUN: LazyLock<()> = LazyLock::new(|| {
        if relay::config::environment("SEEN_BEFORE").is_some() {
            return;
        }
        let _ = fs::remove_dir_all(directory());
        let tested = Command::new(std::env::current_exe().unwrap())
            .args(COVERING.map(|promise| format!("{promise}::")))
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&tested.stdout);
        assert!(tested.status.success(), "{output}");
    });
    LazyLock::force(&RUN);
    let text = fs::read_to_string(directory().join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Appends an entry of a kind that is not there yet.
#[derive(Clone)]
struct Book {
    name: &'static str,
    seen: Arc<Mutex<HashSet<String>>>,
}

impl Book {
    fn new(name: &'static str) -> Self {
        let seen = Arc::default();
        Self { name, seen }
    }

    /// Every entry is a kind of its own.
    fn note(&self, entry: &Value) {
        self.note_kind(entry.to_string(), entry);
    }

    fn note_kind(&self, kind: String, entry: &Value) {
        if !self.seen.lock().unwrap().insert(kind) {
            return;
        }
        fs::create_dir_all(directory()).unwrap();
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true);
        let mut file = file.open(directory().join(self.name)).unwrap();
        // One write, so that two test processes never mix their lines.
        file.write_all(format!("{entry}\n").as_bytes()).unwrap();
    }
}

/// Writes down each action, on each resource, by each function, and its place.
pub(crate) fn watcher() -> Observer {
    static SHARED: LazyLock<Book> = LazyLock::new(|| Book::new(USED));
    Arc::new(|function, target, body| {
        let place = place(function, target, body);
        SHARED.note(&json!({"function": function, "place": place}));
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let (service, action) = target.split_once('.').unwrap_or_default();
        for (action, resource) in permissions(service, action, &request) {
            let entry = json!({"function": function, "action": action, "resource": resource});
            SHARED.note(&entry);
        }
        let mut keys = BTreeSet::new();
        if service.starts_with("DynamoDB") && request["IndexName"].is_null() {
            partitions(&request, &mut keys);
        }
        for partition in keys {
            SHARED.note(&json!({"function": function, "partition": partition}));
        }
        let mut names = BTreeSet::new();
        if service.starts_with("DynamoDB") {
            attributes(&request, &mut names);
        }
        for attribute in names {
            SHARED.note(&json!({"function": function, "attribute": attribute}));
        }
    })
}

/// The permissions that a call needs (Service Authorization Reference).
fn permissions(service: &str, action: &str, request: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if service == "secretsmanager" {
        let resource = text(&request["SecretId"]);
        return vec![(format!("secretsmanager:{action}"), resource)];
    }
    if service == "AmazonSQS" {
        // A batch needs the permission of its one action.
        let action = action.trim_end_matches("Batch");
        let queue = text(&request["QueueUrl"]);
        let queue = queue.rsplit('/').next().unwrap_or_default().to_owned();
        return vec![(format!("sqs:{action}"), queue)];
    }
    if action == "TransactWriteItems" {
        // A transaction needs the permissions of what it holds.
        let items = request["TransactItems"].as_array().unwrap();
        let parts = items.iter().flat_map(|item| item.as_object().unwrap());
        return parts
            .map(|(kind, part)| (format!("dynamodb:{kind}Item"), text(&part["TableName"])))
            .collect();
    }
    let tables: Vec<String> = match request["RequestItems"].as_object() {
        Some(tables) => tables.keys().cloned().collect(),
        None => match request["IndexName"].as_str() {
            Some(index) => vec![format!("{}/index/{index}", text(&request["TableName"]))],
            None => vec![text(&request["TableName"])],
        },
    };
    (tables.into_iter())
        .map(|table| (format!("dynamodb:{action}"), table))
        .collect()
}

/// Collects the partition keys in a request, with a star in the place of what differs from workspace to workspace.
fn partitions(request: &Value, found: &mut BTreeSet<String>) {
    match request {
        Value::Object(members) => {
            for (name, value) in members {
                match value["S"]
                    .as_str()
                    .filter(|_| matches!(name.as_str(), "pk" | ":pk"))
                {
                    Some(key) => drop(found.insert(pattern(key))),
                    None => partitions(value, found),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|e| partitions(e, found)),
        _ => {}
    }
}

/// Collects the attributes that a request names: in items and keys, and in its expressions.
fn attributes(request: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(members) = request else {
        if let Value::Array(elements) = request {
            elements
                .iter()
                .for_each(|element| attributes(element, found));
        }
        return;
    };
    let placeholders = &request["ExpressionAttributeNames"];
    for (name, value) in members {
        match value {
            Value::Object(item) if matches!(name.as_str(), "Item" | "Key") => {
                found.extend(item.keys().cloned());
            }
            Value::String(expression) if name.ends_with("Expression") => {
                found.extend(names_in(expression).map(|name| {
                    let name = placeholders[name].as_str().unwrap_or(name);
                    name.to_owned()
                }));
            }
            value => attributes(value, found),
        }
    }
}

/// The names in an expression of DynamoDB: neither values nor its keywords, which are in capitals here, nor its functions.
fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '#' | ':');
    let words = expression.split(move |c: char| !is_part(c));
    words.filter(|word| {
        let is_keyword = word.chars().all(|c| c.is_ascii_uppercase());
        let is_function = expression.contains(&format!("{word}("));
        !(is_keyword || is_function || word.starts_with(':'))
    })
}

/// `WS#<workspace>#SEEN#<sha256>` as `WS#*#SEEN#*`.
fn pattern(key: &str) -> String {
    let parts: Vec<_> = (key.split('#').enumerate())
        .map(|(at, part)| if at % 2 == 0 { part } else { "*" })
        .collect();
    parts.join("#")
}

/// Writes down a line of each kind that the relay logs in this process.
pub(crate) fn note_lines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let book = Book::new(LOGGED);
        let lines = tracing_subscriber::fmt::layer()
            .event_format(logging::Json)
            .with_writer(move || Lines(book.clone()));
        // An agent may run in this process, too.
        let of_the_relay = logging::filter(&format!("relay=info,{}=info", metrics::TARGET));
        tracing_subscriber::registry()
            .with(lines.with_filter(of_the_relay))
            .init();
    });
}

struct Lines(Book);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let entry: Value = serde_json::from_slice(line)?;
        // Lines with the same members are of one kind, but for the outcome, which is a dimension.
        let members = entry.as_object().into_iter().flat_map(|line| line.keys());
        let members: Vec<_> = members.collect();
        let kind = format!("{members:?} {}", entry["outcome"]);
        self.0.note_kind(kind, &entry);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
