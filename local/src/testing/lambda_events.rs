//! What Lambda hands the functions, as JSON.

use serde_json::{Value, json};

use crate::samples::Webhook;

/// A request, as the HTTP API hands it over (payload format 2.0).
pub fn request(method: &str, path: &str, headers: Value, body: &str) -> Value {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "x",
            "domainName": "localhost",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": ""},
            "requestId": "x",
            "routeKey": "$default",
            "stage": "$default",
            "timeEpoch": 0,
        },
        "body": body,
        "isBase64Encoded": false,
    })
}

/// A webhook.
pub fn webhook(webhook: &Webhook) -> Value {
    let headers = json!({
        "content-type": "application/json; charset=utf-8",
        "linear-delivery": webhook.delivery,
        "linear-signature": webhook.signature,
    });
    let body = String::from_utf8_lossy(&webhook.body);
    request("POST", "/webhooks/linear", headers, &body)
}

/// A message's group, body and attributes.
pub type Message<'a> = (String, &'a str, Vec<(&'a str, &'static str, &'a str)>);

/// The entries of a `SendMessageBatch`.
///
/// # Errors
///
/// It is not JSON.
pub fn entries(request: &[u8]) -> serde_json::Result<Vec<Value>> {
    let request: Value = serde_json::from_slice(request)?;
    let entries = request["Entries"].as_array();
    Ok(entries.cloned().unwrap_or_default())
}

/// The message that an entry of a `SendMessageBatch` puts on the queue.
pub fn message(entry: &Value) -> Message<'_> {
    let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
    let attributes = attributes.filter_map(|(name, value)| match value["BinaryValue"].as_str() {
        Some(binary) => Some((name.as_str(), "binaryValue", binary)),
        None => Some((name.as_str(), "stringValue", value["StringValue"].as_str()?)),
    });
    let group = entry["MessageGroupId"].as_str().unwrap_or_default();
    let body = entry["MessageBody"].as_str().unwrap_or_default();
    (group.to_owned(), body, attributes.collect())
}

/// A batch from the queue.
pub fn batch<'a>(queue: &str, now: i64, messages: impl IntoIterator<Item = Message<'a>>) -> Value {
    let records: Vec<_> = (messages.into_iter().enumerate())
        .map(|(at, (group, body, attributes))| {
            let attributes: serde_json::Map<_, _> = (attributes.into_iter())
                .map(|(name, kind, value)| {
                    let of = if kind == "binaryValue" { "Binary" } else { "String" };
                    let value = json!({"dataType": of, kind: value, "stringListValues": [], "binaryListValues": []});
                    (name.to_owned(), value)
                })
                .collect();
            json!({
                "messageId": format!("00000000-0000-0000-0000-{at:012}"),
                "receiptHandle": format!("handle-{at}"),
                "body": body,
                "attributes": {
                    "MessageGroupId": group,
                    "SequenceNumber": (at + 1).to_string(),
                    "SentTimestamp": now.to_string(),
                    "ApproximateReceiveCount": "1",
                },
                "messageAttributes": attributes,
                "eventSource": "aws:sqs",
                "eventSourceARN": queue,
                "awsRegion": "us-east-1",
            })
        })
        .collect();
    json!({ "Records": records })
}
