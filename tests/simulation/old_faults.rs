//! Three faults that the relay once had. A history can be run with one of them, to show that the simulation finds it: the
//! relay is as it is, and what it asks of DynamoDB is changed on the way.

use serde_json::Value;

/// A fault of an earlier version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OldFault {
    /// Nobody says that it gives receipts, so that whatever answers 200 has the event.
    NoReceipts,
    /// A worker becomes live although events were parked since its mailbox was found empty.
    LiveUnconditionally,
    /// What is parked has no place in the order of the mailbox.
    ParkedWithoutOrder,
}

impl OldFault {
    /// The body of a call to AWS with this fault, if it differs.
    pub(crate) fn changed(self, target: &str, body: &[u8]) -> Option<Vec<u8>> {
        let action = target.rsplit('.').next()?;
        let mut request: Value = match (self, action) {
            (Self::LiveUnconditionally, "UpdateItem")
            | (Self::ParkedWithoutOrder, "TransactWriteItems") => {
                serde_json::from_slice(body).ok()?
            }
            _ => return None,
        };
        if self == Self::LiveUnconditionally {
            live_unconditionally(&mut request)?;
        } else {
            park_without_order(&mut request);
        }
        Some(request.to_string().into_bytes())
    }
}

fn live_unconditionally(request: &mut Value) -> Option<()> {
    let update = request["UpdateExpression"].as_str()?;
    if !update.starts_with("SET #state = :live") {
        return None;
    }
    request["ConditionExpression"] = "#state = :away".into();
    request["ExpressionAttributeValues"]
        .as_object_mut()?
        .remove(":parked");
    Some(())
}

fn park_without_order(request: &mut Value) {
    for write in request["TransactItems"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let Some(sort_key) = write["Put"]["Item"]["sk"]["S"].as_str() else {
            continue;
        };
        let (prefix, event) = sort_key.split_once('-').unwrap_or_default();
        let digits = prefix.trim_start_matches("MAIL#").len();
        // As an earlier version did: by the event's id, and not by the message's place in its group.
        write["Put"]["Item"]["sk"]["S"] = format!("MAIL#{:0digits$}-{event}", 0).into();
    }
}
