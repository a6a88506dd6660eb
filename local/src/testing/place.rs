//! The place of the code that makes a call to AWS, by what the call does.

use std::collections::BTreeSet;

use serde_json::Value;

/// What tells two calls with the same action apart.
const EXPRESSIONS: [&str; 5] = [
    "KeyConditionExpression",
    "UpdateExpression",
    "ConditionExpression",
    "ProjectionExpression",
    "IndexName",
];

/// Names a place: the function, the action, and what it does to what kind of items, or the kind of message that it sends.
pub fn place(function: &str, target: &str, body: &[u8]) -> String {
    let action = target.rsplit('.').next().unwrap_or(target);
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    // Of a batch and of a transaction what differs, however many there are. What a transaction writes depends on what it is asked,
    // and under which condition depends on the code.
    let parts: BTreeSet<String> = match action {
        "TransactWriteItems" => (request["TransactItems"].as_array().into_iter().flatten())
            .filter_map(Value::as_object)
            .flatten()
            .map(|(verb, part)| spaced(verb, &what(part, &["ConditionExpression"])))
            .collect(),
        "BatchGetItem" | "BatchWriteItem" => entries(&request),
        "SendMessage" => message(&request).into_iter().collect(),
        _ => BTreeSet::from([what(&request, &EXPRESSIONS)]),
    };
    let parts: Vec<_> = parts.into_iter().collect();
    spaced(&format!("{function}: {action}"), &parts.join(" + "))
}

/// Both with a space between them, if there are two.
fn spaced(one: &str, other: &str) -> String {
    let space = if one.is_empty() || other.is_empty() {
        ""
    } else {
        " "
    };
    format!("{one}{space}{other}")
}

/// What a request, or a part of a transaction, does to which kind of item, by these of its expressions.
fn what(request: &Value, expressions: &[&str]) -> String {
    let expressions: Vec<_> = (expressions.iter())
        .filter_map(|name| request[name].as_str().map(as_read))
        .collect();
    let prefix = &request["ExpressionAttributeValues"][":prefix"]["S"];
    let kind = kind(&request["Key"])
        .or_else(|| kind(&request["Item"]))
        .or_else(|| prefix.as_str().and_then(word));
    let kind = kind.map(|kind| format!("of {kind}"));
    spaced(&expressions.join(", "), &kind.unwrap_or_default())
}

/// An expression that requires a worker to be as it was read, in the form that it has if it never had anything, and is not paused.
fn as_read(expression: &str) -> String {
    let mut form = expression.replace("attribute_exists(paused)", "attribute_not_exists(paused)");
    for counter in ["parked", "withheld", "revision"] {
        let none = format!("attribute_not_exists({counter})");
        form = form.replace(&format!("{counter} = :{counter}"), &none);
    }
    form
}

/// What a batch does to which kind of items. What a removal finds is of several.
fn entries(request: &Value) -> BTreeSet<String> {
    let tables = request["RequestItems"].as_object().into_iter();
    let tables = tables.flat_map(serde_json::Map::values);
    let entries = tables.flat_map(|table| table.as_array().or_else(|| table["Keys"].as_array()));
    let (mut verbs, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries.flatten() {
        let (put, delete) = (&entry["PutRequest"]["Item"], &entry["DeleteRequest"]["Key"]);
        let (verb, item) = if !put.is_null() {
            ("Put", put)
        } else if !delete.is_null() {
            ("Delete", delete)
        } else {
            ("Get", entry)
        };
        verbs.insert(verb);
        kinds.insert(kind(item));
    }
    let kind = match kinds.into_iter().collect::<Vec<_>>()[..] {
        [Some(kind)] => kind,
        _ => "several",
    };
    (verbs.into_iter())
        .map(|verb| format!("{verb} of {kind}"))
        .collect()
}

/// The kind of an item: the word with which its sort key begins, or the last one of its partition key.
fn kind(item: &Value) -> Option<&str> {
    let sort = item["sk"]["S"].as_str().and_then(word);
    sort.or_else(|| {
        let partition = item["pk"]["S"].as_str()?;
        partition.split('#').step_by(2).filter_map(word).last()
    })
}

/// The word in capitals with which a key begins.
fn word(key: &str) -> Option<&str> {
    let word = key.split(['#', '_']).next()?;
    (!word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase())).then_some(word)
}

/// What a message is that is no delivery: the one of its attributes that says so.
fn message(request: &Value) -> Option<String> {
    let kinds = ["drain", "heartbeat", "reason", "revoke"];
    let kind = kinds
        .into_iter()
        .find(|kind| !request["MessageAttributes"][kind].is_null());
    kind.map(|kind| format!("with {kind}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_is_what_a_call_does_and_not_to_which_item() {
        let place = |action: &str, request: Value| {
            super::place(
                "f",
                &format!("Service.{action}"),
                request.to_string().as_bytes(),
            )
        };
        let worker =
            |id: &str| json!({"pk": {"S": format!("WS#w#WORKER#{id}")}, "sk": {"S": "WORKER"}});
        let mail =
            |id: u64| json!({"pk": {"S": "WS#w#WORKER#a"}, "sk": {"S": format!("MAIL#{id}")}});
        let update = |id: &str| json!({"Key": worker(id), "UpdateExpression": "SET a = :a", "ConditionExpression": "b"});
        assert_eq!(
            place("UpdateItem", update("one")),
            "f: UpdateItem SET a = :a, b of WORKER"
        );
        assert_eq!(
            place("UpdateItem", update("one")),
            place("UpdateItem", update("two"))
        );
        let marked = |parked: &str| {
            let condition = format!("#state = :away AND {parked}");
            place(
                "UpdateItem",
                json!({"Key": worker("one"), "ConditionExpression": condition}),
            )
        };
        assert_eq!(
            marked("parked = :parked"),
            marked("attribute_not_exists(parked)")
        );
        let put = |id| json!({"Put": {"Item": mail(id)}});
        let parts = |all: Vec<Value>| place("TransactWriteItems", json!({"TransactItems": all}));
        let two = parts(vec![put(1), json!({"Update": update("one")})]);
        assert_eq!(
            two,
            "f: TransactWriteItems Put of MAIL + Update b of WORKER"
        );
        assert_eq!(
            parts(vec![put(1), put(2), json!({"Update": update("one")})]),
            two
        );
        let batch =
            |requests: Value| place("BatchWriteItem", json!({"RequestItems": {"t": requests}}));
        assert_eq!(
            batch(
                json!([{"DeleteRequest": {"Key": mail(1)}}, {"DeleteRequest": {"Key": mail(2)}}])
            ),
            "f: BatchWriteItem Delete of MAIL"
        );
        let get = json!({"RequestItems": {"t": {"Keys": [{"pk": {"S": "BODY#abc"}, "sk": {"S": "001"}}]}}});
        assert_eq!(place("BatchGetItem", get), "f: BatchGetItem Get of BODY");
        let query = json!({
            "KeyConditionExpression": "begins_with(sk, :prefix)",
            "ExpressionAttributeValues": {":prefix": {"S": "HELD#"}},
        });
        assert_eq!(
            place("Query", query),
            "f: Query begins_with(sk, :prefix) of HELD"
        );
        let send = |attribute: &str| json!({"MessageAttributes": {"worker": {}, attribute: {}}});
        assert_eq!(
            place("SendMessage", send("drain")),
            "f: SendMessage with drain"
        );
        assert_eq!(place("DeleteMessage", json!({})), "f: DeleteMessage");
    }
}
