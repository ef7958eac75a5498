//! Which messages a list contains, and in which form (Nylas facts §7, §8 and §15).

use std::cmp::Reverse;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::mailbox::{Mailbox, is_named};
use super::query::Query;
use super::reply::{Answer, Failure, Reply};

const DEFAULT_LIMIT: usize = 50;
const LARGEST_LIMIT: usize = 200;

/// The largest number of addresses in `any_email`.
const MOST_ADDRESSES: usize = 25;

/// Parameters that filter messages; a cursor belongs to one set of their values.
const FILTERS: [&str; 14] = [
    "subject",
    "any_email",
    "to",
    "from",
    "cc",
    "bcc",
    "in",
    "query_imap",
    "thread_id",
    "unread",
    "starred",
    "has_attachment",
    "received_before",
    "received_after",
];

/// Returns a page of messages, newest first.
pub(crate) fn list(mailbox: &Mailbox, query: &Query, ending: u64, now: i64) -> Reply {
    for name in [
        "search_query_native",
        "metadata_pair",
        "shared_from",
        "shared_folder_id",
    ] {
        if query.get(name).is_some() {
            return Err(Failure::not_imitated(name));
        }
    }
    let fields = Fields::read(query)?;
    let limit = query.limit(DEFAULT_LIMIT, LARGEST_LIMIT)?;
    let wanted = Wanted::read(mailbox, query)?;
    let place = Place::read(mailbox, query, now)?;
    let after = query
        .get("page_token")
        .map(|token| read_cursor(token, query))
        .transpose()?;
    let mut found: Vec<&Map<String, Value>> = mailbox
        .messages
        .values()
        .filter(|message| wanted.includes(message) && place.holds(message))
        .collect();
    found.sort_by_key(|message| Reverse(position(message)));
    let rest = found.iter().filter(|message| {
        after
            .as_ref()
            .is_none_or(|after| position(message) < *after)
    });
    let mut page: Vec<&Map<String, Value>> = rest.take(limit + 1).copied().collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let mut beside = Map::new();
    let cursor = page
        .last()
        .filter(|_| more)
        .map(|last| write_cursor(&position(last), query));
    if let Some(next) = next_cursor(cursor, ending) {
        beside.insert("next_cursor".to_owned(), next);
    }
    let data = page
        .into_iter()
        .map(|message| query.select(place.show(fields.show(mailbox, message))))
        .collect();
    Ok(Answer::Data {
        data: Value::Array(data),
        beside,
    })
}

/// Returns one message; 404 if it does not exist.
pub(crate) fn get(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let fields = Fields::read(query)?;
    let message = mailbox.messages.get(id).ok_or_else(Failure::no_object)?;
    Ok(Answer::data(query.select(fields.show(mailbox, message))))
}

/// Returns the `next_cursor` of a page. The last page has null, no field or an empty string, in
/// turn, because a client must understand all three.
pub(crate) fn next_cursor(cursor: Option<String>, ending: u64) -> Option<Value> {
    match (cursor, ending % 3) {
        (Some(cursor), _) => Some(Value::String(cursor)),
        (None, 0) => Some(Value::Null),
        (None, 1) => None,
        (None, _) => Some(json!("")),
    }
}

/// Returns a message's position in the list: the time at which it was received, then its id. That
/// time is its date, unless the test gave another one.
fn position(message: &Map<String, Value>) -> (i64, String) {
    let received = message.get("received").or_else(|| message.get("date"));
    (
        received.and_then(Value::as_i64).unwrap_or_default(),
        message
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    )
}

/// Returns the cursor that follows a message. It is opaque to clients.
///
/// A cursor belongs to the filters it was made with: with other filters, or without them, it is
/// rejected. Inferred: the official SDKs send the filters again; whether Nylas requires that is
/// *unknown*.
fn write_cursor((date, id): &(i64, String), query: &Query) -> String {
    URL_SAFE_NO_PAD.encode(json!([fingerprint(query), date, id]).to_string())
}

fn read_cursor(token: &str, query: &Query) -> Result<(i64, String), Failure> {
    let invalid = || Failure::invalid("invalid page_token");
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
    let (made_for, date, id): (String, i64, String) =
        serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    if made_for != fingerprint(query) {
        return Err(Failure::invalid(
            "page_token does not belong to these query parameters",
        ));
    }
    Ok((date, id))
}

fn fingerprint(query: &Query) -> String {
    let filters: Vec<String> = FILTERS
        .iter()
        .filter_map(|name| query.get(name).map(|value| format!("{name}={value}")))
        .collect();
    URL_SAFE_NO_PAD
        .encode(Sha256::digest(filters.join("\n")))
        .chars()
        .take(12)
        .collect()
}

/// The form in which messages are requested.
enum Fields {
    Standard,
    Headers,
    BasicHeaders,
    RawMime,
}

impl Fields {
    fn read(query: &Query) -> Result<Self, Failure> {
        match query.get("fields") {
            None | Some("standard") => Ok(Self::Standard),
            Some("include_headers") => Ok(Self::Headers),
            Some("include_basic_headers") => Ok(Self::BasicHeaders),
            Some("raw_mime") => Ok(Self::RawMime),
            Some("include_tracking_options") => Err(Failure::not_imitated("tracking options")),
            Some(other) => Err(Failure::invalid(format!(
                "invalid value '{other}' for fields"
            ))),
        }
    }

    fn show(&self, mailbox: &Mailbox, message: &Map<String, Value>) -> Map<String, Value> {
        let mut shown = message.clone();
        shown.remove("headers");
        shown.remove("raw_mime");
        shown.remove("received");
        // For these providers, Nylas has no original headers except the three basic ones. Inferred:
        // which two headers it generates instead.
        let generated_only = matches!(
            mailbox.grant.provider.as_str(),
            "ews" | "imap" | "icloud" | "yahoo"
        );
        let headers = match self {
            Self::Standard => return shown,
            Self::RawMime => return raw_mime(mailbox, message),
            Self::Headers if generated_only => vec![
                json!({"name": "MIME-Version", "value": "1.0"}),
                json!({"name": "Content-Type", "value": "text/html; charset=utf-8"}),
            ],
            Self::Headers => mailbox.headers(message),
            Self::BasicHeaders => {
                let basic = |header: &Value| {
                    ["message-id", "in-reply-to", "references"]
                        .iter()
                        .any(|name| is_named(header, name))
                };
                mailbox.headers(message).into_iter().filter(basic).collect()
            }
        };
        shown.insert("headers".to_owned(), Value::Array(headers));
        shown
    }
}

/// Returns a message in raw form: only four fields. The text is standard base64 with padding.
fn raw_mime(mailbox: &Mailbox, message: &Map<String, Value>) -> Map<String, Value> {
    let mut shown: Map<String, Value> = message
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "grant_id" | "object" | "id"))
        .map(clone_pair)
        .collect();
    let text = message.get("raw_mime").cloned().unwrap_or_else(|| {
        let headers = mailbox.headers(message);
        let line = |header: &Value| {
            let part = |name: &str| {
                header
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            format!("{}: {}\r\n", part("name"), part("value"))
        };
        let head: String = headers.iter().map(line).collect();
        let part = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        json!(STANDARD.encode(format!(
            "{head}Subject: {}\r\n\r\n{}",
            part("subject"),
            part("body")
        )))
    });
    shown.insert("raw_mime".to_owned(), text);
    shown
}

fn clone_pair((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// How long Nylas keeps a message of an IMAP provider (Nylas facts §16).
const KEPT_SECONDS: i64 = 90 * 24 * 60 * 60;

/// Where the messages of a list come from (Nylas facts §7 and §16).
enum Place {
    /// The messages that Nylas has stored.
    Nylas {
        /// The oldest time that is kept, for IMAP providers only.
        since: Option<i64>,
    },
    /// The mail server. It shows a message as part of one folder, even if it is in several.
    Server {
        /// The id of that folder.
        folder: String,
    },
}

impl Place {
    /// `query_imap` on other providers is rejected here; whether Nylas ignores or rejects it is
    /// *unknown*.
    fn read(mailbox: &Mailbox, query: &Query, now: i64) -> Result<Self, Failure> {
        let imap = matches!(mailbox.grant.provider.as_str(), "imap" | "yahoo" | "icloud");
        if !query.boolean("query_imap")?.unwrap_or_default() {
            let since = imap.then_some(now - KEPT_SECONDS);
            return Ok(Self::Nylas { since });
        }
        if !imap {
            return Err(Failure::invalid("query_imap is for IMAP grants only"));
        }
        let folder = query.get("in").map(str::to_owned);
        folder
            .map(|folder| Self::Server { folder })
            .ok_or_else(|| Failure::invalid("query_imap needs the parameter in"))
    }

    fn holds(&self, message: &Map<String, Value>) -> bool {
        match self {
            Self::Nylas { since: Some(since) } => position(message).0 >= *since,
            Self::Nylas { since: None } | Self::Server { .. } => true,
        }
    }

    fn show(&self, mut message: Map<String, Value>) -> Map<String, Value> {
        if let Self::Server { folder } = self {
            message.insert("folders".to_owned(), json!([folder]));
        }
        message
    }
}

/// The filters of a query.
struct Wanted {
    subject: Option<String>,
    /// Fields to search, and addresses in lower case; one of the addresses must be in one of the
    /// fields.
    people: Vec<(&'static [&'static str], Vec<String>)>,
    folder: Option<String>,
    thread_id: Option<String>,
    flags: Vec<(&'static str, bool)>,
    has_attachment: Option<bool>,
    after: Option<i64>,
    before: Option<i64>,
}

impl Wanted {
    fn read(mailbox: &Mailbox, query: &Query) -> Result<Self, Failure> {
        refuse_mixture(mailbox, query)?;
        let folder = query.get("in").map(str::to_owned);
        // A word such as "inbox" is an id on Google only, and there only in capitals.
        if folder.as_ref().is_some_and(|id| !mailbox.has_folder(id)) {
            return Err(Failure::invalid("in must be the id of a folder"));
        }
        let mut people: Vec<(&'static [&'static str], Vec<String>)> = Vec::new();
        let places: [(&str, &'static [&'static str]); 5] = [
            ("any_email", &["from", "to", "cc", "bcc", "reply_to"]),
            ("from", &["from"]),
            ("to", &["to"]),
            ("cc", &["cc"]),
            ("bcc", &["bcc"]),
        ];
        for (name, places) in places {
            let Some(value) = query.get(name) else {
                continue;
            };
            let addresses: Vec<String> = match name {
                "any_email" => value
                    .split(',')
                    .map(|address| address.trim().to_lowercase())
                    .collect(),
                _ => vec![value.to_lowercase()],
            };
            if addresses.len() > MOST_ADDRESSES {
                return Err(Failure::invalid("any_email takes at most 25 addresses"));
            }
            people.push((places, addresses));
        }
        let mut flags = Vec::new();
        for name in ["unread", "starred"] {
            flags.extend(query.boolean(name)?.map(|value| (name, value)));
        }
        Ok(Self {
            subject: query.get("subject").map(str::to_owned),
            people,
            folder,
            thread_id: query.get("thread_id").map(str::to_owned),
            flags,
            has_attachment: query.boolean("has_attachment")?,
            after: query.integer("received_after")?,
            before: query.integer("received_before")?,
        })
    }

    fn includes(&self, message: &Map<String, Value>) -> bool {
        let text = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let flag = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_bool)
                .unwrap_or_default()
        };
        let list = |name: &str| {
            message
                .get(name)
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        let address = |person: &Value| {
            person
                .get("email")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_lowercase()
        };
        let (date, _) = position(message);
        self.subject.as_ref().is_none_or(|part| text("subject").contains(part.as_str()))
            && self.thread_id.as_ref().is_none_or(|id| text("thread_id") == id)
            && self.folder.as_ref().is_none_or(|id| list("folders").iter().any(|folder| folder.as_str() == Some(id)))
            && self.flags.iter().all(|(name, value)| flag(name) == *value)
            && self.has_attachment.is_none_or(|wanted| list("attachments").is_empty() != wanted)
            // Both bounds are exclusive, so that no client relies on a message of exactly that
            // second; what Nylas does is *unknown*.
            && self.after.is_none_or(|after| date > after)
            && self.before.is_none_or(|before| date < before)
            && self.people.iter().all(|(places, wanted)| {
                places.iter().any(|place| list(place).iter().any(|person| wanted.contains(&address(person))))
            })
    }
}

/// Rejects a combination of search and filter, which Microsoft does not support (Nylas facts §7).
fn refuse_mixture(mailbox: &Mailbox, query: &Query) -> Result<(), Failure> {
    let any = |names: &[&str]| names.iter().any(|name| query.get(name).is_some());
    if mailbox.grant.provider == "microsoft"
        && any(&["thread_id", "unread", "starred"])
        && any(&["subject", "to", "cc", "bcc", "any_email"])
    {
        return Err(Failure::invalid(
            "these query parameters cannot be used together for Microsoft accounts",
        ));
    }
    Ok(())
}
