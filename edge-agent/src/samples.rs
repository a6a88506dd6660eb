//! Samples of what Linear sends, for `send`.

/// Pairs of `type.action` and the payload in that file of `samples`.
macro_rules! samples {
    ($($name:literal $file:literal)*) => {
        [$(($name, include_str!(concat!("../../samples/", $file)))),*]
    };
}

/// `type.action` and the payload.
pub(crate) const SAMPLES: [(&str, &str); 18] = samples! {
    "Issue.create" "01-issue-create.json"
    "Issue.update" "02-issue-update.json"
    "Issue.remove" "03-issue-remove.json"
    "Comment.create" "04-comment-create.json"
    "AgentSessionEvent.created" "05-agentsession-created.json"
    "AgentSessionEvent.prompted" "06-agentsession-prompted.json"
    "AgentSessionEvent.stop" "07-agentsession-prompted-stop.json"
    "AppUserNotification.issueAssignedToYou" "08-appusernotification-issueAssignedToYou.json"
    "AppUserNotification.issueMention" "09-appusernotification-issueMention.json"
    "AppUserNotification.issueStatusChanged" "11-appusernotification-issueStatusChanged.json"
    "AppUserNotification.issueCommentMention" "12-appusernotification-issueCommentMention.json"
    "AppUserNotification.issueEmojiReaction" "14-appusernotification-issueEmojiReaction.json"
    "OAuthApp.revoked" "17-oauthapp-revoked.json"
    "PermissionChange.teamAccessChanged" "18-permissionchange.json"
    "IssueSLA.highRisk" "20-issuesla-highRisk.json"
    "Project.update" "22-project-update.json"
    "Reaction.create" "23-reaction-create.json"
    "User.update" "28-user-update.json"
};

/// The sample of a type, or of a type and action.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    let is_it =
        |(sample, _): &&(&str, &str)| *sample == name || sample.split('.').next() == Some(name);
    SAMPLES.iter().find(is_it).map(|(_, body)| *body)
}
