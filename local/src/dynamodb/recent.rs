//! What was read last, as it stands in answers. Each event reads the routes of its workspace, and each delivery its worker. They
//! seldom change; from here they come without SQLite and without JSON that is read and written again.
//!
//! Invariant: a call that changes an item removes it from here, and its partition, before it begins, and what was read while
//! any call changed the table does not come here. So what is here is as the last answered change has left it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::TABLE;

/// The longest item that is kept, in bytes. A worker's has some 1,500.
const LONGEST: usize = 8 * 1024;
/// How many bytes are kept. With more, it begins anew.
const ROOM: usize = 32 * 1024 * 1024;
/// How many keys a `BatchGetItem` may have.
const KEYS: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Text {
    #[serde(rename = "S")]
    text: String,
}

/// An item's key; in an item, the other attributes are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    pk: Text,
    sk: Text,
}

/// A `BatchGetItem` that asks for whole items of one table. Any other is DynamoDB's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct BatchGet {
    request_items: HashMap<String, Keys>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Keys {
    keys: Vec<Key>,
    #[serde(default, rename = "ConsistentRead")]
    _consistent: bool,
}

/// A `Query` for a whole partition. Any other is DynamoDB's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct WholePartition {
    table_name: String,
    #[serde(rename = "KeyConditionExpression")]
    condition: String,
    #[serde(rename = "ExpressionAttributeValues")]
    values: HashMap<String, Text>,
    #[serde(default, rename = "ConsistentRead")]
    _consistent: bool,
}

impl WholePartition {
    /// Its partition, if the request is for one.
    fn of(body: &[u8]) -> Option<String> {
        let Self {
            table_name,
            condition,
            mut values,
            ..
        } = serde_json::from_slice(body).ok()?;
        let is_whole = table_name == TABLE && condition == "pk = :pk" && values.len() == 1;
        is_whole.then(|| values.remove(":pk"))?.map(|pk| pk.text)
    }
}

/// The answer to a `BatchGetItem` that DynamoDB gave.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchGot<'a> {
    #[serde(borrow)]
    responses: HashMap<String, Vec<&'a RawValue>>,
    unprocessed_keys: HashMap<String, IgnoredAny>,
}

/// The keys of a call that changes the table, wherever the API has them.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Change {
    key: Option<Key>,
    item: Option<Key>,
    transact_items: Vec<HashMap<String, Change>>,
    request_items: HashMap<String, Vec<HashMap<String, Change>>>,
}

impl Change {
    fn remove_from(self, kept: &mut Kept) {
        for key in [self.key, self.item].into_iter().flatten() {
            kept.remove(&key);
        }
        let batches = self.request_items.into_values().flatten();
        for change in self.transact_items.into_iter().chain(batches) {
            change
                .into_values()
                .for_each(|change| change.remove_from(kept));
        }
    }
}

/// An item or the answer to a query, and how many changes were begun when it was read.
#[derive(Debug, Clone)]
struct Read {
    json: Arc<str>,
    begun: u64,
}

#[derive(Debug, Default)]
struct Kept {
    items: HashMap<Key, Read>,
    /// By partition.
    partitions: HashMap<String, Read>,
    bytes: usize,
    /// How many calls that change the table are under way.
    changing: usize,
    /// How many have ended.
    changed: u64,
}

impl Kept {
    fn remove(&mut self, key: &Key) {
        if let Some(item) = self.items.remove(key) {
            self.bytes -= item.json.len();
        }
        if let Some(partition) = self.partitions.remove(&key.pk.text) {
            self.bytes -= partition.json.len();
        }
    }

    /// How many changes had ended; none if one is under way.
    fn seen(&self) -> Option<u64> {
        (self.changing == 0).then_some(self.changed)
    }

    /// Makes room for what was read when so many changes had ended. Whether there is: nothing has changed since.
    fn makes_room(&mut self, bytes: usize, changed: Option<u64>) -> bool {
        if changed.is_none() || changed != self.seen() || bytes > ROOM {
            return false;
        }
        if self.bytes + bytes > ROOM {
            self.clear();
        }
        self.bytes += bytes;
        true
    }

    fn clear(&mut self) {
        self.items.clear();
        self.partitions.clear();
        self.bytes = 0;
    }
}

/// What was read last. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    kept: Arc<Mutex<Kept>>,
}

/// A change is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Changing<'a>(&'a Recent);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut kept = self.0.kept.lock();
        kept.changing -= 1;
        kept.changed += 1;
    }
}

/// A `BatchGetItem` under way: what was kept, and the keys of what was not.
#[derive(Debug)]
pub(super) struct Reading {
    found: Vec<Read>,
    missing: Vec<Key>,
    /// How many changes had ended; none if one was under way.
    changed: Option<u64>,
}

/// A `Query` for a whole partition under way.
#[derive(Debug)]
pub(super) struct Querying {
    partition: String,
    found: Option<Read>,
    /// How many changes had ended; none if one was under way.
    changed: Option<u64>,
}

impl Querying {
    /// The answer that was kept, and how many changes it may show.
    pub(super) fn answer(&self) -> Option<(Vec<u8>, u64)> {
        let found = self.found.as_ref()?;
        Some((found.json.as_bytes().to_vec(), found.begun))
    }

    /// Keeps DynamoDB's answer, which may show these changes.
    pub(super) fn keep(self, recent: &Recent, answer: &[u8], begun: u64) {
        let Ok(json) = std::str::from_utf8(answer) else {
            return;
        };
        let mut kept = recent.kept.lock();
        if kept.makes_room(answer.len(), self.changed) {
            let json = json.into();
            let read = Read { json, begun };
            if let Some(before) = kept.partitions.insert(self.partition, read) {
                kept.bytes -= before.json.len();
            }
        }
    }
}

impl Recent {
    /// Forgets what a call is about to change.
    pub(super) fn changing(&self, body: &[u8]) -> Changing<'_> {
        let change = serde_json::from_slice::<Change>(body);
        let mut kept = self.kept.lock();
        kept.changing += 1;
        match change {
            Ok(change) => change.remove_from(&mut kept),
            Err(_) => kept.clear(),
        }
        Changing(self)
    }

    /// Begins a `BatchGetItem`; none if only DynamoDB can answer it.
    pub(super) fn read(&self, body: &[u8]) -> Option<Reading> {
        let mut asked: BatchGet = serde_json::from_slice(body).ok()?;
        let keys = asked.request_items.remove(TABLE)?.keys;
        let different: HashSet<&Key> = keys.iter().collect();
        let is_valid = asked.request_items.is_empty()
            && (1..=KEYS).contains(&keys.len())
            && different.len() == keys.len();
        if !is_valid {
            return None;
        }
        let kept = self.kept.lock();
        let mut reading = Reading {
            found: Vec::with_capacity(keys.len()),
            missing: Vec::new(),
            changed: kept.seen(),
        };
        for key in keys {
            match kept.items.get(&key) {
                Some(item) => reading.found.push(item.clone()),
                None => reading.missing.push(key),
            }
        }
        Some(reading)
    }

    /// Keeps an item that was read, unless it may have changed since.
    fn keep(&self, item: &Read, changed: Option<u64>) {
        if item.json.len() > LONGEST {
            return;
        }
        let Ok(key) = serde_json::from_str::<Key>(&item.json) else {
            return;
        };
        let mut kept = self.kept.lock();
        if kept.makes_room(item.json.len(), changed)
            && let Some(before) = kept.items.insert(key, item.clone())
        {
            kept.bytes -= before.json.len();
        }
    }

    /// Begins a `Query`; none if only DynamoDB can answer it.
    pub(super) fn query(&self, body: &[u8]) -> Option<Querying> {
        let partition = WholePartition::of(body)?;
        let kept = self.kept.lock();
        Some(Querying {
            found: kept.partitions.get(&partition).cloned(),
            partition,
            changed: kept.seen(),
        })
    }
}

impl Reading {
    /// The `BatchGetItem` for what was not kept; none if all was.
    pub(super) fn rest(&self) -> Option<Vec<u8>> {
        let keys = &self.missing;
        let rest = || json!({"RequestItems": {TABLE: {"Keys": keys, "ConsistentRead": true}}});
        (!keys.is_empty()).then(|| rest().to_string().into_bytes())
    }

    /// Adds DynamoDB's answer for the rest, which may show these changes. None if it left keys unprocessed.
    pub(super) fn add(&mut self, recent: &Recent, answer: &[u8], begun: u64) -> Option<()> {
        let mut got: BatchGot<'_> = serde_json::from_slice(answer).ok()?;
        if !got.unprocessed_keys.is_empty() {
            return None;
        }
        for json in got.responses.remove(TABLE)? {
            let json = json.get().into();
            let item = Read { json, begun };
            recent.keep(&item, self.changed);
            self.found.push(item);
        }
        Some(())
    }

    /// The answer, and how many changes it may show.
    pub(super) fn answer(&self) -> (Vec<u8>, u64) {
        let bytes: usize = self.found.iter().map(|item| item.json.len() + 1).sum();
        let mut answer = Vec::with_capacity(bytes + 64);
        answer.extend_from_slice(format!(r#"{{"Responses":{{"{TABLE}":["#).as_bytes());
        for (at, item) in self.found.iter().enumerate() {
            if at > 0 {
                answer.push(b',');
            }
            answer.extend_from_slice(item.json.as_bytes());
        }
        answer.extend_from_slice(br#"]},"UnprocessedKeys":{}}"#);
        let begun = self.found.iter().map(|item| item.begun).max();
        (answer, begun.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::http::Response;
    use protocol::clock::Clock;
    use serde_json::Value;

    use super::super::{DynamoDb, TARGET, act, answered};
    use super::*;

    fn key(at: usize) -> Value {
        json!({"pk": {"S": format!("p{at}")}, "sk": {"S": "s"}})
    }

    fn item(at: usize, number: u64) -> Value {
        let mut item = key(at);
        item["n"] = json!({"N": number.to_string()});
        item
    }

    fn batch(keys: impl IntoIterator<Item = usize>) -> String {
        let keys: Vec<_> = keys.into_iter().map(key).collect();
        json!({"RequestItems": {TABLE: {"Keys": keys, "ConsistentRead": true}}}).to_string()
    }

    fn query(at: usize) -> String {
        let values = json!({":pk": {"S": format!("p{at}")}});
        json!({"TableName": TABLE, "KeyConditionExpression": "pk = :pk", "ConsistentRead": true,
            "ExpressionAttributeValues": values})
        .to_string()
    }

    fn parsed(answer: &Response<Vec<u8>>) -> Value {
        serde_json::from_slice(answer.body()).unwrap()
    }

    /// The items in an answer, in an order of ours.
    fn items(answer: &Response<Vec<u8>>) -> Vec<String> {
        let answer = parsed(answer);
        let items = answer["Responses"][TABLE].as_array().unwrap().iter();
        let mut items: Vec<_> = items.map(Value::to_string).collect();
        items.sort();
        items
    }

    /// The number in an item; 0 if there is none.
    fn number(item: &Value) -> u64 {
        item["n"]["N"].as_str().map_or(0, |n| n.parse().unwrap())
    }

    async fn call(database: &DynamoDb, action: &str, body: &str) -> Response<Vec<u8>> {
        let target = format!("{TARGET}{action}");
        database.answer(&target, body.as_bytes()).await
    }

    /// A change in one of the ways that the API has.
    fn some_change(random: &mut fastrand::Rng) -> (&'static str, Value) {
        let (at, n) = (random.usize(..4), random.u64(..1000));
        let (put, key) = (item(at, n), key(at));
        let set = json!({"TableName": TABLE, "Key": key, "UpdateExpression": "SET n = :n",
            "ExpressionAttributeValues": {":n": {"N": n.to_string()}}});
        let delete = json!({"TableName": TABLE, "Key": key});
        let put = json!({"TableName": TABLE, "Item": put});
        let write = |write: Value| json!({"RequestItems": {TABLE: [write]}});
        let transact = |action: &str, what: &Value| json!({"TransactItems": [{action: what}]});
        match random.u8(..8) {
            0 => ("PutItem", put),
            1 => ("UpdateItem", set),
            2 => ("DeleteItem", delete),
            3 => (
                "BatchWriteItem",
                write(json!({"PutRequest": {"Item": put["Item"]}})),
            ),
            4 => (
                "BatchWriteItem",
                write(json!({"DeleteRequest": {"Key": key}})),
            ),
            5 => ("TransactWriteItems", transact("Put", &put)),
            6 => ("TransactWriteItems", transact("Update", &set)),
            _ => ("TransactWriteItems", transact("Delete", &delete)),
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_what_is_stored_after_every_kind_of_change() {
        let database = DynamoDb::open(None, Clock::system()).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let (action, change) = some_change(&mut random);
            let changed = call(&database, action, &change.to_string()).await;
            assert_eq!(changed.status(), 200, "{action} {change}");
            let asked = batch((0..4).filter(|_| random.bool()).chain([4]));
            let stored = answered(act(
                &database.changes.database,
                "BatchGetItem",
                asked.as_bytes(),
            ));
            let first = call(&database, "BatchGetItem", &asked).await;
            let second = call(&database, "BatchGetItem", &asked).await;
            assert_eq!(items(&first), items(&stored), "{action} {change}");
            assert_eq!(items(&second), items(&stored), "{action} {change}");
            let asked = query(random.usize(..4));
            let stored = answered(act(&database.changes.database, "Query", asked.as_bytes()));
            for _ in 0..2 {
                let queried = call(&database, "Query", &asked).await;
                assert_eq!(parsed(&queried), parsed(&stored), "{action} {change}");
            }
        }
    }

    #[tokio::test]
    async fn an_item_and_a_partition_are_read_from_the_table_once() {
        let database = DynamoDb::open(None, Clock::system()).unwrap();
        let put = json!({"TableName": TABLE, "Item": item(0, 1)}).to_string();
        call(&database, "PutItem", &put).await;
        let first = call(&database, "BatchGetItem", &batch([0, 1])).await;
        let queried = call(&database, "Query", &query(0)).await;
        // Behind its back.
        let delete = json!({"TableName": TABLE, "Key": key(0)}).to_string();
        act(&database.changes.database, "DeleteItem", delete.as_bytes()).unwrap();
        let second = call(&database, "BatchGetItem", &batch([0, 1])).await;
        assert_eq!(items(&first).len(), 1);
        assert_eq!(items(&first), items(&second));
        let again = call(&database, "Query", &query(0)).await;
        assert_eq!(queried.body(), again.body());
        assert_eq!(parsed(&again)["Count"], 1);
    }

    #[tokio::test]
    async fn calls_that_are_wrong_or_ask_for_more_are_answered_by_the_table() {
        let database = DynamoDb::open(None, Clock::system()).unwrap();
        let put = json!({"TableName": TABLE, "Item": item(0, 1)}).to_string();
        call(&database, "PutItem", &put).await;
        call(&database, "BatchGetItem", &batch([0])).await;
        let table = |keys: Value| json!({"RequestItems": {TABLE: keys}});
        let many: Vec<_> = (0..=KEYS).map(key).collect();
        for asked in [
            json!({}),
            json!({"RequestItems": {"another": {"Keys": [key(0)]}}}),
            table(json!({"Keys": []})),
            table(json!({"Keys": [key(0), key(0)]})),
            table(json!({"Keys": many})),
            table(json!({"Keys": [{"pk": {"N": "1"}, "sk": {"S": "s"}}]})),
            table(json!({"Keys": [key(0)], "ProjectionExpression": "n"})),
        ] {
            let asked = asked.to_string();
            let stored = answered(act(
                &database.changes.database,
                "BatchGetItem",
                asked.as_bytes(),
            ));
            let answered = call(&database, "BatchGetItem", &asked).await;
            assert_eq!(answered.status(), stored.status(), "{asked}");
            assert_eq!(answered.body(), stored.body(), "{asked}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_read_sees_every_change_that_was_answered_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("table.db");
        let database = DynamoDb::open(Some(&file), Clock::system()).unwrap();
        let answered = Arc::new(AtomicU64::new(0));
        let changing = {
            let (database, answered) = (database.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                for n in 1..=200 {
                    let put = json!({"TableName": TABLE, "Item": item(0, n)}).to_string();
                    assert_eq!(call(&database, "PutItem", &put).await.status(), 200);
                    answered.store(n, Ordering::SeqCst);
                }
            })
        };
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (database, answered) = (database.clone(), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut last = 0;
                    while last < 200 {
                        let before = answered.load(Ordering::SeqCst);
                        let read = call(&database, "BatchGetItem", &batch([0])).await;
                        let n = number(&parsed(&read)["Responses"][TABLE][0]);
                        assert!(n >= before.max(last), "{n} after {before} and {last}");
                        let read = call(&database, "Query", &query(0)).await;
                        last = number(&parsed(&read)["Items"][0]);
                        assert!(last >= n, "{last} after {n}");
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        changing.await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
