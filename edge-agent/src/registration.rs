//! The registration, in a file that only its owner can read.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use protocol::clock::UnixMillis;
use protocol::messages::{Registered, Workspace};
use protocol::signature::Secret;
use protocol::signing_secrets::SigningSecrets;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::files::replace;
use crate::membership::check::Shown;

/// What the relay assigned to this worker.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Registration {
    pub(crate) relay: String,
    pub(crate) name: String,
    /// The path of the worker.
    pub(crate) worker: String,
    pub(crate) workspace: Workspace,
    pub(crate) token: String,
    /// The Linear token that was shown last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shown: Option<Shown>,
    /// The secrets that deliveries are signed with.
    #[serde(flatten)]
    pub(crate) secrets: SigningSecrets,
}

/// Without the token and the secrets.
impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Registration {
    /// What the relay calls the worker: the last part of its path.
    pub(crate) fn id(&self) -> &str {
        self.worker.rsplit('/').next().unwrap_or_default()
    }

    /// A new registration, which replaces `previous`.
    ///
    /// # Errors
    ///
    /// The relay's secret or path is malformed.
    pub(crate) fn new(
        relay: &str,
        name: &str,
        registered: Registered,
        previous: Option<&Self>,
        now: UnixMillis,
    ) -> Result<Self, &'static str> {
        let secret = Secret::parse(&registered.secret).map_err(|_| "its secret is none")?;
        let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
        if !registered.worker.starts_with("/edge/") || !registered.worker.chars().all(is_path) {
            return Err("its worker is no path");
        }
        Ok(Self {
            relay: relay.to_owned(),
            name: name.to_owned(),
            worker: registered.worker,
            workspace: registered.workspace,
            token: registered.token,
            shown: None,
            secrets: match previous {
                Some(previous) => previous.secrets.rotate(secret, now),
                None => SigningSecrets::new(secret),
            },
        })
    }

    /// Reads the file; none if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let text = format!("cannot read `{}`: {error}", path.display());
                return Err(Failure::Configuration(text));
            }
        };
        check_mode(path)?;
        // The parser's message is left out, because it may quote a secret.
        (serde_json::from_str(&text).ok()).map(Some).ok_or_else(|| {
            Failure::Configuration(format!(
                "`{}` is damaged: delete it, and `edge-agent up` registers again",
                path.display()
            ))
        })
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot write `{}`", path.display());
        replace(path, &serde_json::to_vec_pretty(self)?).with_context(cannot)
    }
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path)
        .map_err(anyhow::Error::from)?
        .permissions()
        .mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::Configuration(format!(
        "`{0}` holds secrets and others can read it: `chmod 600 {0}`, or delete it to register again",
        path.display()
    )))
}

#[cfg(not(unix))]
fn check_mode(_: &Path) -> Result<(), Failure> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::messages::WorkerState;

    use super::*;

    fn registration() -> Registration {
        let registered = Registered {
            worker: "/edge/x".into(),
            worker_id: "x".into(),
            workspace: Workspace {
                id: "w".into(),
                url_key: "k".into(),
                name: "n".into(),
            },
            token: "hush".into(),
            secret: Secret::generate().expose(),
            state: WorkerState::Live,
            replaced: false,
            expires_at: String::new(),
        };
        Registration::new("https://relay", "laptop", registered, None, 0).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registration.json");
        assert!(Registration::read(&path).unwrap().is_none());
        registration().write(&path).unwrap();
        registration().write(&path).unwrap();
        assert_eq!(Registration::read(&path).unwrap().unwrap().token, "hush");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registration.json");
        registration().write(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Registration::read(&path).err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_named_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registration.json");
        replace(&path, b"{\"token\":hush").unwrap();
        let error = Registration::read(&path).err().unwrap().to_string();
        assert!(
            error.contains("registration.json") && !error.contains("hush"),
            "{error}"
        );
    }
}
