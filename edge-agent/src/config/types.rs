//! The types of events that are known, for a hint at one that was mistyped. Linear may add others at any time.

/// Source: Linear's SDK, the union of its webhook payloads, and its schema.
const KNOWN: [&str; 26] = [
    "AgentSessionEvent",
    "AppUserNotification",
    "AppUserTeamAccessChanged",
    "Attachment",
    "AuditEntry",
    "Comment",
    "Customer",
    "CustomerNeed",
    "Cycle",
    "Document",
    "Initiative",
    "InitiativeUpdate",
    "Issue",
    "IssueLabel",
    "IssueRelation",
    "IssueSLA",
    "OAuthApp",
    "OAuthAuthorization",
    "PermissionChange",
    "Project",
    "ProjectLabel",
    "ProjectUpdate",
    "Reaction",
    "Release",
    "ReleaseNote",
    "User",
];

/// What to say of a pattern whose type is not known; none if it is, or has a wildcard in it.
pub(super) fn doubt(pattern: &str) -> Option<String> {
    let kind = pattern.split('.').next().unwrap_or_default();
    if kind.contains('*') || KNOWN.contains(&kind) {
        return None;
    }
    let similarity =
        |known: &str| strsim::jaro_winkler(&kind.to_lowercase(), &known.to_lowercase());
    let nearest = (KNOWN.iter()).max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    Some(if similarity(nearest) > 0.8 {
        format!("no type `{kind}` of Linear's is known: did you mean `{nearest}`?")
    } else {
        format!("no type `{kind}` of Linear's is known, as `Issue` or `Comment` are")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_was_mistyped_is_doubted_with_the_nearest_one() {
        for known in [
            "Issue",
            "Comment.create",
            "*",
            "AgentSession*",
            "IssueSLA.set",
        ] {
            assert_eq!(doubt(known), None);
        }
        for (mistyped, expected) in [
            ("Isue", "did you mean `Issue`?"),
            ("issue.create", "did you mean `Issue`?"),
            ("AgentSession", "did you mean `AgentSessionEvent`?"),
            ("Weather", "as `Issue` or `Comment` are"),
        ] {
            let doubt = doubt(mistyped).unwrap();
            assert!(doubt.ends_with(expected), "{doubt}");
        }
    }
}
