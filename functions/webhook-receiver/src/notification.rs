//! Parses a delivery into a notification.
//!
//! Only the type, two ids and a few fields of the envelope are read. The message itself is fetched
//! later, by id, so a truncated or customised notification is as good as a complete one.
//!
//! | Type, without its suffixes | Result |
//! | --- | --- |
//! | `message.created` | a sync request: new |
//! | `message.updated` | a sync request: changed |
//! | `mailverse.probe` | none: our own probe ([`crate::probe`]) |
//! | anything else (`message.deleted`, `message.opened`, `grant.expired`, `thread.replied`, …) | none, counted |
//!
//! Nylas appends suffixes to a type: known ones (`.truncated`, `.transformed`, `.cleaned`,
//! `.metadata`) in any order and number, and perhaps new ones in the future. A suffix says how the
//! payload was changed, and the payload is not read. So any suffix is accepted, and an unknown one
//! is counted. Source: Nylas facts §4, §5: "match on the base".

use chrono::{DateTime, Utc};
use mailverse::clients::nylas::wire;
use mailverse::model::ids::{GrantId, IdError, MessageId, MessageKey};
use mailverse::model::sync_request::{SyncRequest, Trigger};
use serde_json::{Map, Value};

use crate::probe;
use crate::signature::VerifiedBody;

/// The known suffixes that Nylas appends to a type to say how the payload was changed.
const SUFFIXES: [&str; 4] = ["truncated", "transformed", "cleaned", "metadata"];

/// The types that become a sync request. A webhook destination must be subscribed to them.
pub const HANDLED: [(&str, Trigger); 2] = [
    ("message.created", Trigger::Created),
    ("message.updated", Trigger::Updated),
];

/// The longest suffix that is shown unchanged, in bytes.
const LONGEST_SUFFIX: usize = 32;

/// The longest part of an unhandled type that is kept for the log, in characters.
const LONGEST_KIND: usize = 80;

/// The content of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// A message was created or changed.
    Message(MessageNotification),
    /// Our own probe: answer it, and do nothing else.
    Probe,
    /// A type that we do not handle.
    Other {
        /// The type, at most 80 characters of it.
        kind: String,
    },
}

/// A notification about a message. All fields except the request are `None` if they are missing or
/// have an unexpected form: no message is refused because of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageNotification {
    /// The message to process, and why.
    pub request: SyncRequest,
    /// The id of the envelope, which is the same in a retry (Nylas facts §4).
    pub id: Option<String>,
    /// When Nylas created the notification: the envelope's `time`, Unix seconds or RFC 3339 (Nylas
    /// facts §4).
    pub time: Option<DateTime<Utc>>,
    /// The id of the Nylas application: `data.application_id`.
    pub application_id: Option<String>,
    /// The first unknown suffix; `None` if all are known.
    pub unknown_suffix: Option<UnknownSuffix>,
}

/// An unknown suffix that Nylas appended to a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSuffix(String);

impl UnknownSuffix {
    fn new(text: &str) -> Self {
        let harmless = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let shown = !text.is_empty() && text.len() <= LONGEST_SUFFIX && text.chars().all(harmless);
        Self(if shown { text } else { "(not shown)" }.to_owned())
    }

    /// Returns at most 32 letters, digits, `_` and `-`; `(not shown)` for anything else.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Why a verified body is not a notification. The texts name the field and its type, never its
/// content.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 from byte {at}")]
    NotUtf8 {
        /// The index of the first invalid byte.
        at: usize,
    },
    /// The body is not JSON, or is nested too deeply.
    #[error("the body is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// A required field is missing.
    #[error("{field} is missing")]
    Missing {
        /// The path of the field.
        field: &'static str,
    },
    /// A field has the wrong type.
    #[error("{field} is {found}, not {wanted}")]
    WrongType {
        /// The path of the field.
        field: &'static str,
        /// The type that it has.
        found: &'static str,
        /// The type that it should have.
        wanted: &'static str,
    },
    /// A field holds a string that cannot be an id.
    #[error("{field}: {problem}")]
    NoId {
        /// The path of the field.
        field: &'static str,
        /// Why it cannot be an id.
        #[source]
        problem: IdError,
    },
}

/// Parses a notification. If a key occurs twice, the last value counts.
///
/// # Errors
/// [`NotificationError`]: the same bytes would fail again, so answer 400, which Nylas does not
/// retry.
pub fn parse(body: &VerifiedBody<'_>) -> Result<Notification, NotificationError> {
    let text = std::str::from_utf8(body.bytes()).map_err(|error| NotificationError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    let value = wire::json(text.as_bytes()).map_err(NotificationError::NotJson)?;
    let envelope = as_object(&value, "the notification")?;
    let kind = as_text(present(envelope, "type", "type")?, "type")?;
    if kind == probe::KIND {
        return Ok(Notification::Probe);
    }
    let Some((trigger, suffixes)) = trigger(kind) else {
        return Ok(Notification::Other {
            kind: kind.chars().take(LONGEST_KIND).collect(),
        });
    };
    let key = message_key(envelope)?;
    Ok(Notification::Message(MessageNotification {
        request: SyncRequest { key, trigger },
        id: some_text(envelope.get("id")),
        time: envelope.get("time").and_then(moment),
        application_id: some_text(value.pointer("/data/application_id")),
        unknown_suffix: unknown_suffix(suffixes),
    }))
}

/// Returns the trigger of a type, and the suffixes after its base.
fn trigger(kind: &str) -> Option<(Trigger, &str)> {
    HANDLED.iter().find_map(|(base, trigger)| {
        let suffixes = kind.strip_prefix(base)?;
        let whole = suffixes.is_empty() || suffixes.starts_with('.');
        whole.then_some((*trigger, suffixes))
    })
}

/// Returns the first unknown suffix of the text after the base, which is empty or has a dot before
/// each suffix.
fn unknown_suffix(suffixes: &str) -> Option<UnknownSuffix> {
    let mut all = suffixes.split('.').skip(1);
    all.find(|suffix| !SUFFIXES.contains(suffix))
        .map(UnknownSuffix::new)
}

fn some_text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn moment(value: &Value) -> Option<DateTime<Utc>> {
    match value {
        Value::Number(seconds) => DateTime::from_timestamp(seconds.as_i64()?, 0),
        Value::String(text) => DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|at| at.to_utc()),
        _ => None,
    }
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
        Notification::Message(MessageNotification {
            request: SyncRequest {
                key: MessageKey {
                    grant_id: grant.parse().unwrap(),
                    message_id: message.parse().unwrap(),
                },
                trigger,
            },
            id: None,
            time: None,
            application_id: None,
            unknown_suffix: None,
        })
    }

    fn message(text: &str) -> MessageNotification {
        match read(text.as_bytes()).unwrap() {
            Notification::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_type_is_read_without_its_suffixes_in_any_order() {
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
    fn an_unknown_suffix_is_ignored_and_shown_only_if_it_is_safe_to_show() {
        let long = format!("message.created.{}", "x".repeat(33));
        for (kind, trigger, suffix) in [
            ("message.created.redacted", Trigger::Created, "redacted"),
            ("message.created.v2.truncated", Trigger::Created, "v2"),
            ("message.updated.truncated.v2", Trigger::Updated, "v2"),
            ("message.updated.legacy", Trigger::Updated, "legacy"),
            ("message.created.truncatedx", Trigger::Created, "truncatedx"),
            ("message.created.", Trigger::Created, "(not shown)"),
            ("message.created..cleaned", Trigger::Created, "(not shown)"),
            (
                "message.created.ada@x.example",
                Trigger::Created,
                "(not shown)",
            ),
            (&long, Trigger::Created, "(not shown)"),
        ] {
            let Notification::Message(found) = of_kind(kind) else {
                panic!("{kind}");
            };
            assert_eq!(found.request.key.to_string(), "g/m", "{kind}");
            assert_eq!(found.request.trigger, trigger, "{kind}");
            let shown = found.unknown_suffix.as_ref().map(UnknownSuffix::text);
            assert_eq!(shown, Some(suffix), "{kind}");
        }
        // A type that we handle is not dropped silently if its ids are missing.
        let without = r#"{"type":"message.created.redacted","data":{"object":null}}"#;
        assert_eq!(reason(without), "data.object is null, not an object");
    }

    #[test]
    fn a_probe_is_recognised_by_its_type_alone() {
        let probe = crate::probe::body("p", DateTime::UNIX_EPOCH);
        assert_eq!(read(&probe).unwrap(), Notification::Probe);
        assert_eq!(of_kind("mailverse.probe"), Notification::Probe);
    }

    #[test]
    fn the_envelope_id_time_and_application_are_read_and_never_cause_a_rejection() {
        let envelope = |fields: &str| {
            message(&format!(
                r#"{{"type":"message.created",{fields}"data":{{"application_id":"a","object":{{"id":"m","grant_id":"g"}}}}}}"#
            ))
        };
        let found = envelope(r#""id":"n","time":1795150010,"#);
        assert_eq!(found.id.as_deref(), Some("n"));
        assert_eq!(found.application_id.as_deref(), Some("a"));
        let time = DateTime::from_timestamp(1_795_150_010, 0);
        assert_eq!(found.time, time);
        let text = envelope(r#""time":"2026-11-20T05:46:50+01:00","#);
        assert_eq!(text.time, time);
        for fields in [
            "",
            r#""id":null,"time":null,"#,
            r#""id":"","time":"soon","#,
            r#""id":7,"time":1e300,"#,
            r#""id":[],"time":{},"#,
        ] {
            let found = envelope(fields);
            assert_eq!((found.id, found.time), (None, None), "{fields}");
        }
        let without = r#"{"type":"message.created","data":{"application_id":7,"object":{"id":"m","grant_id":"g"}}}"#;
        assert_eq!(message(without).application_id, None);
    }

    #[test]
    fn an_unhandled_type_is_not_an_error_whatever_the_body_contains() {
        for kind in [
            "",
            "message",
            "created",
            "truncated",
            "message.createdtruncated",
            "message.created ",
            "message.create",
            "xmessage.created",
            "mailverse.probe.more",
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
        // Published shapes: an object without an id, and no object at all.
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
            panic!("a long unknown type must parse as Notification::Other");
        };
        assert_eq!(kind.chars().count(), 80);
    }

    #[test]
    fn the_grant_id_is_read_from_the_object_or_else_from_the_data() {
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
    fn the_last_value_of_a_duplicate_key_counts() {
        let text = r#"{"type":"grant.expired","type":"message.created",
            "data":{"object":{"id":"first","id":"last","grant_id":"g"}}}"#;
        assert_eq!(
            read(text.as_bytes()).unwrap(),
            request("g", "last", Trigger::Created)
        );
    }

    #[test]
    fn an_imap_message_id_is_kept_unchanged() {
        let text = r#"{"type":"message.updated","data":{"object":{"id":"<a/b+c=@mail.example.org>","grant_id":"g"}}}"#;
        let expected = request("g", "<a/b+c=@mail.example.org>", Trigger::Updated);
        assert_eq!(read(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_problem_is_reported_by_field_and_without_content() {
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
                "data.grant_id: the grant id contains a control character",
            ),
        ] {
            assert_eq!(reason(body), expected, "{body}");
        }
    }

    #[test]
    fn a_truncated_non_utf8_or_deeply_nested_body_is_rejected() {
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
