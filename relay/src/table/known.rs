//! The workspaces from which a webhook with a valid signature was accepted, or which a webhook secret belongs to; and the
//! applications that their webhooks name.

use std::time::Duration;

use super::{Item, Table, TableError, n, s, text};

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

fn key(workspace: &str) -> Item {
    Item::from([
        ("pk".to_owned(), s(format!("KNOWN#{workspace}"))),
        ("sk".to_owned(), s("KNOWN")),
    ])
}

/// The key of an application: Linear's `oauthClientId`, the same in all workspaces.
fn application_key(workspace: &str, client: &str) -> Item {
    let mut key = key(workspace);
    key.insert("sk".to_owned(), s(format!("APP#{client}")));
    key
}

impl Table {
    /// Records which user an application is in a workspace, by which its workers are found when it is removed.
    pub(crate) async fn mark_application(
        &self,
        workspace: &str,
        client: &str,
        user: &str,
    ) -> Result<(), TableError> {
        (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(application_key(workspace, client)))
            .item("user", s(user))
            .item("expires_at", n(self.expiry(KNOWN_FOR)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("record the application", e))
    }

    /// The user that an application is in a workspace, if that is known.
    pub(crate) async fn application(
        &self,
        workspace: &str,
        client: &str,
    ) -> Result<Option<String>, TableError> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(application_key(workspace, client)))
            .send()
            .await
            .map_err(|e| TableError::call("look for the application", e))?;
        let known = found.item.filter(|item| self.is_alive(item));
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
        (self.client.put_item())
            .table_name(&self.name)
            .set_item(Some(key(workspace)))
            .item("by", s(by))
            .item("expires_at", n(self.expiry(KNOWN_FOR)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("record that the workspace is known", e))
    }

    /// By what a workspace is known, if it is.
    pub(crate) async fn known(&self, workspace: &str) -> Result<Option<KnownBy>, TableError> {
        let found = (self.client.get_item())
            .table_name(&self.name)
            .set_key(Some(key(workspace)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|e| TableError::call("look whether the workspace is known", e))?;
        let known = found.item.filter(|item| self.is_alive(item));
        Ok(known.map(|item| match text(&item, "by") {
            Some(SECRET) => KnownBy::Secret,
            _ => KnownBy::Webhook,
        }))
    }
}
