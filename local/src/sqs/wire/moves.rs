//! `StartMessageMoveTask`, `ListMessageMoveTasks` and `CancelMessageMoveTask`.

use serde::Deserialize;
use serde_json::json;

use super::{required, write};
use crate::sqs::moves::Status;
use crate::sqs::{Sqs, SqsError, arn};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StartCall {
    #[serde(default)]
    source_arn: String,
    #[serde(default)]
    destination_arn: Option<String>,
    #[serde(default)]
    max_number_of_messages_per_second: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListMovesCall {
    #[serde(default)]
    source_arn: String,
    #[serde(default)]
    max_results: Option<usize>,
}

pub(super) fn list(sqs: &Sqs, call: &ListMovesCall) -> Result<Vec<u8>, SqsError> {
    let limit = call.max_results.unwrap_or(1);
    if !(1..=10).contains(&limit) {
        return Err(SqsError::invalid_parameter(
            "Value for parameter MaxResults is invalid. Reason: Must be between 1 and 10.",
        ));
    }
    let results: Vec<_> = (sqs
        .moves(required(&call.source_arn, "SourceArn")?, limit)?
        .iter())
    .map(|task| {
        let mut result = json!({
            "Status": task.status.as_str(),
            "SourceArn": arn(&task.from),
            "ApproximateNumberOfMessagesMoved": task.moved,
            "ApproximateNumberOfMessagesToMove": task.to_move,
            "StartedTimestamp": task.started_at,
        });
        if task.status == Status::Running {
            result["TaskHandle"] = json!(task.handle);
        }
        if let Some(to) = &task.to {
            result["DestinationArn"] = json!(arn(to));
        }
        if let Some(limit) = task.per_second {
            result["MaxNumberOfMessagesPerSecond"] = json!(limit);
        }
        result
    })
    .collect();
    write(&json!({ "Results": results }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CancelCall {
    #[serde(default)]
    task_handle: String,
}

pub(super) fn start(sqs: &Sqs, call: &StartCall) -> Result<Vec<u8>, SqsError> {
    let handle = sqs.start_move(
        required(&call.source_arn, "SourceArn")?,
        call.destination_arn.as_deref(),
        call.max_number_of_messages_per_second,
    )?;
    write(&json!({ "TaskHandle": handle }))
}

pub(super) fn cancel(sqs: &Sqs, call: &CancelCall) -> Result<Vec<u8>, SqsError> {
    let moved = sqs.cancel_move(required(&call.task_handle, "TaskHandle")?)?;
    write(&json!({ "ApproximateNumberOfMessagesMoved": moved }))
}
