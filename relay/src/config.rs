//! Settings: the only reader of the environment.
//!
//! Invariant: all settings are validated before anything starts. One error names every setting that is missing or
//! malformed, and holds no value, since a value may be a secret. [`verify_access`] then verifies that the resources are
//! accessible, before the first request.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use url::{Host, Url};

use crate::cause::chain;
use crate::egress::EgressPolicy;
use crate::linear::api::API_URL;
use crate::linear::signer::WebhookSecret;
use crate::origin::OriginSecret;
use crate::policy::GiveUp;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// All settings that are invalid, one a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The result of verifying the access to one resource.
pub type Access = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Combines the access to resources by the names of their settings.
///
/// # Errors
///
/// The names of the settings whose resources are not accessible, each with the reason.
pub fn verify_access(
    verified: impl IntoIterator<Item = (&'static str, Access)>,
) -> Result<(), ConfigError> {
    let wrong: Vec<_> = (verified.into_iter())
        .filter_map(|(name, access)| Some(format!("`{name}`: {}", chain(access.err()?.as_ref()))))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ConfigError(wrong))
    }
}

/// Reads settings by name and collects those that are invalid.
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

/// The value of a name in the process's environment. An empty value counts as absent.
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

    /// The value, if all settings were valid. A setting that several functions read is named once.
    ///
    /// # Errors
    ///
    /// The names of all invalid settings.
    pub fn finish<T>(mut self, value: T) -> Result<T, ConfigError> {
        let mut named = BTreeSet::new();
        self.wrong.retain(|wrong| named.insert(wrong.clone()));
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

    /// A list, separated by commas or spaces.
    fn words(&mut self, name: &str) -> Vec<String> {
        let text = (self.lookup)(name).unwrap_or_default();
        (text.split(|c: char| c == ',' || c.is_whitespace()))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
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

/// The settings of `ingest`.
#[derive(Debug, Clone)]
pub struct IngestConfig {
    /// How old a webhook may be. Linear may retry hours later with the timestamp of the first try.
    pub accepted_age: Duration,
    /// How long a parked event and its stored body are kept.
    pub mailbox_retention: Duration,
    /// How long a group's worker may be away until its keys go to another one; none: for ever.
    pub group_failover: Option<Duration>,
    /// What shows that a request came through CloudFront.
    pub origin_secret: OriginSecret,
}

/// The settings of `register`.
#[derive(Debug, Clone)]
pub struct RegisterConfig {
    /// Linear's GraphQL endpoint.
    pub linear_api_url: Url,
    /// How long a registration lives without renewal.
    pub lease: Duration,
    /// The workspaces that may register, by id or URL key; empty: those that have a webhook here.
    pub workspaces: Vec<String>,
    /// The number of registrations, and of challenges, of one user in a minute, and of failed ones from one address.
    pub registrations_per_minute: u64,
    /// How long after its last check a worker's user counts as a member; none: for ever.
    pub membership: Option<Duration>,
    /// How many workers a user may have.
    pub workers_per_user: u64,
    /// How many workers a workspace may have.
    pub workers_per_workspace: u64,
    /// What shows that a request came through CloudFront.
    pub origin_secret: OriginSecret,
    /// Which addresses workers may have.
    pub egress: EgressPolicy,
}

/// The settings of `deliver`.
#[derive(Debug, Clone)]
pub struct DeliverConfig {
    /// How long a delivery is retried.
    pub give_up: GiveUp,
    /// How many deliveries of a worker may be in backoff at once. The further ones are parked.
    pub deliveries_in_backoff: u64,
    /// How long after its last check a worker's user counts as a member; none: for ever.
    pub membership: Option<Duration>,
    /// How long a parked event is kept.
    pub mailbox_retention: Duration,
    /// The deadline over one attempt, from name resolution to the last byte read.
    pub timeout: Duration,
    /// Which addresses workers may have.
    pub egress: EgressPolicy,
}

/// The AWS endpoint.
#[derive(Debug, Clone)]
pub struct Aws {
    /// The region.
    pub region: String,
    /// The address of an emulator of all services; none: AWS itself.
    pub endpoint: Option<String>,
}

/// The resources that a function uses.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// The name of the one table.
    pub table: String,
    /// The URL of the FIFO queue; empty if the function does not use it.
    pub queue: String,
    /// The URL of the dead-letter queue; empty if the function does not use it.
    pub dead_letters: String,
    /// Secrets Manager's name or ARN of Linear's webhook secrets; empty if the function does not use them.
    pub webhook_secrets: String,
}

/// A function's deployment.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The AWS endpoint.
    pub aws: Aws,
    /// The resources that the function uses.
    pub resources: Resources,
}

/// Workers are on the public internet. If the AWS endpoint is an emulator on the loopback interface of this machine, they
/// may be there, too.
fn egress(settings: &Settings<'_>) -> EgressPolicy {
    let endpoint = (settings.lookup)("AWS_ENDPOINT_URL").and_then(|url| Url::parse(&url).ok());
    match endpoint.as_ref().and_then(Url::host) {
        Some(Host::Ipv4(v4)) if v4.is_loopback() => EgressPolicy::Loopback,
        Some(Host::Ipv6(v6)) if v6.is_loopback() => EgressPolicy::Loopback,
        Some(Host::Domain("localhost")) => EgressPolicy::Loopback,
        _ => EgressPolicy::Public,
    }
}

/// The settings of `health`.
#[derive(Debug, Clone)]
pub struct HealthConfig {
    /// The deadline over one probe.
    pub timeout: Duration,
    /// Which addresses workers may have.
    pub egress: EgressPolicy,
}

/// The longest time for which a mailbox can be made to keep an event.
pub(crate) const LONGEST_MAILBOX: Duration = Duration::from_secs(30 * DAY);

fn mailbox_retention(settings: &mut Settings<'_>) -> Duration {
    settings.seconds("MAILBOX_SECONDS", 7 * DAY, HOUR..=LONGEST_MAILBOX.as_secs())
}

fn membership(settings: &mut Settings<'_>) -> Option<Duration> {
    let membership = settings.seconds("MEMBERSHIP_SECONDS", 30 * DAY, 0..=365 * DAY);
    (!membership.is_zero()).then_some(membership)
}

fn delivery_timeout(settings: &mut Settings<'_>) -> Duration {
    settings.seconds("DELIVERY_TIMEOUT_SECONDS", 10, 1..=20)
}

/// `LINEAR_WEBHOOK_SECRETS`: on one machine, the text that Secrets Manager would store.
pub fn webhook_secrets(settings: &mut Settings<'_>) -> String {
    let name = "LINEAR_WEBHOOK_SECRETS";
    let text = settings.required(name);
    if let (false, Err(wrong)) = (text.is_empty(), WebhookSecret::parse_list(&text)) {
        settings.wrong.push(format!("`{name}` {wrong}"));
    }
    text
}

impl IngestConfig {
    /// `ACCEPTED_AGE_SECONDS`, `MAILBOX_SECONDS`, `GROUP_FAILOVER_SECONDS`, `ORIGIN_SECRET`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let failover = settings.seconds("GROUP_FAILOVER_SECONDS", 0, 0..=30 * DAY);
        Self {
            group_failover: (!failover.is_zero()).then_some(failover),
            accepted_age: settings.seconds("ACCEPTED_AGE_SECONDS", 8 * HOUR, 60..=7 * DAY),
            mailbox_retention: mailbox_retention(settings),
            origin_secret: origin_secret(settings),
        }
    }
}

fn origin_secret(settings: &Settings<'_>) -> OriginSecret {
    OriginSecret::new((settings.lookup)("ORIGIN_SECRET").as_deref())
}

impl RegisterConfig {
    /// `WORKSPACES`, `LINEAR_API_URL`, `LEASE_SECONDS`, `REGISTRATIONS_PER_MINUTE`, `MEMBERSHIP_SECONDS`,
    /// `WORKERS_PER_USER`, `WORKERS_PER_WORKSPACE`, `ORIGIN_SECRET`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let url = settings.url("LINEAR_API_URL", Some(API_URL));
        Self {
            linear_api_url: Url::parse(&url)
                .unwrap_or_else(|_| Url::parse(API_URL).expect("the default is an address")),
            workspaces: settings.words("WORKSPACES"),
            lease: settings.seconds("LEASE_SECONDS", 7 * DAY, HOUR..=30 * DAY),
            registrations_per_minute: settings.number("REGISTRATIONS_PER_MINUTE", 30, 1..=100_000),
            membership: membership(settings),
            workers_per_user: settings.number("WORKERS_PER_USER", 20, 1..=100_000),
            workers_per_workspace: settings.number("WORKERS_PER_WORKSPACE", 1000, 1..=100_000),
            origin_secret: origin_secret(settings),
            egress: egress(settings),
        }
    }
}

impl DeliverConfig {
    /// `GIVE_UP_SECONDS`, `GIVE_UP_4XX_SECONDS`, `DELIVERIES_IN_BACKOFF`, `MEMBERSHIP_SECONDS`, `DELIVERY_TIMEOUT_SECONDS`,
    /// `MAILBOX_SECONDS`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            give_up: GiveUp {
                after: settings.seconds("GIVE_UP_SECONDS", 6 * HOUR, 60..=3 * DAY),
                plain_4xx_after: settings.seconds("GIVE_UP_4XX_SECONDS", 300, 1..=3 * DAY),
            },
            deliveries_in_backoff: settings.number("DELIVERIES_IN_BACKOFF", 32, 1..=1000),
            membership: membership(settings),
            mailbox_retention: mailbox_retention(settings),
            timeout: delivery_timeout(settings),
            egress: egress(settings),
        }
    }
}

impl HealthConfig {
    /// `DELIVERY_TIMEOUT_SECONDS`
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            timeout: delivery_timeout(settings),
            egress: egress(settings),
        }
    }
}

impl Deployment {
    /// `AWS_REGION`, `AWS_ENDPOINT_URL` and `TABLE_NAME`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            aws: Aws {
                region: settings.required("AWS_REGION"),
                endpoint: (settings.lookup)("AWS_ENDPOINT_URL"),
            },
            resources: Resources {
                table: settings.required("TABLE_NAME"),
                ..Resources::default()
            },
        }
    }

    /// Also `QUEUE_URL`.
    #[must_use]
    pub fn with_queue(mut self, settings: &mut Settings<'_>) -> Self {
        self.resources.queue = settings.url("QUEUE_URL", None);
        self
    }

    /// Also `DLQ_URL`.
    #[must_use]
    pub fn with_dead_letters(mut self, settings: &mut Settings<'_>) -> Self {
        self.resources.dead_letters = settings.url("DLQ_URL", None);
        self
    }

    /// Also `LINEAR_WEBHOOK_SECRET_ID`.
    #[must_use]
    pub fn with_webhook_secrets(mut self, settings: &mut Settings<'_>) -> Self {
        self.resources.webhook_secrets = settings.required("LINEAR_WEBHOOK_SECRET_ID");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_names_all_invalid_settings_and_holds_no_value() {
        let lookup = |name: &str| match name {
            "LINEAR_WEBHOOK_SECRETS" => Some("[hush]".to_owned()),
            "LINEAR_API_URL" => Some("hush".to_owned()),
            "LEASE_SECONDS" => Some("-1".to_owned()),
            "DELIVERY_TIMEOUT_SECONDS" => Some("999".to_owned()),
            "QUEUE_URL" => Some("queue".to_owned()),
            _ => None,
        };
        let mut settings = Settings::new(&lookup);
        let _ = Deployment::read(&mut settings)
            .with_queue(&mut settings)
            .with_dead_letters(&mut settings)
            .with_webhook_secrets(&mut settings);
        let _ = webhook_secrets(&mut settings);
        let _ = IngestConfig::read(&mut settings);
        let _ = RegisterConfig::read(&mut settings);
        let _ = DeliverConfig::read(&mut settings);
        let _ = HealthConfig::read(&mut settings);
        let error = settings.finish(()).unwrap_err().to_string();
        let names = "TABLE_NAME QUEUE_URL DLQ_URL LINEAR_WEBHOOK_SECRET_ID \
            LINEAR_WEBHOOK_SECRETS LINEAR_API_URL LEASE_SECONDS DELIVERY_TIMEOUT_SECONDS";
        for name in names.split_whitespace() {
            let named = error.matches(&format!("`{name}`")).count();
            assert_eq!(named, 1, "{name} in {error}");
        }
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn a_setting_that_is_absent_has_its_default() {
        let mut settings = Settings::new(&|_| None);
        let ingest = IngestConfig::read(&mut settings);
        let register = RegisterConfig::read(&mut settings);
        settings.finish(()).unwrap();
        assert_eq!(ingest.accepted_age, Duration::from_secs(8 * HOUR));
        assert_eq!(register.linear_api_url.as_str(), API_URL);
        assert_eq!(register.egress, EgressPolicy::Public);
    }

    #[test]
    fn workers_may_be_on_loopback_only_if_the_aws_endpoint_is() {
        for (endpoint, expected) in [
            (None, EgressPolicy::Public),
            (Some("http://127.0.0.1:4566"), EgressPolicy::Loopback),
            (Some("http://localhost:4566"), EgressPolicy::Loopback),
            (Some("http://[::1]:4566"), EgressPolicy::Loopback),
            (
                Some("https://vpce-1.dynamodb.us-east-1.vpce.amazonaws.com"),
                EgressPolicy::Public,
            ),
            (Some("http://127.0.0.1.example.com"), EgressPolicy::Public),
            (Some("127.0.0.1"), EgressPolicy::Public),
        ] {
            let lookup = |name: &str| {
                let endpoint = endpoint.filter(|_| name == "AWS_ENDPOINT_URL");
                endpoint.map(str::to_owned)
            };
            let found = DeliverConfig::read(&mut Settings::new(&lookup)).egress;
            assert_eq!(found, expected, "{endpoint:?}");
        }
    }

    #[test]
    fn an_inaccessible_resource_is_named_by_its_setting() {
        let error = verify_access([
            ("TABLE_NAME", Ok(())),
            ("QUEUE_URL", Err("AccessDeniedException".into())),
        ])
        .unwrap_err()
        .to_string();
        assert_eq!(error, "`QUEUE_URL`: AccessDeniedException");
    }
}
