//! The names of the settings, and the nearest one to a name that does not exist.

use serde_aux::serde_introspection::serde_introspect;

use super::settings::{HandlerTable, Settings};

/// The error for a key that is not a setting.
pub(super) fn unknown_setting(key: &str) -> Option<String> {
    unknown(key, serde_introspect::<Settings>())
}

/// The error for a key that is not one of a `[[handler]]`.
pub(super) fn unknown_in_handler(key: &str) -> Option<String> {
    unknown(key, serde_introspect::<HandlerTable>())
}

fn unknown(key: &str, known: &[&str]) -> Option<String> {
    if known.contains(&key) {
        return None;
    }
    let nearest = (known.iter()).max_by(|a, b| {
        let similarity = |name: &str| strsim::jaro_winkler(key, name);
        similarity(a).total_cmp(&similarity(b))
    })?;
    Some(format!("there is no `{key}`: did you mean `{nearest}`?"))
}
