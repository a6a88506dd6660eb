//! Settings from `EDGE_AGENT_*` variables.

use super::keys;
use super::settings::Settings;
use crate::failure::Failure;

/// The prefix of a setting's variable: `keep-size` is `EDGE_AGENT_KEEP_SIZE`.
const PREFIX: &str = "EDGE_AGENT_";
/// The variable with Linear's token, unless the token is in a file.
pub(crate) const TOKEN: &str = "LINEAR_TOKEN";
/// Variables of the general options, which clap reads.
const NOT_SETTINGS: [&str; 2] = ["config", "data"];

/// Reads the variables. An empty one counts as absent.
#[expect(
    clippy::disallowed_methods,
    reason = "the variables of all settings are read here alone"
)]
pub(crate) fn environment() -> Result<Settings, Failure> {
    parse(
        std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }),
    )
}

/// The value of one variable that a setting names. An empty one counts as absent.
#[expect(
    clippy::disallowed_methods,
    reason = "the variables of all settings are read here alone"
)]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variables of this shell that a service needs, too: the settings, and what the HTTP client goes by.
#[expect(
    clippy::disallowed_methods,
    reason = "the variables of all settings are read here alone"
)]
pub(crate) fn for_service() -> Vec<(String, String)> {
    const CLIENTS: [&str; 6] = [
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ];
    let is_needed = |name: &str| match name.strip_prefix(PREFIX) {
        // These are arguments of the service.
        Some(setting) => !NOT_SETTINGS.contains(&setting.to_ascii_lowercase().as_str()),
        None => CLIENTS.contains(&name.to_ascii_uppercase().as_str()),
    };
    let mut needed: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| is_needed(name) && !value.is_empty())
        .collect();
    needed.sort();
    needed
}

/// The variable that names the proxy for `https://`, if one does: what the HTTP client goes by.
pub(crate) fn proxy_variable() -> Option<&'static str> {
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .find(|name| variable(name).is_some())
}

pub(super) fn parse(all: impl Iterator<Item = (String, String)>) -> Result<Settings, Failure> {
    let mut table = toml::Table::new();
    for (name, value) in all {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = key.to_ascii_lowercase().replace('_', "-");
        if value.is_empty() || NOT_SETTINGS.contains(&key.as_str()) {
            continue;
        }
        let wrong = |text: &str| Failure::Configuration(format!("`{name}`: {text}"));
        let value = match key.as_str() {
            "exec" | "handler" => {
                return Err(wrong(
                    "a command cannot be a variable: use a flag or the file",
                ));
            }
            "type" => value
                .split(',')
                .map(|part| part.trim().to_owned())
                .collect::<Vec<_>>()
                .into(),
            "pull" | "mine" | "insecure" | "ack" => {
                toml::Value::Boolean(value.parse().map_err(|_| wrong("use `true` or `false`"))?)
            }
            "concurrency" => {
                toml::Value::Integer(value.parse().map_err(|_| wrong("use a number"))?)
            }
            _ => toml::Value::String(value),
        };
        if let Some(unknown) = keys::unknown_setting(&key) {
            return Err(wrong(&unknown));
        }
        // Each variable is read alone, so that the error can name it.
        let one = toml::Table::from_iter([(key.clone(), value.clone())]);
        one.try_into::<Settings>()
            .map_err(|error| wrong(error.message().lines().next().unwrap_or_default()))?;
        table.insert(key, value);
    }
    let settings: Settings = (table.try_into())
        .map_err(|error: toml::de::Error| Failure::Configuration(error.message().to_owned()))?;
    settings
        .validate_exclusions()
        .map_err(|text| Failure::Configuration(format!("the `{PREFIX}*` variables: {text}")))?;
    Ok(settings)
}
