//! Settings: the only reader of the environment.
//!
//! Invariant: checked whole before anything starts; every missing or malformed name is in one error, and no
//! value is, since a value may be a secret. What a name stands for is checked by [`usable`] before the first
//! request is taken.

use std::fmt;
use std::time::Duration;

use url::{Host, Url};

use crate::Error;
use crate::linear::member::API_URL;
use crate::linear::signature::WebhookSecret;
use crate::reach::Reach;
use crate::schedule::GiveUp;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// All settings that are wrong, one a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Whether what the settings name can be used: those that cannot be are in one error, each with what was
/// answered.
pub fn usable(
    checked: impl IntoIterator<Item = (&'static str, Result<(), Error>)>,
) -> Result<(), ConfigError> {
    let wrong: Vec<_> = (checked.into_iter())
        .filter_map(|(name, check)| Some(format!("`{name}`: {}", check.err()?.chain())))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ConfigError(wrong))
    }
}

/// Reads settings by name and collects what is wrong with them.
pub struct Settings<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    wrong: Vec<String>,
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("wrong", &self.wrong)
            .finish_non_exhaustive()
    }
}

/// A name's value in the process's environment; an empty one counts as absent.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the only reader of the environment"
)]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl<'a> Settings<'a> {
    /// Reads through `lookup`.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            wrong: Vec::new(),
        }
    }

    /// The value, or the names of all that is wrong.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.wrong.is_empty() {
            Ok(value)
        } else {
            Err(ConfigError(self.wrong))
        }
    }

    fn required(&mut self, name: &str) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.wrong.push(format!("`{name}` is not set"));
            String::new()
        })
    }

    fn number(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let Some(text) = (self.lookup)(name) else {
            return default;
        };
        match text.trim().parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.wrong.push(format!(
                    "`{name}` has to be a whole number from {} to {}",
                    range.start(),
                    range.end()
                ));
                default
            }
        }
    }

    fn seconds(
        &mut self,
        name: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(self.number(name, default, range))
    }

    fn url(&mut self, name: &str, default: Option<&str>) -> String {
        let text = match ((self.lookup)(name), default) {
            (Some(text), _) => text,
            (None, Some(default)) => default.to_owned(),
            (None, None) => return self.required(name),
        };
        let is_http = Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_http {
            self.wrong
                .push(format!("`{name}` has to be an http or https address"));
        }
        text
    }
}

/// What `ingest` needs to know.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// How old a webhook may be: Linear may retry hours later with the first try's timestamp.
    pub accepted_age: Duration,
    /// How long a parked event and what it refers to is kept.
    pub mailbox_retention: Duration,
}

/// What `register` needs to know.
#[derive(Debug, Clone)]
pub struct RegisterConfig {
    /// Linear's GraphQL endpoint.
    pub linear_api_url: Url,
    /// How long a registration lives without being renewed.
    pub lease: Duration,
    /// Registrations a minute from one address, and with one token.
    pub registrations_per_minute: u64,
    /// Where workers may be.
    pub reach: Reach,
}

/// What `deliver` needs to know.
#[derive(Debug, Clone)]
pub struct DeliverConfig {
    /// How long a message may be tried.
    pub give_up: GiveUp,
    /// How long a parked event is kept.
    pub mailbox_retention: Duration,
    /// The deadline over one attempt, from resolving the name to the last byte read.
    pub timeout: Duration,
    /// Where workers may be.
    pub reach: Reach,
}

/// Where AWS is.
#[derive(Debug, Clone)]
pub struct Aws {
    /// The region.
    pub region: String,
    /// Where all services are, if not at their own addresses: an emulator's.
    pub endpoint: Option<String>,
}

/// Where everything is kept.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where AWS is.
    pub aws: Aws,
    /// The name of the stack: tells its metrics from another one's.
    pub stack: String,
    /// The name of the one table.
    pub table: String,
    /// The address of the FIFO queue.
    pub queue: String,
    /// The address of the dead-letter queue.
    pub dead_letters: String,
    /// Secrets Manager's name or ARN of Linear's webhook secrets.
    pub webhook_secrets: String,
}

/// What a function uses beside the table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uses {
    /// The FIFO queue.
    pub queue: bool,
    /// The dead-letter queue.
    pub dead_letters: bool,
    /// Linear's webhook secrets.
    pub webhook_secrets: bool,
}

/// Where workers may be: on the public internet, unless AWS itself is on this machine's loopback interface, as an
/// emulator is; then they may be there too.
fn reach(settings: &mut Settings<'_>) -> Reach {
    let endpoint = (settings.lookup)("AWS_ENDPOINT_URL").and_then(|url| Url::parse(&url).ok());
    match endpoint.as_ref().and_then(Url::host) {
        Some(Host::Ipv4(v4)) if v4.is_loopback() => Reach::Loopback,
        Some(Host::Ipv6(v6)) if v6.is_loopback() => Reach::Loopback,
        Some(Host::Domain("localhost")) => Reach::Loopback,
        _ => Reach::Public,
    }
}

/// What `health` needs to know.
#[derive(Debug, Clone)]
pub struct HealthConfig {
    /// The deadline over one ping.
    pub timeout: Duration,
    /// Where workers may be.
    pub reach: Reach,
}

fn mailbox_retention(settings: &mut Settings<'_>) -> Duration {
    settings.seconds("MAILBOX_SECONDS", 7 * DAY, HOUR..=30 * DAY)
}

fn delivery_timeout(settings: &mut Settings<'_>) -> Duration {
    settings.seconds("DELIVERY_TIMEOUT_SECONDS", 10, 1..=20)
}

/// `LINEAR_WEBHOOK_SECRETS`: on one machine, what Secrets Manager would keep, as one text.
pub fn webhook_secrets(settings: &mut Settings<'_>) -> String {
    let name = "LINEAR_WEBHOOK_SECRETS";
    let text = settings.required(name);
    if let (false, Err(wrong)) = (text.is_empty(), WebhookSecret::parse_list(&text)) {
        settings.wrong.push(format!("`{name}` {wrong}"));
    }
    text
}

impl IngestConfig {
    /// `ACCEPTED_AGE_SECONDS`, `MAILBOX_SECONDS`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            accepted_age: settings.seconds("ACCEPTED_AGE_SECONDS", 8 * HOUR, 60..=7 * DAY),
            mailbox_retention: mailbox_retention(settings),
        }
    }
}

impl RegisterConfig {
    /// `LINEAR_API_URL`, `LEASE_SECONDS`, `REGISTRATIONS_PER_MINUTE`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let url = settings.url("LINEAR_API_URL", Some(API_URL));
        Self {
            linear_api_url: Url::parse(&url)
                .unwrap_or_else(|_| Url::parse(API_URL).expect("the default is an address")),
            lease: settings.seconds("LEASE_SECONDS", 7 * DAY, HOUR..=30 * DAY),
            registrations_per_minute: settings.number("REGISTRATIONS_PER_MINUTE", 30, 1..=100_000),
            reach: reach(settings),
        }
    }
}

impl DeliverConfig {
    /// `GIVE_UP_SECONDS`, `GIVE_UP_4XX_SECONDS`, `DELIVERY_TIMEOUT_SECONDS`, `MAILBOX_SECONDS`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            give_up: GiveUp {
                after: settings.seconds("GIVE_UP_SECONDS", 6 * HOUR, 60..=3 * DAY),
                plain_4xx_after: settings.seconds("GIVE_UP_4XX_SECONDS", 300, 1..=3 * DAY),
            },
            mailbox_retention: mailbox_retention(settings),
            timeout: delivery_timeout(settings),
            reach: reach(settings),
        }
    }
}

impl HealthConfig {
    /// `DELIVERY_TIMEOUT_SECONDS`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            timeout: delivery_timeout(settings),
            reach: reach(settings),
        }
    }
}

impl Places {
    /// `AWS_REGION` and `AWS_ENDPOINT_URL`, `STACK_NAME`, `TABLE_NAME`, and of `QUEUE_URL`, `DLQ_URL` and `LINEAR_WEBHOOK_SECRET_ID` those that the
    /// function uses.
    pub fn read(settings: &mut Settings<'_>, uses: Uses) -> Self {
        let mut queue_url = |name, used| match used {
            true => settings.url(name, None),
            false => String::new(),
        };
        let (queue, dead_letters) = (
            queue_url("QUEUE_URL", uses.queue),
            queue_url("DLQ_URL", uses.dead_letters),
        );
        Self {
            aws: Aws {
                region: settings.required("AWS_REGION"),
                endpoint: (settings.lookup)("AWS_ENDPOINT_URL"),
            },
            queue,
            dead_letters,
            stack: settings.required("STACK_NAME"),
            table: settings.required("TABLE_NAME"),
            webhook_secrets: match uses.webhook_secrets {
                true => settings.required("LINEAR_WEBHOOK_SECRET_ID"),
                false => String::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_name_is_in_the_one_error_and_no_value_is() {
        let lookup = |name: &str| match name {
            "LINEAR_WEBHOOK_SECRETS" => Some("[hush]".to_owned()),
            "LINEAR_API_URL" => Some("hush".to_owned()),
            "LEASE_SECONDS" => Some("-1".to_owned()),
            "DELIVERY_TIMEOUT_SECONDS" => Some("999".to_owned()),
            "QUEUE_URL" => Some("queue".to_owned()),
            _ => None,
        };
        let mut settings = Settings::new(&lookup);
        let uses = Uses {
            queue: true,
            dead_letters: true,
            webhook_secrets: true,
        };
        let _ = Places::read(&mut settings, uses);
        let _ = webhook_secrets(&mut settings);
        let _ = IngestConfig::read(&mut settings);
        let _ = RegisterConfig::read(&mut settings);
        let _ = DeliverConfig::read(&mut settings);
        let error = settings.finish(()).unwrap_err().to_string();
        for name in [
            "STACK_NAME",
            "TABLE_NAME",
            "QUEUE_URL",
            "DLQ_URL",
            "LINEAR_WEBHOOK_SECRET_ID",
            "LINEAR_WEBHOOK_SECRETS",
            "LINEAR_API_URL",
            "LEASE_SECONDS",
            "DELIVERY_TIMEOUT_SECONDS",
        ] {
            assert!(error.contains(&format!("`{name}`")), "{name} in {error}");
        }
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let mut settings = Settings::new(&|_| None);
        let ingest = IngestConfig::read(&mut settings);
        let register = RegisterConfig::read(&mut settings);
        settings.finish(()).unwrap();
        assert_eq!(ingest.accepted_age, Duration::from_secs(8 * HOUR));
        assert_eq!(register.linear_api_url.as_str(), API_URL);
        assert_eq!(register.reach, Reach::Public);
    }

    #[test]
    fn workers_may_be_on_loopback_only_where_aws_itself_is() {
        for (endpoint, expected) in [
            (None, Reach::Public),
            (Some("http://127.0.0.1:4566"), Reach::Loopback),
            (Some("http://localhost:4566"), Reach::Loopback),
            (Some("http://[::1]:4566"), Reach::Loopback),
            (
                Some("https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com"),
                Reach::Public,
            ),
            (Some("http://127.0.0.1.example.com"), Reach::Public),
            (Some("127.0.0.1"), Reach::Public),
        ] {
            let lookup = |name: &str| {
                let endpoint = endpoint.filter(|_| name == "AWS_ENDPOINT_URL");
                endpoint.map(str::to_owned)
            };
            let found = DeliverConfig::read(&mut Settings::new(&lookup)).reach;
            assert_eq!(found, expected, "{endpoint:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_was_answered() {
        let refused = |what| Err(Error::storage(what, "AccessDeniedException"));
        let error = usable([
            ("TABLE_NAME", Ok(())),
            ("QUEUE_URL", refused("read the queue's attributes")),
        ])
        .unwrap_err()
        .to_string();
        assert!(error.starts_with("`QUEUE_URL`: could not"), "{error}");
        assert!(error.contains("AccessDeniedException"), "{error}");
        assert!(!error.contains("TABLE_NAME"), "{error}");
    }
}
