//! What a delivery asks for.
//!
//! Of a notification only the type and two ids are read; the message itself is fetched later, by id, so that a truncated or
//! customised notification is worth as much as a whole one.
//!
//! | Type, without its suffixes | Becomes |
//! | --- | --- |
//! | `message.created` | a request, new |
//! | `message.updated` | a request, changed |
//! | anything else (`message.deleted`, `message.opened`, `grant.expired`, `thread.replied`, …) | nothing, counted |
//!
//! The suffixes `.truncated`, `.transformed`, `.cleaned` and `.metadata` come in any order and number. Source: Nylas facts §4, §5.

use mailverse::ids::{GrantId, IdError, MessageId, MessageKey};
use mailverse::nylas::wire;
use mailverse::sync_request::{SyncRequest, Trigger};
use serde_json::{Map, Value};

use crate::signature::VerifiedBody;

/// What Nylas appends to a type to say how the payload was changed.
const SUFFIXES: [&str; 4] = ["truncated", "transformed", "cleaned", "metadata"];

/// The types that become a request: what a webhook destination has to be subscribed to.
pub const HANDLED: [(&str, Trigger); 2] = [
    ("message.created", Trigger::Created),
    ("message.updated", Trigger::Updated),
];

/// Longest part of an unknown type that is kept for the log.
const LONGEST_KIND: usize = 80;

/// What a notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// Look at this message.
    Message(SyncRequest),
    /// Nothing that we handle.
    Other {
        /// The type, at most 80 characters of it.
        kind: String,
    },
}

/// Why a verified body is no notification. Names the field and its type, never its content.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// Not text.
    #[error("the body is not UTF-8 from byte {at}")]
    NotUtf8 {
        /// The first byte that is none.
        at: usize,
    },
    /// Not JSON, or nested too deeply.
    #[error("the body is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// A field that has to be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Its path.
        field: &'static str,
    },
    /// A field holds something else.
    #[error("{field} is {found}, not {wanted}")]
    WrongType {
        /// Its path.
        field: &'static str,
        /// What it holds.
        found: &'static str,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A field holds a text that cannot be an id.
    #[error("{field}: {problem}")]
    NoId {
        /// Its path.
        field: &'static str,
        /// Why not.
        #[source]
        problem: IdError,
    },
}

/// Reads a notification. Of a key that is there twice, the last one counts.
///
/// # Errors
/// [`NotificationError`]: the same bytes will not get better, so answer 400, which Nylas does not send again.
pub fn parse(body: &VerifiedBody<'_>) -> Result<Notification, NotificationError> {
    let text = std::str::from_utf8(body.bytes()).map_err(|error| NotificationError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    let value = wire::json(text.as_bytes()).map_err(NotificationError::NotJson)?;
    let envelope = as_object(&value, "the notification")?;
    let kind = as_text(present(envelope, "type", "type")?, "type")?;
    let Some(trigger) = trigger(kind) else {
        return Ok(Notification::Other {
            kind: kind.chars().take(LONGEST_KIND).collect(),
        });
    };
    let key = message_key(envelope)?;
    Ok(Notification::Message(SyncRequest { key, trigger }))
}

fn trigger(kind: &str) -> Option<Trigger> {
    let mut base = kind;
    while let Some((rest, last)) = base.rsplit_once('.')
        && SUFFIXES.contains(&last)
    {
        base = rest;
    }
    let handled = HANDLED.iter().find(|(kind, _)| *kind == base);
    handled.map(|(_, trigger)| *trigger)
}

fn message_key(envelope: &Map<String, Value>) -> Result<MessageKey, NotificationError> {
    let data = as_object(present(envelope, "data", "data")?, "data")?;
    let message = as_object(present(data, "object", "data.object")?, "data.object")?;
    let (grant, field) = match (message.get("grant_id"), data.get("grant_id")) {
        (None | Some(Value::Null), Some(grant)) => (grant, "data.grant_id"),
        (Some(grant), _) => (grant, "data.object.grant_id"),
        (None, None) => {
            return Err(NotificationError::Missing {
                field: "data.object.grant_id",
            });
        }
    };
    let grant_id: GrantId = id(grant, field)?;
    let field = "data.object.id";
    let message_id: MessageId = id(present(message, "id", field)?, field)?;
    Ok(MessageKey {
        grant_id,
        message_id,
    })
}

fn id<T>(value: &Value, field: &'static str) -> Result<T, NotificationError>
where
    T: std::str::FromStr<Err = IdError>,
{
    as_text(value, field)?
        .parse()
        .map_err(|problem| NotificationError::NoId { field, problem })
}

fn present<'v>(
    object: &'v Map<String, Value>,
    name: &str,
    field: &'static str,
) -> Result<&'v Value, NotificationError> {
    object.get(name).ok_or(NotificationError::Missing { field })
}

fn as_object<'v>(
    value: &'v Value,
    field: &'static str,
) -> Result<&'v Map<String, Value>, NotificationError> {
    value.as_object().ok_or(NotificationError::WrongType {
        field,
        found: type_of(value),
        wanted: "an object",
    })
}

fn as_text<'v>(value: &'v Value, field: &'static str) -> Result<&'v str, NotificationError> {
    value.as_str().ok_or(NotificationError::WrongType {
        field,
        found: type_of(value),
        wanted: "a string",
    })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::signature::{Key, Keys, Signature};

    fn read(bytes: &[u8]) -> Result<Notification, NotificationError> {
        let current = Key::new(&"secret".into()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-nylas-signature", current.sign(bytes).parse().unwrap());
        let signature = Signature::from_headers(&headers).unwrap();
        let keys = Keys {
            current,
            previous: None,
        };
        parse(&keys.verify(&signature, bytes).unwrap())
    }

    fn reason(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    fn of_kind(kind: &str) -> Notification {
        let text =
            format!(r#"{{"type":"{kind}","data":{{"object":{{"id":"m","grant_id":"g"}}}}}}"#);
        read(text.as_bytes()).unwrap()
    }

    fn request(grant: &str, message: &str, trigger: Trigger) -> Notification {
        Notification::Message(SyncRequest {
            key: MessageKey {
                grant_id: grant.parse().unwrap(),
                message_id: message.parse().unwrap(),
            },
            trigger,
        })
    }

    #[test]
    fn a_type_counts_without_its_suffixes_whatever_their_order() {
        for kind in [
            "message.created",
            "message.created.truncated",
            "message.created.metadata",
            "message.created.cleaned.transformed.truncated",
            "message.created.truncated.cleaned.transformed",
            "message.created.truncated.truncated",
        ] {
            assert_eq!(of_kind(kind), request("g", "m", Trigger::Created), "{kind}");
        }
        let updated = request("g", "m", Trigger::Updated);
        assert_eq!(of_kind("message.updated"), updated);
        assert_eq!(of_kind("message.updated.transformed.truncated"), updated);
    }

    #[test]
    fn a_type_that_nobody_handles_is_no_error_whatever_else_the_body_holds() {
        for kind in [
            "",
            "message",
            "created",
            "truncated",
            "message.created.",
            "message.created.truncatedx",
            "message.created.legacy",
            "Message.Created",
            "message.deleted",
            "message.send_success",
            "message.bounce_detected",
            "grant.expired",
            "thread.replied",
            "something.new",
        ] {
            let other = Notification::Other {
                kind: kind.to_owned(),
            };
            assert_eq!(of_kind(kind), other, "{kind}");
        }
        // Published shapes: an object without an id, and none at all.
        for body in [
            r#"{"type":"message.opened","data":{"object":{"object":"message","message_id":"m"}}}"#,
            r#"{"type":"message.send_failed","data":{"object":null}}"#,
            r#"{"type":"message.opened"}"#,
        ] {
            let kind = read(body.as_bytes()).unwrap();
            assert!(matches!(kind, Notification::Other { .. }), "{body}");
        }
        let long = format!(r#"{{"type":"{}"}}"#, "é".repeat(1_000));
        let Notification::Other { kind } = read(long.as_bytes()).unwrap() else {
            panic!("an unknown type");
        };
        assert_eq!(kind.chars().count(), 80);
    }

    #[test]
    fn the_mailbox_is_named_in_the_object_or_else_beside_it() {
        let beside = r#"{"type":"message.created","data":{"grant_id":"b","object":{"id":"m"}}}"#;
        assert_eq!(
            read(beside.as_bytes()).unwrap(),
            request("b", "m", Trigger::Created)
        );
        let null = r#"{"type":"message.created","data":{"grant_id":"b","object":{"id":"m","grant_id":null}}}"#;
        assert_eq!(
            read(null.as_bytes()).unwrap(),
            request("b", "m", Trigger::Created)
        );
        let both = r#"{"type":"message.created","data":{"grant_id":"b","object":{"id":"m","grant_id":"o"}}}"#;
        assert_eq!(
            read(both.as_bytes()).unwrap(),
            request("o", "m", Trigger::Created)
        );
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_one_counts() {
        let text = r#"{"type":"grant.expired","type":"message.created",
            "data":{"object":{"id":"first","id":"last","grant_id":"g"}}}"#;
        assert_eq!(
            read(text.as_bytes()).unwrap(),
            request("g", "last", Trigger::Created)
        );
    }

    #[test]
    fn an_id_of_the_imap_family_is_kept_as_it_is() {
        let text = r#"{"type":"message.updated","data":{"object":{"id":"<a/b+c=@mail.example.org>","grant_id":"g"}}}"#;
        let expected = request("g", "<a/b+c=@mail.example.org>", Trigger::Updated);
        assert_eq!(read(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_said_by_field_and_without_content() {
        for (body, expected) in [
            ("[]", "the notification is an array, not an object"),
            ("null", "the notification is null, not an object"),
            ("\"private\"", "the notification is a string, not an object"),
            ("{}", "type is missing"),
            (r#"{"type":7}"#, "type is a number, not a string"),
            (r#"{"type":["private"]}"#, "type is an array, not a string"),
            (r#"{"type":"message.created"}"#, "data is missing"),
            (
                r#"{"type":"message.created","data":[]}"#,
                "data is an array, not an object",
            ),
            (
                r#"{"type":"message.created","data":{}}"#,
                "data.object is missing",
            ),
            (
                r#"{"type":"message.created","data":{"object":null}}"#,
                "data.object is null, not an object",
            ),
            (
                r#"{"type":"message.created","data":{"object":[{"id":"private"}]}}"#,
                "data.object is an array, not an object",
            ),
            (
                r#"{"type":"message.created","data":{"object":{"id":"private"}}}"#,
                "data.object.grant_id is missing",
            ),
            (
                r#"{"type":"message.created","data":{"object":{"grant_id":"g"}}}"#,
                "data.object.id is missing",
            ),
            (
                r#"{"type":"message.created","data":{"object":{"grant_id":"g","id":true}}}"#,
                "data.object.id is a boolean, not a string",
            ),
            (
                r#"{"type":"message.created","data":{"object":{"grant_id":{},"id":"m"}}}"#,
                "data.object.grant_id is an object, not a string",
            ),
            (
                r#"{"type":"message.created","data":{"object":{"grant_id":"g","id":""}}}"#,
                "data.object.id: the message id is empty",
            ),
            (
                r#"{"type":"message.created","data":{"grant_id":"private\n","object":{"id":"m"}}}"#,
                "data.grant_id: the grant id holds a control character",
            ),
        ] {
            assert_eq!(reason(body), expected, "{body}");
        }
    }

    #[test]
    fn a_body_that_is_cut_off_or_no_text_or_nested_without_end_is_refused() {
        let whole = r#"{"type":"message.created","data":{"object":{"id":"m","grant_id":"g"}}}"#;
        for end in 0..whole.len() {
            assert!(
                reason(&whole[..end]).starts_with("the body is not JSON"),
                "{end}"
            );
        }
        assert_eq!(
            read(b"{\"type\":\"\xff\"}").unwrap_err().to_string(),
            "the body is not UTF-8 from byte 9"
        );
        let nested = format!(r#"{{"type":{}"#, "[".repeat(100_000));
        assert!(reason(&nested).contains("recursion limit"));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            prop::sample::select(vec!["message.created", "message.updated.truncated", "m"])
                .prop_map(Value::from),
        ];
        let key = prop::sample::select(vec!["type", "data", "object", "id", "grant_id", "other"]);
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_json_makes_the_parser_panic(value in json()) {
            let _ = read(value.to_string().as_bytes());
        }
    }
}
