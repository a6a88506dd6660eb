//! The workspaces from which a webhook with a valid signature was accepted, or which a webhook secret belongs to; and the
//! applications that their webhooks name.

use std::time::Duration;

use super::{Item, Table, TableError, item_key, s, text};

/// By what the relay knows a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownBy {
    /// A webhook secret belongs to it alone.
    Secret,
    /// A webhook of it was accepted, signed with a secret that is valid for all workspaces.
    Webhook,
}

/// How long a workspace is known after its last webhook.
const KNOWN_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// The value of `by` for a workspace that a webhook secret belongs to.
const SECRET: &str = "secret";

fn workspace_key(workspace: &str) -> Item {
    item_key(format!("KNOWN#{workspace}"), "KNOWN")
}

/// The key of an application: Linear's `oauthClientId`, the same in all workspaces.
fn application_key(workspace: &str, client: &str) -> Item {
    item_key(format!("KNOWN#{workspace}"), format!("APP#{client}"))
}

impl Table {
    /// Records which user an application is in a workspace, by which its workers are found when it is removed.
    pub(crate) async fn mark_application(
        &self,
        workspace: &str,
        client: &str,
        user: &str,
    ) -> Result<(), TableError> {
        let mut item = application_key(workspace, client);
        item.insert("user".to_owned(), s(user));
        self.put(item, KNOWN_FOR, "record the application").await
    }

    /// The user that an application is in a workspace, if that is known.
    pub(crate) async fn application(
        &self,
        workspace: &str,
        client: &str,
    ) -> Result<Option<String>, TableError> {
        let key = application_key(workspace, client);
        let known = self.get(key, "look for the application").await?;
        Ok(known.and_then(|item| text(&item, "user").map(str::to_owned)))
    }

    /// Records by what a workspace is known.
    pub(crate) async fn mark_known(
        &self,
        workspace: &str,
        known: KnownBy,
    ) -> Result<(), TableError> {
        let by = match known {
            KnownBy::Secret => SECRET,
            KnownBy::Webhook => "webhook",
        };
        let mut item = workspace_key(workspace);
        item.insert("by".to_owned(), s(by));
        let operation = "record that the workspace is known";
        self.put(item, KNOWN_FOR, operation).await
    }

    /// By what a workspace is known, if it is.
    pub(crate) async fn known(&self, workspace: &str) -> Result<Option<KnownBy>, TableError> {
        let operation = "look whether the workspace is known";
        let known = self.get(workspace_key(workspace), operation).await?;
        Ok(known.map(|item| match text(&item, "by") {
            Some(SECRET) => KnownBy::Secret,
            _ => KnownBy::Webhook,
        }))
    }
}
