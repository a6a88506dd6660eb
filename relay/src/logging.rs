//! Logs: JSON lines on Lambda, text on a terminal; never a body, secret, token or URL query.

use std::fmt;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
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
use crate::metrics::{self, Metadata, Metric};

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

/// Writes JSON lines for CloudWatch Logs, with the metrics of this stack in them.
pub fn json(stack: &str) {
    let format = Json {
        stack: stack.to_owned(),
    };
    let lines = tracing_subscriber::fmt::layer().event_format(format);
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

/// One JSON object a line: time, level, the event's fields, and the metrics among them.
#[derive(Debug)]
pub struct Json {
    /// The stack's name, the dimension of all metrics.
    pub stack: String,
}

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
            stack: &self.stack,
            now: millis(now),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// An event as a line.
struct JsonLine<'a> {
    event: &'a Event<'a>,
    stack: &'a str,
    now: UnixMillis,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &rfc3339(self.now))?;
        map.serialize_entry("level", self.event.metadata().level().as_str())?;
        let mut fields = Fields {
            map: &mut map,
            metrics: Vec::new(),
            written: Ok(()),
        };
        self.event.record(&mut fields);
        let metrics = fields.metrics;
        fields.written?;
        if !metrics.is_empty() {
            map.serialize_entry(metrics::STACK, self.stack)?;
            map.serialize_entry("_aws", &Metadata::of(&metrics, self.now))?;
        }
        map.end()
    }
}

/// Writes the fields in their order and collects the metrics among them. No event has a field with the name of one of the
/// line's own members.
struct Fields<'a, M: SerializeMap> {
    map: &'a mut M,
    metrics: Vec<&'static Metric>,
    written: Result<(), M::Error>,
}

impl<M: SerializeMap> Visit for Fields<'_, M> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Several values of a metric are a list of numbers, whose debug form is JSON.
        let values = metrics::metric(field.name())
            .and_then(|_| RawValue::from_string(format!("{value:?}")).ok());
        match values {
            Some(values) => self.put(field, &values),
            None => self.put(field, &format_args!("{value:?}")),
        }
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
        self.metrics.extend(metrics::metric(field.name()));
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
        let format = Json {
            stack: "edge-relay".to_owned(),
        };
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(format)
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

    /// The embedded metric format requires it.
    #[test]
    fn every_metric_and_dimension_is_a_member_of_the_line_itself() {
        let lines = lines(|| {
            tracing::info!(
                event = "evt_1",
                Attempts = 1,
                Outcome = "delivered",
                DeliveryLatency = ?[12, 34],
                "delivered"
            );
        });
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
        assert_eq!(directives.len(), 2);
        for directive in directives {
            let dimensions = directive["Dimensions"][0].as_array().unwrap().iter();
            let metrics = directive["Metrics"].as_array().unwrap().iter();
            for name in dimensions.chain(metrics.map(|metric| &metric["Name"])) {
                assert!(!line[name.as_str().unwrap()].is_null(), "{name}");
            }
        }
        assert_eq!(
            (&line["Attempts"], &line["DeliveryLatency"], &line["event"]),
            (&json!(1), &json!([12, 34]), &json!("evt_1"))
        );
    }
}
