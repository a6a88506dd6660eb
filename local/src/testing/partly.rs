//! A batch of which AWS does a part and says so: an entry of SQS has failed, or a write or read of DynamoDB is unprocessed.

use serde_json::{Value, json};

/// A batch without its last entry, and what the answer says of that.
#[derive(Debug)]
pub struct Part {
    /// None if nothing is left of it.
    pub body: Option<Vec<u8>>,
    missing: Value,
    /// What answers a batch of nothing.
    empty: Value,
}

impl Part {
    /// The part of a batch; none if the call is no batch.
    pub fn of(target: &str, body: &[u8]) -> Option<Self> {
        let mut request: Value = serde_json::from_slice(body).ok()?;
        let action = target.rsplit('.').next()?;
        let entries = match action {
            "BatchWriteItem" => table(&mut request)?.as_array_mut()?,
            "BatchGetItem" => table(&mut request)?["Keys"].as_array_mut()?,
            _ => request["Entries"].as_array_mut()?,
        };
        let last = entries.pop()?;
        let is_empty = entries.is_empty();
        let name = (request["RequestItems"].as_object())
            .and_then(|tables| tables.keys().next().map(String::as_str))
            .unwrap_or_default();
        let missing = match action {
            "BatchWriteItem" => json!({"UnprocessedItems": {name: [last]}}),
            "BatchGetItem" => {
                json!({"UnprocessedKeys": {name: {"Keys": [last], "ConsistentRead": true}}})
            }
            _ => json!({"Failed": [{
                "Id": last["Id"], "Code": "InternalError", "SenderFault": false, "Message": "interfered",
            }]}),
        };
        Some(Self {
            body: (!is_empty).then(|| request.to_string().into_bytes()),
            missing,
            empty: json!({"Successful": [], "Responses": {}}),
        })
    }

    /// The answer to the batch, from the one to its part.
    pub fn answer(self, answer: Option<&[u8]>) -> Vec<u8> {
        let answer = answer.and_then(|answer| serde_json::from_slice(answer).ok());
        let mut answer: Value = answer.unwrap_or(self.empty);
        if let (Some(answer), Value::Object(missing)) = (answer.as_object_mut(), self.missing) {
            answer.extend(missing);
        }
        answer.to_string().into_bytes()
    }
}

/// What a batch asks of its one table.
fn table(request: &mut Value) -> Option<&mut Value> {
    request["RequestItems"].as_object_mut()?.values_mut().next()
}
