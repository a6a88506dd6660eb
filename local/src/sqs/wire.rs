//! The protocol of SQS, awsJson1.0: `X-Amz-Target: AmazonSQS.<Action>`, a JSON object each way.
//!
//! Source: the Smithy documentation, "AWS JSON 1.0 protocol", and the SQS API reference.

mod batch;
mod moves;
mod queues;
mod receive;
mod send;
mod settle;

use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(crate) use send::{bytes_sent, sequence_number};

use super::{ACCOUNT, Sqs, SqsError};

pub(crate) const TARGET: &str = "AmazonSQS.";
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// Answers one call, over HTTP or in process.
pub(crate) async fn answer(sqs: &Sqs, target: Option<&str>, body: &[u8]) -> Response<Vec<u8>> {
    let action = target
        .and_then(|target| target.strip_prefix(TARGET))
        .unwrap_or_default();
    let mut response = match act(sqs, action, body).await {
        Ok(body) => Response::new(body),
        Err(error) => error_response(&error),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    if let Ok(id) = HeaderValue::try_from(uuid::Uuid::new_v4().to_string()) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    response
}

fn error_response(error: &SqsError) -> Response<Vec<u8>> {
    let (status, fault) = match error.sender_fault {
        true => (StatusCode::BAD_REQUEST, "Sender"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "Receiver"),
    };
    let body = json!({
        "__type": format!("com.amazonaws.sqs#{}", error.name),
        "message": error.message,
    });
    let mut response = Response::new(body.to_string().into_bytes());
    *response.status_mut() = status;
    if let Ok(code) = HeaderValue::try_from(format!("{};{fault}", error.code)) {
        let name = HeaderName::from_static("x-amzn-query-error");
        response.headers_mut().insert(name, code);
    }
    response
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, SqsError> {
    serde_json::from_slice(body)
        .map_err(|_| SqsError::serialization("The request is not a JSON object of this action."))
}

fn write(value: &impl Serialize) -> Result<Vec<u8>, SqsError> {
    serde_json::to_vec(value).map_err(|error| SqsError::internal(error.to_string()))
}

/// The value of a required parameter.
fn required<'a>(value: &'a str, name: &str) -> Result<&'a str, SqsError> {
    match value {
        "" => Err(SqsError::missing_parameter(format!(
            "The request must contain the parameter {name}."
        ))),
        value => Ok(value),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfQueue {
    #[serde(default)]
    queue_url: String,
}

/// The name in a queue's URL, whatever its host.
fn name(queue_url: &str) -> Result<&str, SqsError> {
    let wrong = || SqsError::no_such_queue("The specified queue does not exist.");
    let mut parts = required(queue_url, "QueueUrl")?.rsplit('/');
    let name = parts.next().ok_or_else(wrong)?;
    if parts.next() == Some(ACCOUNT) {
        Ok(name)
    } else {
        Err(wrong())
    }
}

async fn act(sqs: &Sqs, action: &str, body: &[u8]) -> Result<Vec<u8>, SqsError> {
    match action {
        "SendMessage" => send::send(sqs, parse(body)?).await,
        "SendMessageBatch" => send::send_batch(sqs, parse(body)?).await,
        "ReceiveMessage" => receive::receive(sqs, parse(body)?).await,
        "DeleteMessage" => settle::delete(sqs, parse(body)?).await,
        "DeleteMessageBatch" => settle::delete_batch(sqs, parse(body)?).await,
        "ChangeMessageVisibility" => settle::change(sqs, parse(body)?).await,
        "ChangeMessageVisibilityBatch" => settle::change_batch(sqs, parse(body)?).await,
        "CreateQueue" => queues::create(sqs, parse(body)?).await,
        "GetQueueUrl" => queues::url(sqs, &parse(body)?),
        "ListQueues" => queues::list(sqs, parse(body)?),
        "DeleteQueue" => {
            let call: OfQueue = parse(body)?;
            sqs.delete_queue(name(&call.queue_url)?).await?;
            write(&json!({}))
        }
        "PurgeQueue" => {
            let call: OfQueue = parse(body)?;
            sqs.purge(name(&call.queue_url)?).await?;
            write(&json!({}))
        }
        "GetQueueAttributes" => queues::get_attributes(sqs, &parse(body)?),
        "SetQueueAttributes" => queues::set_attributes(sqs, parse(body)?).await,
        "ListDeadLetterSourceQueues" => {
            let call: OfQueue = parse(body)?;
            write(&json!({ "queueUrls": sqs.source_urls(name(&call.queue_url)?)? }))
        }
        "StartMessageMoveTask" => moves::start(sqs, &parse(body)?),
        "ListMessageMoveTasks" => moves::list(sqs, &parse(body)?),
        "CancelMessageMoveTask" => moves::cancel(sqs, &parse(body)?),
        _ => Err(SqsError::unknown_operation(
            "The action or operation requested is not supported here.",
        )),
    }
}
