//! Builds the mailboxes of the Nylas emulator from the events, so that any saved event can be
//! replayed.
//!
//! Each message in an event is put into the mailbox of its grant. If several events have an object
//! of the same message, one with a body wins (a truncated notification has none), then the later
//! one. A message that is only named, as on a queue, becomes a placeholder whose subject explains
//! that. The events do not name the address of a grant, so the address with the highest weight is
//! used:
//!
//! | Evidence for an address | Weight |
//! | --- | --- |
//! | a grant event names it | certain |
//! | it is the sender of a message in the sent folder (recognised by Google's name `SENT`) | 120 |
//! | it is one of n recipients of another message | 12 / n |
//! | it is the sender of another message: one to many recipients was more likely sent from the mailbox than received in it | 3 |

use std::collections::{BTreeMap, BTreeSet};

use mailverse::model::address::EmailAddress;
use mailverse::model::ids::MessageKey;
use serde_json::{Value, json};

use super::event::SavedEvent;

/// The content of every attachment, because events do not contain attachments.
pub(crate) const PLACEHOLDER: &[u8] =
    b"The saved event does not contain this attachment's content.\n";

/// A mailbox to add to the Nylas emulator.
pub(crate) struct Mailbox {
    pub(crate) grant_id: String,
    pub(crate) address: String,
    pub(crate) provider: String,
    pub(crate) messages: Vec<Value>,
}

#[derive(Default)]
struct Evidence {
    weights: BTreeMap<String, u32>,
    provider: Option<String>,
    messages: BTreeMap<String, Value>,
}

/// Returns the mailboxes that the events mention, sorted by grant id.
pub(crate) fn from_events(events: &[SavedEvent]) -> Vec<Mailbox> {
    let mut grants: BTreeMap<String, Evidence> = BTreeMap::new();
    let mut named: BTreeSet<MessageKey> = BTreeSet::new();
    for event in events {
        if let Some(notification) = event.notification() {
            witness(&notification, &mut grants, &mut named);
        }
        named.extend(event.requests().into_iter().map(|request| request.key));
    }
    for key in named {
        let grant = grants.entry(key.grant_id.to_string()).or_default();
        grant
            .messages
            .entry(key.message_id.to_string())
            .or_insert_with(|| placeholder(&key));
    }
    let mut taken = BTreeSet::new();
    let mailbox = |(number, (grant_id, evidence)): (usize, (String, Evidence))| {
        let mut ranked: Vec<(&String, &u32)> = evidence
            .weights
            .iter()
            .filter(|(address, _)| !taken.contains(*address))
            .collect();
        ranked.sort_by_key(|(address, weight)| (std::cmp::Reverse(**weight), (*address).clone()));
        let address = ranked.first().map_or_else(
            || format!("mailbox-{}@example.com", number + 1),
            |(address, _)| (*address).clone(),
        );
        taken.insert(address.clone());
        let provider = evidence.provider.unwrap_or_else(|| "google".to_owned());
        Mailbox {
            grant_id,
            address,
            provider,
            messages: evidence.messages.into_values().collect(),
        }
    };
    grants.into_iter().enumerate().map(mailbox).collect()
}

fn witness(
    notification: &Value,
    grants: &mut BTreeMap<String, Evidence>,
    named: &mut BTreeSet<MessageKey>,
) {
    let text = |pointer: &str| notification.pointer(pointer).and_then(Value::as_str);
    let Some(grant_id) = text("/data/object/grant_id").or_else(|| text("/data/grant_id")) else {
        return;
    };
    let kind = text("/type").unwrap_or_default();
    let object = notification.pointer("/data/object").unwrap_or(&Value::Null);
    if kind.starts_with("grant.") {
        if let Some(address) = object
            .get("email")
            .and_then(Value::as_str)
            .and_then(EmailAddress::parse)
        {
            *grants
                .entry(grant_id.to_owned())
                .or_default()
                .weights
                .entry(address.as_str().to_owned())
                .or_default() += 10_000;
        }
        return;
    }
    let is_message = kind.starts_with("message.created") || kind.starts_with("message.updated");
    let Some(message_id) = object
        .get("id")
        .and_then(Value::as_str)
        .filter(|_| is_message)
    else {
        return;
    };
    if let (Ok(grant_id), Ok(message_id)) = (grant_id.parse(), message_id.parse()) {
        named.insert(MessageKey {
            grant_id,
            message_id,
        });
    }
    let grant = grants.entry(grant_id.to_owned()).or_default();
    if let Some(provider) = text("/source")
        .and_then(|source| source.split('/').nth(1))
        .filter(|p| !p.is_empty())
    {
        grant.provider.get_or_insert_with(|| provider.to_owned());
    }
    weigh(object, &mut grant.weights);
    let has_body = |object: &Value| object.get("body").is_some_and(|body| !body.is_null());
    let known = grant.messages.get(message_id);
    if known.is_none_or(|known| has_body(object) || !has_body(known)) {
        grant.messages.insert(message_id.to_owned(), object.clone());
    }
}

fn weigh(object: &Value, weights: &mut BTreeMap<String, u32>) {
    let list = |key: &str| {
        let list = object.get(key).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    };
    let addresses = |keys: &[&'static str]| -> Vec<EmailAddress> {
        let people = keys.iter().flat_map(|key| list(key));
        let emails = people.filter_map(|person| person.get("email")?.as_str());
        emails.filter_map(EmailAddress::parse).collect()
    };
    let is_sent = |id: &Value| {
        id.as_str()
            .is_some_and(|id| id.eq_ignore_ascii_case("sent"))
    };
    let mut add = |addresses: Vec<EmailAddress>, weight: u32| {
        for address in addresses {
            *weights.entry(address.as_str().to_owned()).or_default() += weight;
        }
    };
    if list("folders").iter().any(is_sent) {
        return add(addresses(&["from"]), 120);
    }
    add(addresses(&["from"]), 3);
    let recipients = addresses(&["to", "cc", "bcc"]);
    let share = 12 / u32::try_from(recipients.len().max(1)).unwrap_or(u32::MAX);
    add(recipients, share);
}

fn placeholder(key: &MessageKey) -> Value {
    json!({
        "id": key.message_id, "grant_id": key.grant_id, "object": "message",
        "subject": "(placeholder: the event names this message but does not contain it)",
        "from": [{"email": "somebody@example.net"}], "date": 1_700_000_000, "folders": ["INBOX"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::event::{Kind, SavedEvent};

    fn event(kind: &str, object: &Value) -> SavedEvent {
        let notification = json!({"specversion": "1.0", "type": kind, "source": "/microsoft/emails/realtime", "data": {"object": object}});
        let body = notification.to_string();
        let event = json!({"version": "2.0", "rawPath": "/", "headers": {"host": "x.example.com"}, "body": body, "isBase64Encoded": false,
            "requestContext": {"http": {"method": "POST", "path": "/"}, "accountId": "a", "apiId": "a", "stage": "$default", "timeEpoch": 0}});
        SavedEvent {
            file: "x".to_owned(),
            kind: Kind::Http(event.to_string()),
        }
    }

    #[test]
    fn the_mailbox_is_the_sender_of_sent_messages_or_else_the_commonest_recipient() {
        let sent = json!({"id": "1", "grant_id": "a", "from": [{"email": "Me@example.com"}], "to": [{"email": "you@example.org"}], "folders": ["SENT"]});
        let received = json!({"id": "2", "grant_id": "b", "from": [{"email": "you@example.org"}], "to": [{"email": "her@example.com"}, {"email": "x@example.com"}]});
        let again = json!({"id": "3", "grant_id": "b", "from": [{"email": "you@example.org"}], "cc": [{"email": "her@example.com"}]});
        let mailboxes = from_events(&[
            event("message.created", &sent),
            event("message.created", &received),
            event("message.updated", &again),
        ]);
        let addresses: Vec<&str> = mailboxes
            .iter()
            .map(|mailbox| mailbox.address.as_str())
            .collect();
        assert_eq!(addresses, ["me@example.com", "her@example.com"]);
        assert_eq!(mailboxes[0].provider, "microsoft");
    }

    #[test]
    fn a_message_to_many_recipients_counts_as_sent_by_the_mailbox() {
        let many: Vec<Value> = (0..40)
            .map(|n| json!({"email": format!("p{n}@example.org")}))
            .collect();
        let object =
            json!({"id": "1", "grant_id": "a", "from": [{"email": "me@example.com"}], "to": many});
        assert_eq!(
            from_events(&[event("message.created", &object)])[0].address,
            "me@example.com"
        );
    }

    #[test]
    fn a_truncated_object_does_not_replace_a_whole_one() {
        let whole = json!({"id": "1", "grant_id": "a", "body": "text"});
        let truncated = json!({"id": "1", "grant_id": "a", "subject": "s"});
        for order in [[&whole, &truncated], [&truncated, &whole]] {
            let mailboxes =
                from_events(&order.map(|object| event("message.created.truncated", object)));
            assert_eq!(mailboxes[0].messages, std::slice::from_ref(&whole));
        }
    }
}
