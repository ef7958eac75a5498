//! How folders and attachments are answered (Nylas facts §7 and §9).

use serde_json::{Map, Value};

use super::mailbox::Mailbox;
use super::messages;
use super::query::Query;
use super::reply::{Answer, Failure, Reply};

/// Returns a page of folders.
pub(crate) fn list(mailbox: &Mailbox, query: &Query, ending: u64) -> Reply {
    let limit = query.limit(50, 200)?;
    let start: usize = match query.get("page_token") {
        None => 0,
        Some(token) => {
            let number = token
                .strip_prefix("Zm9sZGVycw")
                .and_then(|number| number.parse().ok());
            number.ok_or_else(|| Failure::invalid("invalid page_token"))?
        }
    };
    let parent = query.get("parent_id");
    let wanted = |folder: &&Map<String, Value>| {
        parent.is_none_or(|parent| folder.get("parent_id").and_then(Value::as_str) == Some(parent))
    };
    let found: Vec<&Map<String, Value>> = mailbox.folders.iter().filter(wanted).collect();
    let data = found
        .iter()
        .skip(start)
        .take(limit)
        .map(|folder| query.select((*folder).clone()))
        .collect();
    let end = start.saturating_add(limit);
    let cursor = (end < found.len()).then(|| format!("Zm9sZGVycw{end}"));
    let mut beside = Map::new();
    beside.extend(
        messages::next_cursor(cursor, ending).map(|cursor| ("next_cursor".to_owned(), cursor)),
    );
    Ok(Answer::Data {
        data: Value::Array(data),
        beside,
    })
}

/// Returns one folder; 404 if it does not exist.
pub(crate) fn get(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox
        .folders
        .iter()
        .find(|folder| folder.get("id").and_then(Value::as_str) == Some(id));
    found
        .map(|folder| Answer::data(query.select(folder.clone())))
        .ok_or_else(Failure::no_object)
}

/// Returns `message_id`, which both calls about an attachment require (Nylas facts §7).
fn message_of(query: &Query) -> Result<&str, Failure> {
    query
        .get("message_id")
        .ok_or_else(|| Failure::invalid("message_id is required"))
}

/// Returns the metadata of an attachment.
pub(crate) fn attachment(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox.attachment(message_of(query)?, id);
    found
        .map(|attachment| Answer::data(attachment.clone()))
        .ok_or_else(Failure::no_object)
}

/// Returns the bytes of an attachment.
pub(crate) fn download(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox.file(message_of(query)?, id);
    found
        .map(|bytes| Answer::Bytes(bytes.clone()))
        .ok_or_else(Failure::no_object)
}
