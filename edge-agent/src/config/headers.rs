//! Headers that requests to a handler have beside those of the event, such as `Authorization: Bearer …`. Their values are never
//! shown.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::header::{HeaderName, HeaderValue};

use super::values::read_secret;
use super::variables::{TOKEN, variable};

/// Headers that belong to one connection (RFC 9110, section 7.6.1) or one message length.
pub(crate) const OF_CONNECTION: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers of a handler.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(HeaderName, HeaderValue)>);

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Reads them from a table, in which a value `$NAME` is a variable, and from a file, `Name: value` a line.
pub(super) fn read(
    table: &BTreeMap<String, String>,
    file: Option<&Path>,
) -> Result<Headers, String> {
    let mut headers = Vec::new();
    for (name, value) in table {
        let value = match value.strip_prefix('$') {
            None => value.clone(),
            Some(TOKEN) => {
                return Err(format!(
                    "`header`: Linear's token (`{TOKEN}`) is the agent's alone"
                ));
            }
            Some(of) => variable(of)
                .ok_or_else(|| format!("`header`: `{name}` is `${of}`, which is not set"))?,
        };
        headers.push(header("`header`", name, &value)?);
    }
    if let Some(file) = file {
        let text = read_secret(file).map_err(|error| error.to_string())?;
        let place = format!("`{}`", file.display());
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, value) = (line.split_once(':'))
                .ok_or_else(|| format!("{place} has to have `Name: value` in each line"))?;
            headers.push(header(&place, name.trim(), value.trim())?);
        }
    }
    Ok(Headers(headers))
}

fn header(place: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    // Not shown: a secret may stand where a name should.
    let parsed: HeaderName = (name.parse())
        .map_err(|_| format!("{place}: what is before a value is not a header's name"))?;
    if OF_CONNECTION.contains(&parsed.as_str()) {
        return Err(format!(
            "{place}: `{parsed}` is set by each connection itself"
        ));
    }
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| format!("{place}: the value of `{parsed}` has to be printable ASCII"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}
