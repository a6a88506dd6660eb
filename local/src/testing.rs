//! What tests and benches alone use: the calls to the embedded servers, prepared responses, faults of the stand-in for
//! Linear, a look into a queue, and the functions without anything that calls them.

pub mod bare;
pub mod calls;
pub mod prepared;

use crate::linear_api::LinearApi;
use crate::sqs::{Message, Sqs, SqsError};

impl LinearApi {
    /// Answers every call with this status and body from now on, or normally again.
    pub fn fail(&self, fault: Option<(u16, &str)>) {
        self.shared().fault = fault.map(|(status, body)| (status, body.to_owned()));
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.shared().calls
    }
}

impl Sqs {
    /// All messages of a queue, the oldest first.
    ///
    /// # Errors
    ///
    /// There is no such queue.
    pub fn peek(&self, name: &str) -> Result<Vec<Message>, SqsError> {
        let mut state = self.state();
        let messages = state.queue(name)?.messages();
        Ok(messages.map(|(_, message)| message.clone()).collect())
    }
}
