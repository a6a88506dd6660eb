//! Samples of what Linear sends, for `send`.

/// `type.action` and the payload.
pub(crate) const SAMPLES: [(&str, &str); 18] = [
    (
        "Issue.create",
        include_str!("../../samples/01-issue-create.json"),
    ),
    (
        "Issue.update",
        include_str!("../../samples/02-issue-update.json"),
    ),
    (
        "Issue.remove",
        include_str!("../../samples/03-issue-remove.json"),
    ),
    (
        "Comment.create",
        include_str!("../../samples/04-comment-create.json"),
    ),
    (
        "AgentSessionEvent.created",
        include_str!("../../samples/05-agentsession-created.json"),
    ),
    (
        "AgentSessionEvent.prompted",
        include_str!("../../samples/06-agentsession-prompted.json"),
    ),
    (
        "AgentSessionEvent.stop",
        include_str!("../../samples/07-agentsession-prompted-stop.json"),
    ),
    (
        "AppUserNotification.issueAssignedToYou",
        include_str!("../../samples/08-appusernotification-issueAssignedToYou.json"),
    ),
    (
        "AppUserNotification.issueMention",
        include_str!("../../samples/09-appusernotification-issueMention.json"),
    ),
    (
        "AppUserNotification.issueStatusChanged",
        include_str!("../../samples/11-appusernotification-issueStatusChanged.json"),
    ),
    (
        "AppUserNotification.issueCommentMention",
        include_str!("../../samples/12-appusernotification-issueCommentMention.json"),
    ),
    (
        "AppUserNotification.issueEmojiReaction",
        include_str!("../../samples/14-appusernotification-issueEmojiReaction.json"),
    ),
    (
        "OAuthApp.revoked",
        include_str!("../../samples/17-oauthapp-revoked.json"),
    ),
    (
        "PermissionChange.teamAccessChanged",
        include_str!("../../samples/18-permissionchange.json"),
    ),
    (
        "IssueSLA.highRisk",
        include_str!("../../samples/20-issuesla-highRisk.json"),
    ),
    (
        "Project.update",
        include_str!("../../samples/22-project-update.json"),
    ),
    (
        "Reaction.create",
        include_str!("../../samples/23-reaction-create.json"),
    ),
    (
        "User.update",
        include_str!("../../samples/28-user-update.json"),
    ),
];

/// The sample of a type, or of a type and action.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    let is_it =
        |(sample, _): &&(&str, &str)| *sample == name || sample.split('.').next() == Some(name);
    SAMPLES.iter().find(is_it).map(|(_, body)| *body)
}
