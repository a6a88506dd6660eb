//! What an event is about, for people: the identifier and the title of its issue, or the name of another thing, where the
//! payload has them.

use serde::Deserialize;

/// How many characters of a title are kept.
const TITLE_LENGTH: usize = 300;

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// An issue's, such as `ENG-12`.
    pub(crate) identifier: Option<String>,
    pub(crate) title: Option<String>,
}

/// The payload of a data change event, of an agent session event, or of a notification (Linear Developers, "Webhooks").
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Payload {
    data: Option<Entity>,
    /// Of an `IssueSla` event.
    issue_data: Option<Entity>,
    agent_session: Option<Entity>,
    notification: Option<Entity>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entity {
    identifier: Option<String>,
    title: Option<String>,
    name: Option<String>,
    issue: Option<Box<Entity>>,
}

impl Subject {
    /// Reads the subject of a payload. What is in an unknown form is left out.
    pub(crate) fn of(body: &[u8]) -> Self {
        let payload: Payload = serde_json::from_slice(body).unwrap_or_default();
        let entities = [
            payload.data,
            payload.issue_data,
            payload.agent_session,
            payload.notification,
        ];
        (entities.into_iter().flatten())
            .map(Self::of_entity)
            .find(|subject| *subject != Self::default())
            .unwrap_or_default()
    }

    /// A comment or a session has the issue in it, which says more than its own title.
    fn of_entity(entity: Entity) -> Self {
        let entity = match entity.issue {
            Some(issue) => *issue,
            None => entity,
        };
        let title = entity.title.or(entity.name);
        Self {
            identifier: entity.identifier,
            title: title.map(|title| title.chars().take(TITLE_LENGTH).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_its_issue_or_about_what_has_a_name() {
        for (body, identifier, title) in [
            (
                r#"{"data":{"identifier":"ENG-1","title":"A"}}"#,
                Some("ENG-1"),
                Some("A"),
            ),
            (
                r#"{"data":{"body":"hm","issue":{"identifier":"ENG-2","title":"B"}}}"#,
                Some("ENG-2"),
                Some("B"),
            ),
            (
                r#"{"agentSession":{"issue":{"identifier":"ENG-3","title":"C"}}}"#,
                Some("ENG-3"),
                Some("C"),
            ),
            (
                r#"{"issueData":{"identifier":"ENG-4"}}"#,
                Some("ENG-4"),
                None,
            ),
            (
                r#"{"notification":{"issue":{"title":"D"}}}"#,
                None,
                Some("D"),
            ),
            (r#"{"data":{"name":"A project"}}"#, None, Some("A project")),
            (r#"{"data":{"issue":null,"title":null}}"#, None, None),
            (r#"{"data":{"title":7}}"#, None, None),
            (r#"{"data":"text"}"#, None, None),
            ("not JSON", None, None),
        ] {
            let subject = Subject::of(body.as_bytes());
            assert_eq!(subject.identifier.as_deref(), identifier, "{body}");
            assert_eq!(subject.title.as_deref(), title, "{body}");
        }
        let long = format!(r#"{{"data":{{"title":"{}"}}}}"#, "ä".repeat(1000));
        let title = Subject::of(long.as_bytes()).title.unwrap();
        assert_eq!(title.chars().count(), TITLE_LENGTH);
    }
}
