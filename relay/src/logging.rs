//! Logs: JSON lines on Lambda, text on a terminal; never a body, secret, token or URL query.

use std::fmt;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::rfc3339;
use crate::error::chain;
use crate::metrics;

/// These would write whole requests into the log, secrets and bodies with them, however talkative it may be.
const QUIET: &str = "aws_smithy_runtime=warn,aws_smithy_runtime_api=warn,aws_smithy_http_client=warn,\
    aws_runtime=warn,aws_sigv4=warn,aws_config=warn,aws_sdk_dynamodb=warn,aws_sdk_sqs=warn,\
    aws_sdk_secretsmanager=warn,hyper=warn,hyper_util=warn,h2=warn,reqwest=warn,lambda_runtime=warn,\
    lambda_http=warn,dynoxide=error";

/// What of the log is written: `filter`, as in `info` or `relay=debug,info`, and little of what would say too much.
pub fn filter(filter: &str) -> Targets {
    let quiet = || {
        QUIET
            .parse()
            .expect("the list is one of targets and levels")
    };
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

/// How a function ends: an error is said once, with its causes.
pub fn ended(done: Result<(), Box<dyn std::error::Error + Send + Sync>>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    tracing::error!(error = chain(error.as_ref()), "stopped");
    ExitCode::FAILURE
}

/// One JSON object a line: time, level, the event's fields, and the metrics among them.
#[derive(Debug)]
pub struct Json {
    /// The stack's name, the dimension that all metrics have.
    pub stack: String,
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
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
        let now = i64::try_from(now.as_millis()).unwrap_or_default();
        let mut fields = Fields(Map::new());
        fields.0.insert("timestamp".to_owned(), rfc3339(now).into());
        let level = event.metadata().level().as_str();
        fields.0.insert("level".to_owned(), level.into());
        event.record(&mut fields);
        metrics::embed(&mut fields.0, &self.stack, now);
        writeln!(writer, "{}", Value::Object(fields.0))
    }
}
