//! An edited copy of an event, for the handler of this machine alone.

use protocol::clock::UnixMillis;
use protocol::envelope::{self, digest};
use protocol::headers::{
    EDGE_EDITED_FROM, LINEAR_DELIVERY, LINEAR_SIGNATURE, WEBHOOK_ID, WEBHOOK_SIGNATURE,
};
use protocol::signature::Secret;

use crate::delivery::line_key;
use crate::store::{Event, Headers};

/// The copy has an id of its own, so that a handler that knows ids does not take it for the original. It has no signature,
/// because nobody has signed this body.
pub(super) fn edited(event: Event, body: String, now: UnixMillis) -> Event {
    let random = digest(Secret::generate().expose().as_bytes());
    let id = format!("edited-{}", &random[..16]);
    let (kind, action, ordering_key) = match envelope::parse(&body) {
        Ok(read) => (
            read.kind.into_owned(),
            read.action.into_owned(),
            line_key(read.ordering_key, read.is_stop),
        ),
        Err(_) => (event.kind, event.action, event.ordering_key),
    };
    Event {
        kind,
        action,
        workspace: event.workspace,
        ordering_key,
        received_at: now,
        headers: headers(event.headers, &id, &event.id),
        body: body.into_bytes(),
        edited_from: Some(event.id),
        id,
    }
}

fn headers(headers: Headers, id: &str, original: &str) -> Headers {
    let kept = (headers.0.into_iter()).filter_map(|(name, value)| match name.as_str() {
        WEBHOOK_SIGNATURE | LINEAR_SIGNATURE | EDGE_EDITED_FROM | "content-length" => None,
        WEBHOOK_ID | LINEAR_DELIVERY => Some((name, id.into())),
        _ => Some((name, value)),
    });
    let from = (EDGE_EDITED_FROM.to_owned(), original.into());
    Headers(kept.chain([from]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_its_own_id_and_no_signature_and_says_what_it_is_a_copy_of() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let original = Event {
            headers: Headers(vec![
                header(WEBHOOK_ID, "evt_1"),
                header(LINEAR_DELIVERY, "evt_1"),
                header(WEBHOOK_SIGNATURE, "v1,a"),
                header(LINEAR_SIGNATURE, "b"),
                header("linear-event", "Issue"),
            ]),
            ..crate::store::tests::event("evt_1")
        };
        let body = r#"{"type":"Comment","action":"update","organizationId":"o","data":{"id":"c"}}"#;
        let copy = edited(original.clone(), body.to_owned(), 7);
        assert!(copy.id.starts_with("edited-"));
        assert_eq!(
            (copy.kind.as_str(), copy.action.as_str()),
            ("Comment", "update")
        );
        assert_eq!(copy.edited_from.as_deref(), Some("evt_1"));
        assert_eq!((copy.body, copy.received_at), (body.into(), 7));
        let of = |name| copy.headers.get(name);
        assert_eq!(of(WEBHOOK_ID), Some(copy.id.as_str()));
        assert_eq!(of(LINEAR_DELIVERY), Some(copy.id.as_str()));
        assert_eq!((of(WEBHOOK_SIGNATURE), of(LINEAR_SIGNATURE)), (None, None));
        assert_eq!(of(EDGE_EDITED_FROM), Some("evt_1"));
        assert_eq!(of("linear-event"), Some("Issue"));
        let again = edited(
            Event {
                id: copy.id.clone(),
                headers: copy.headers.clone(),
                ..original.clone()
            },
            body.to_owned(),
            8,
        );
        let from: Vec<_> = (again.headers.0.iter())
            .filter(|(name, _)| name == EDGE_EDITED_FROM)
            .collect();
        assert_eq!(
            from,
            [&(EDGE_EDITED_FROM.to_owned(), copy.id.clone().into_bytes())]
        );
        let stop = r#"{"type":"AgentSessionEvent","action":"prompted","organizationId":"o","agentSession":{"id":"s"},"agentActivity":{"signal":"stop"}}"#;
        let stop = edited(original.clone(), stop.to_owned(), 7);
        assert!(crate::delivery::stopped_key(&stop.ordering_key).is_some());
        let text = edited(original.clone(), "not JSON".to_owned(), 7);
        assert_eq!(
            (text.kind, text.ordering_key),
            (original.kind, original.ordering_key)
        );
    }
}
