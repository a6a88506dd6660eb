//! A stored event: what was received, its state, and the attempts at handling it.

use protocol::clock::UnixMillis;

/// The headers of a delivery as they were received: names in lower case, all values of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of a header, if it is text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        (self.0.iter())
            .find(|(n, _)| n == name)
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// One line for each: neither name nor value can hold a line feed (RFC 9110, section 5.5).
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.0 {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let lines = bytes.split(|b| *b == b'\n');
        Self(
            lines
                .filter_map(|line| {
                    let colon = line.iter().position(|b| *b == b':')?;
                    let name = std::str::from_utf8(&line[..colon]).ok()?;
                    Some((name.to_owned(), line[colon + 1..].to_vec()))
                })
                .collect(),
        )
    }
}

/// An event as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) workspace: String,
    pub(crate) ordering_key: String,
    /// When it was received.
    pub(crate) received_at: UnixMillis,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    /// The id of the event of which this one is a copy that was edited here; none of what the relay delivered.
    pub(crate) edited_from: Option<String>,
}

/// `type.action`, or the type alone.
pub(crate) fn name(kind: &str, action: &str) -> String {
    if action.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{action}")
    }
}

/// The state of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It has to be handled, or handled again.
    Waiting,
    /// The handler accepted it.
    Done,
    /// The handler declined it, or there is none for it.
    Dropped,
    /// All attempts failed. It is kept for `replay`.
    Failed,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Done, Self::Dropped, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// One attempt of a handler at an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// When it was made.
    pub(crate) at: UnixMillis,
    /// How long it took.
    pub(crate) took_ms: i64,
    /// The handler.
    pub(crate) handler: String,
    /// `begun`, `done`, `dropped`, `retry`, `interrupted` or `failed`.
    pub(crate) outcome: String,
    /// A status, an exit code, or what went wrong.
    pub(crate) result: String,
    /// What the handler answered or printed, at most 64 KB.
    pub(crate) answer: Vec<u8>,
}

/// An event that has to be handled, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) sequence: i64,
    pub(crate) ordering_key: String,
    /// When it is due.
    pub(crate) due_at: UnixMillis,
    /// The handler of its last attempt.
    pub(crate) tried: Option<String>,
}
