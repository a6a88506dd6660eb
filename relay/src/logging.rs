//! Logs: JSON lines on Lambda, from which CloudWatch takes the [metrics](crate::metrics), and text on a terminal; never a body,
//! secret, token or URL query.

use std::fmt;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use protocol::clock::{UnixMillis, millis, rfc3339};

use crate::cause::chain;

/// At lower levels these crates log whole requests, with secrets and bodies.
const QUIET: &str = "aws_smithy_runtime=warn,aws_smithy_runtime_api=warn,aws_smithy_http_client=warn,\
    aws_runtime=warn,aws_sigv4=warn,aws_config=warn,aws_sdk_dynamodb=warn,aws_sdk_sqs=warn,\
    aws_sdk_secretsmanager=warn,hyper=warn,hyper_util=warn,h2=warn,reqwest=warn,lambda_runtime=warn,\
    lambda_http=warn,dynoxide=error";

/// The targets that are logged: `filter`, as in `info` or `relay=debug,info`, but never the requests of other crates.
pub fn filter(filter: &str) -> Targets {
    let quiet = || QUIET.parse().expect("the list holds targets and levels");
    format!("{filter},{QUIET}")
        .parse()
        .unwrap_or_else(|_| quiet())
}

/// Writes JSON lines for CloudWatch Logs.
pub fn json() {
    let lines = tracing_subscriber::fmt::layer().event_format(Json);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter("info")))
        .init();
}

/// The exit code of a function. An error is logged once, with its causes.
pub fn exit_code(done: Result<(), Box<dyn std::error::Error + Send + Sync>>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    tracing::error!(error = chain(error.as_ref()), "the function stopped");
    ExitCode::FAILURE
}

/// One JSON object a line: time, level, and the event's fields.
#[derive(Debug)]
pub struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let line = JsonLine {
            event,
            now: millis(now),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// An event as a line.
struct JsonLine<'a> {
    event: &'a Event<'a>,
    now: UnixMillis,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &rfc3339(self.now))?;
        map.serialize_entry("level", self.event.metadata().level().as_str())?;
        let mut fields = Fields {
            map: &mut map,
            written: Ok(()),
        };
        self.event.record(&mut fields);
        fields.written?;
        map.end()
    }
}

/// Writes the fields in their order. No event has a field with the name of one of the line's own members.
struct Fields<'a, M: SerializeMap> {
    map: &'a mut M,
    written: Result<(), M::Error>,
}

impl<M: SerializeMap> Visit for Fields<'_, M> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, &value);
    }
}

impl<M: SerializeMap> Fields<'_, M> {
    fn put(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        if self.written.is_ok() {
            self.written = self.map.serialize_entry(field.name(), value);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes, without their time.
    pub(crate) fn lines(log: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Json)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let written = written.0.lock().unwrap();
        let lines = std::str::from_utf8(&written).unwrap().lines();
        lines
            .map(|line| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
                assert!(timestamp.as_str().unwrap().ends_with('Z'));
                line
            })
            .collect()
    }

    #[test]
    fn a_line_has_the_fields_of_its_event_and_nothing_where_a_value_is_none() {
        let lines = lines(|| {
            tracing::warn!(
                worker = "wrk_\"1\"",
                event = %"evt\n1",
                attempt = 3_u64,
                age = -1,
                waiting = true,
                reason = None::<&str>,
                "two\nlines"
            );
        });
        let expected = json!({
            "level": "WARN", "message": "two\nlines", "worker": "wrk_\"1\"", "event": "evt\n1", "attempt": 3,
            "age": -1, "waiting": true,
        });
        assert_eq!(lines, [expected]);
    }
}
