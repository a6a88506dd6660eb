//! The errors of SQS, each with the name in `__type` and the code of the older query protocol.
//!
//! Source: the SQS API reference, "Common Errors" and the error lists of the actions.

/// An error of SQS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqsError {
    /// The shape's name in `__type`.
    pub name: &'static str,
    /// The code in `x-amzn-query-error`, and of a failed batch entry.
    pub code: &'static str,
    /// What was wrong.
    pub message: String,
    /// Whether the caller is at fault.
    pub sender_fault: bool,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $function:ident: $name:literal, $code:literal;)*) => {
        impl SqsError {
            $($(#[$doc])*
            pub(super) fn $function(message: impl Into<String>) -> Self {
                Self {
                    name: $name,
                    code: $code,
                    message: message.into(),
                    sender_fault: true,
                }
            })*
        }
    };
}

errors! {
    no_such_queue: "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue";
    queue_exists: "QueueNameExists", "QueueAlreadyExists";
    invalid_parameter: "InvalidParameterValue", "InvalidParameterValue";
    missing_parameter: "MissingParameter", "MissingParameter";
    invalid_attribute_name: "InvalidAttributeName", "InvalidAttributeName";
    invalid_attribute_value: "InvalidAttributeValue", "InvalidAttributeValue";
    invalid_contents: "InvalidMessageContents", "InvalidMessageContents";
    invalid_handle: "ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid";
    not_in_flight: "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight";
    empty_batch: "EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest";
    too_many_entries: "TooManyEntriesInBatchRequest", "AWS.SimpleQueueService.TooManyEntriesInBatchRequest";
    ids_not_distinct: "BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct";
    invalid_entry_id: "InvalidBatchEntryId", "AWS.SimpleQueueService.InvalidBatchEntryId";
    batch_too_long: "BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong";
    unsupported: "UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation";
    no_such_resource: "ResourceNotFoundException", "ResourceNotFoundException";
    serialization: "SerializationException", "SerializationException";
    unknown_operation: "UnknownOperationException", "UnknownOperationException";
}

impl SqsError {
    /// The storage failed: 500.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self {
            name: "InternalFailure",
            code: "InternalFailure",
            message: message.into(),
            sender_fault: false,
        }
    }
}
