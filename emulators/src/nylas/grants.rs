//! How grants are listed and shown (Nylas facts §11).

use serde_json::{Map, Value, json};

use super::mailbox::Mailbox;
use super::query::Query;
use super::reply::{Answer, Failure, Reply};

/// Returns a page of grants, the newest first, with at most `most` of them. The largest `limit` is
/// *unknown*; 200 is used here.
pub(crate) fn list(mailboxes: &[Mailbox], query: &Query, most: Option<usize>) -> Reply {
    let limit = query.limit(10, 200)?;
    let limit = most.map_or(limit, |most| limit.min(most));
    let offset = match query.get("offset").map(str::parse::<usize>) {
        None => 0,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => return Err(Failure::invalid("offset must be a number")),
    };
    let is = |name: &str, value: &str| {
        query
            .get(name)
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let found = mailboxes.iter().rev().filter(|mailbox| {
        let grant = &mailbox.grant;
        is("grant_status", &grant.status)
            && is("email", &grant.email)
            && is("provider", &grant.provider)
            && is("workspace_id", &mailbox.workspace_id)
    });
    let data = found
        .skip(offset)
        .take(limit)
        .map(|mailbox| query.select(show(mailbox, false)))
        .collect();
    let mut beside = Map::new();
    beside.insert("limit".to_owned(), json!(limit));
    beside.insert("offset".to_owned(), json!(offset));
    Ok(Answer::Data {
        data: Value::Array(data),
        beside,
    })
}

/// Returns a grant as the API shows it. The field `email_aliases` for the aliases is not verified.
pub(crate) fn show(mailbox: &Mailbox, with_aliases: bool) -> Map<String, Value> {
    let grant = &mailbox.grant;
    let mut object = Map::new();
    object.insert("id".to_owned(), json!(grant.id));
    object.insert("provider".to_owned(), json!(grant.provider));
    object.insert("grant_status".to_owned(), json!(grant.status));
    object.insert("email".to_owned(), json!(grant.email));
    object.insert("workspace_id".to_owned(), json!(mailbox.workspace_id));
    object.insert("created_at".to_owned(), json!(mailbox.created_at));
    object.insert("updated_at".to_owned(), json!(mailbox.created_at));
    if matches!(grant.provider.as_str(), "google" | "microsoft") {
        object.insert(
            "scope".to_owned(),
            json!(["Mail.Read", "User.Read", "offline_access"]),
        );
        if with_aliases {
            object.insert("email_aliases".to_owned(), json!(grant.aliases));
        }
    }
    object
}
