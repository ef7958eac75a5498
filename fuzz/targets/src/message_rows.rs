//! A message as Nylas gives it, up to the rows that are written to Dataverse.
//!
//! Input: one byte, what the policy lets be stored and what an ambiguous address is; the rest is
//! the message's JSON.

use std::collections::HashSet;
use std::sync::LazyLock;

use mailverse::clients::dataverse::records::{PartyReference, Person, Table};
use mailverse::clients::nylas::wire;
use mailverse::lookup::result::LookupResult;
use mailverse::mailboxes::Mailboxes;
use mailverse::mapping::{self, Direction, Findings};
use mailverse::model::address::EmailAddress;
use mailverse::model::ids::GrantId;
use mailverse::policy::InternalAddresses;
use mailverse::policy::document::{Ambiguous, Content};
use mailverse::resolve::parties;
use mailverse::resolve::regarding::RegardingDecision;
use serde_json::{Map, Value};
use uuid::Uuid;

/// The longest texts that Dataverse takes, in UTF-16 code units (Dataverse facts §2.1, §4.1).
const LONGEST: [(&str, usize); 7] = [
    ("subject", 800),
    ("sender", 250),
    ("torecipients", 500),
    ("messageid", 320),
    ("filename", 255),
    ("mimetype", 256),
    ("attachmentcontentid", 250),
];

/// A user, a contact, and two contacts that share an address.
static FOUND: LazyLock<LookupResult> = LazyLock::new(|| {
    let mut found = LookupResult::default();
    for (address, table, id) in [
        ("ada@ours.example", Table::SystemUser, 1),
        ("carol@kites.example", Table::Contact, 2),
        ("team@kites.example", Table::Contact, 3),
        ("team@kites.example", Table::Contact, 4),
    ] {
        let person = Person {
            record: PartyReference {
                table,
                id: Uuid::from_u128(id),
            },
            active: true,
            account: None,
            changed: None,
        };
        if let Some(address) = EmailAddress::parse(address) {
            found.add_person(address, person);
        }
    }
    found
});

/// Reads the message, limits it as a policy does, and maps it.
///
/// # Panics
/// A promise about it does not hold.
pub fn run(input: &[u8]) {
    let Some((choice, json)) = input.split_first() else {
        return;
    };
    let Ok(object) = wire::json(json) else {
        return;
    };
    let (Ok(grant), Ok(other)) = ("g".parse::<GrantId>(), "h".parse::<GrantId>()) else {
        unreachable!("both are ids");
    };
    let Ok(mut message) = wire::message(&grant, &object) else {
        return;
    };
    if let Ok(copy) = wire::message(&other, &object)
        && message.internet_message_id.is_some()
    {
        let same = copy.activity_id() == message.activity_id();
        assert!(same, "another mailbox's copy is another row");
    }
    let content = match choice % 4 {
        0 => Content::Full,
        1 => Content::Snippet,
        2 => Content::Subject,
        _ => Content::Participants,
    };
    let ambiguous = match choice / 4 % 3 {
        0 => Ambiguous::Unresolved,
        1 => Ambiguous::MostRecent,
        _ => Ambiguous::All,
    };
    mapping::limit(&mut message, content);
    let domains = HashSet::from(["ours.example".to_owned()]);
    let internal = InternalAddresses {
        mailboxes: &Mailboxes::default(),
        found: &FOUND,
        domains: &domains,
    };
    let parties = parties::of_message(&message, &internal, ambiguous);
    let addresses = message.from.iter().chain(message.participants()).count();
    assert!(addresses == 0 || !parties.is_empty(), "nobody is left");
    let findings = Findings {
        direction: Direction::Incoming,
        parties,
        regarding: RegardingDecision::default(),
        owner: Some(Uuid::from_u128(1)),
    };
    let email = mapping::email(&message, &findings);
    assert_eq!(email.activity_id, message.activity_id());
    assert_sound(&email.row);
    let text = |column: &str| email.row.get(column).and_then(Value::as_str);
    assert!(text("subject").is_some_and(|subject| !subject.is_empty()));
    match content {
        Content::Full | Content::Snippet => {}
        Content::Subject => assert_eq!(text("description"), Some("")),
        Content::Participants => {
            assert_eq!(
                (text("subject"), text("description")),
                (Some("(not stored)"), Some(""))
            );
        }
    }
    assert!(content == Content::Full || message.attachments.is_empty());
    for (position, attachment) in message.attachments.iter().enumerate() {
        let row = mapping::attachment_row(email.activity_id, position, attachment, b"x");
        assert_sound(&row);
        let name = row.get("filename").and_then(Value::as_str);
        assert!(
            name.is_some_and(|name| !name.is_empty()),
            "a file without a name"
        );
    }
    let again = mapping::email(&message, &findings);
    assert_eq!(again.row, email.row, "mapped again, another row");
    assert_eq!(again.completion, email.completion);
}

/// Whether every text fits its column and holds nothing that Dataverse refuses.
fn assert_sound(row: &Map<String, Value>) {
    for (column, longest) in LONGEST {
        if let Some(text) = row.get(column).and_then(Value::as_str) {
            let length = text.encode_utf16().count();
            assert!(length <= longest, "{column} has {length} of {longest}");
        }
    }
    for (column, value) in row {
        if let Some(text) = value.as_str() {
            let forbidden = |c: char| {
                let kept = matches!(c, '\t' | '\n' | '\r');
                (c < ' ' && !kept) || matches!(c, '\u{fffe}' | '\u{ffff}')
            };
            assert!(!text.chars().any(forbidden), "{column} holds {text:?}");
        }
    }
}
