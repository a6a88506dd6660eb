//! What the functions used and emitted while the tests ran, written down for `deployed/`: which action on which
//! resource, which metric with which dimensions.
//!
//! One JSON object a line, in `USED` and `EMITTED`, each once.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};

use local::testing::calls::Observer;
use relay::logging;
use serde_json::{Value, json};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// What was used, by function: an IAM action, and what it was used on.
pub(crate) const USED: &str = "used.jsonl";
/// What was emitted: a metric, and the dimensions that it had.
pub(crate) const EMITTED: &str = "emitted.jsonl";

/// Where both are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("seen")
}

/// Appends a line that is not there yet.
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

    fn note(&self, entry: &Value) {
        let line = entry.to_string();
        if !self.seen.lock().unwrap().insert(line.clone()) {
            return;
        }
        fs::create_dir_all(directory()).unwrap();
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true);
        let mut file = file.open(directory().join(self.name)).unwrap();
        // One write, so that two test processes never mix their lines.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Writes down each action, on each resource, by each function.
pub(crate) fn watcher() -> Observer {
    static SHARED: std::sync::LazyLock<Book> = std::sync::LazyLock::new(|| Book::new(USED));
    Arc::new(|function, target, body| {
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
            .map(|(kind, part)| {
                let item = if kind == "ConditionCheck" { "" } else { "Item" };
                (format!("dynamodb:{kind}{item}"), text(&part["TableName"]))
            })
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

/// Writes down each metric in the log of this process.
pub(crate) fn note_metrics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = logging::Json {
            stack: "tests".to_owned(),
        };
        let book = Book::new(EMITTED);
        let lines = tracing_subscriber::fmt::layer()
            .event_format(log)
            .with_writer(move || Lines(book.clone()));
        tracing_subscriber::registry()
            .with(lines.with_filter(logging::filter("info")))
            .init();
    });
}

struct Lines(Book);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let entry: Value = serde_json::from_slice(line)?;
        let directives = entry["_aws"]["CloudWatchMetrics"].as_array();
        for directive in directives.into_iter().flatten() {
            let names = directive["Dimensions"][0].as_array().into_iter().flatten();
            let names = names.map(|name| name.as_str().unwrap_or_default());
            let dimensions: serde_json::Map<_, _> = names
                .map(|name| (name.to_owned(), entry[name].clone()))
                .collect();
            for metric in directive["Metrics"].as_array().into_iter().flatten() {
                let name = metric["Name"].as_str().unwrap_or_default();
                // The format wants every name to be a member of the line, and a metric to be a number or up to 100.
                let is_metric = match &entry[name] {
                    Value::Array(all) => all.len() <= 100 && all.iter().all(Value::is_number),
                    value => value.is_number(),
                };
                let is_whole = is_metric && dimensions.values().all(Value::is_string);
                self.0.note(&json!({
                    "namespace": directive["Namespace"],
                    "metric": name,
                    "dimensions": dimensions,
                    "is_whole": is_whole,
                }));
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
