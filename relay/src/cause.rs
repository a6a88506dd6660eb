//! The causes of errors.

/// The cause of an error, of any type.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
