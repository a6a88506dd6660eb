//! Settings from `edge-agent.toml`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys;
use super::settings::{HandlerTable, Settings};
use crate::failure::Failure;

/// The file's name, in the working directory.
pub(crate) const FILE: &str = "edge-agent.toml";

/// The file to read: the named one, else the one in the working directory, else the user's.
pub(crate) fn find(named: Option<&Path>) -> Option<PathBuf> {
    use etcetera::BaseStrategy as _;
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let project = PathBuf::from(FILE);
    let user = etcetera::choose_base_strategy()
        .ok()
        .map(|base| base.config_dir().join("edge-agent").join(FILE));
    std::iter::once(project)
        .chain(user)
        .find(|file| file.exists())
}

/// Reads a file. Paths in it are relative to it.
pub(crate) fn read(file: &Path) -> Result<Settings, Failure> {
    let wrong = |text: String| Failure::Configuration(format!("`{}`: {text}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })?;
    let at = |span: Option<Range<usize>>, message: &str| {
        let before = span.and_then(|span| text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        wrong(match line {
            Some(line) => format!("line {line}: {message}"),
            None => message.to_owned(),
        })
    };
    let invalid = |error: toml::de::Error| {
        at(
            error.span(),
            error.message().lines().next().unwrap_or_default(),
        )
    };
    let table = DeTable::parse(&text).map_err(invalid)?;
    if let Some((span, message)) = unknown_key(table.get_ref()) {
        return Err(at(Some(span), &message));
    }
    if let Some(DeValue::Table(_)) = table.get_ref().get("handler").map(Spanned::get_ref) {
        let message = "a handler begins with `[[handler]]`, since there can be several";
        return Err(wrong(message.to_owned()));
    }
    let mut settings: Settings = toml::from_str(&text).map_err(invalid)?;
    let beside = file.parent().unwrap_or(Path::new(""));
    for path in [
        &mut settings.linear_secret_file,
        &mut settings.linear_token_file,
        &mut settings.data,
    ] {
        *path = path.as_ref().map(|path| beside.join(path));
    }
    for path in settings.handler.iter_mut().flat_map(HandlerTable::paths) {
        *path = path.as_ref().map(|path| beside.join(path));
    }
    settings.validate_exclusions().map_err(wrong)?;
    Ok(settings)
}

/// The first key that is not a setting: its place, and the error.
fn unknown_key(table: &DeTable<'_>) -> Option<(Range<usize>, String)> {
    let find = |table: &DeTable<'_>, unknown: fn(&str) -> Option<String>| {
        (table.iter()).find_map(|(key, _)| Some((key.span(), unknown(key.get_ref())?)))
    };
    let handlers = table
        .get("handler")
        .and_then(|value| match value.get_ref() {
            DeValue::Array(handlers) => Some(handlers),
            _ => None,
        });
    find(table, keys::unknown_setting).or_else(|| {
        (handlers.into_iter().flatten()).find_map(|handler| match handler.get_ref() {
            DeValue::Table(handler) => find(handler, keys::unknown_in_handler),
            _ => None,
        })
    })
}
