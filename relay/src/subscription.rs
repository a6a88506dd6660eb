//! Whose worker it is, what it may see, and what it wants of that.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The user of Linear whose token registered a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Linear's id, unique in the workspace.
    pub id: String,
    /// As Linear shows it.
    pub name: String,
    /// What a mention of the user is written with.
    pub display_name: String,
    /// As Linear knows it. An application has one, too.
    pub email: String,
    /// Whether it is an application.
    #[serde(rename = "app", default)]
    pub is_app: bool,
}

/// What a worker may see, and what it wants of that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Whose worker it is; none for one that registered with a version that did not store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Whether it was registered with an OAuth access token, which ends with what the user has authorised.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_oauth: bool,
    /// The ids of the teams that its user could see at the last check; none: not known, and then it sees all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teams: Option<BTreeSet<String>>,
    /// The patterns of the events that it wants; none: all events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Whether it wants only what concerns its user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mine: bool,
    /// The ids of the teams whose events it wants alone; none: of all teams, and those of no team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_teams: Option<BTreeSet<String>>,
    /// Of the workers with the same group, one gets each event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}
