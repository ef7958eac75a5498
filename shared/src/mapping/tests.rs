//! Tests each rule of the column table. Whole rows are tested by the golden cases in
//! `tests/fixtures/mapping`.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::column_limits::SUBJECT_LENGTH;
use super::email::{OWNER, party, subject, to_recipients};
use super::*;
use crate::clients::dataverse::email_row::EmailWrite;
use crate::clients::dataverse::metadata::column_lengths::Lengths;
use crate::clients::dataverse::records::{PartyReference, Table};
use crate::clients::nylas::wire;
use crate::model::address::EmailAddress;
use crate::model::ids::ActivityId;
use crate::model::message::Message;
use crate::model::text::{cut, length, without_forbidden};
use crate::policy::document::Content;
use crate::resolve::parties::{Choice, Match, Party, Resolution, Role};
use crate::resolve::regarding::RegardingDecision;

fn message(object: &Value) -> Message {
    wire::message(&"g".parse().unwrap(), object).unwrap_or_else(|e| panic!("{e}"))
}

fn findings(direction: Direction) -> Findings {
    Findings {
        direction,
        parties: Vec::new(),
        regarding: RegardingDecision::default(),
        owner: None,
    }
}

fn resolution() -> Resolution {
    Resolution {
        matched: Match::Exact,
        choice: Choice::Unknown,
        candidates: Vec::new(),
    }
}

#[test]
fn each_content_setting_stores_exactly_what_its_table_lists() {
    let stored = |content| {
        let mut message = message(&json!({
            "id": "m", "subject": "Kites", "body": "<p>Two red ones, please</p>", "snippet": "Two red",
            "date": 1, "from": [{"email": "a@x.example"}], "attachments": [{"id": "f"}, {"size": 3}],
        }));
        limit(&mut message, content);
        let row = email(&message, &findings(Direction::Incoming)).row;
        let text = |column: &str| row[column].as_str().unwrap().to_owned();
        (
            text("subject"),
            text("description"),
            message.attachments.len(),
            message.omissions.len(),
        )
    };
    let of = |subject: &str, body: &str, files, omitted| {
        (subject.to_owned(), body.to_owned(), files, omitted)
    };
    let full = of("Kites", "<p>Two red ones, please</p>", 1, 1);
    assert_eq!(stored(Content::Full), full);
    assert_eq!(stored(Content::Snippet), of("Kites", "Two red", 0, 0));
    assert_eq!(stored(Content::Subject), of("Kites", "", 0, 0));
    assert_eq!(stored(Content::Participants), of("(not stored)", "", 0, 0));
}

#[test]
fn an_empty_subject_gets_a_placeholder_and_a_long_one_is_cut_between_characters() {
    assert_eq!(subject(""), "(no subject)");
    assert_eq!(subject(" \r\n\t\0 "), "(no subject)");
    assert_eq!(subject("Re: a\r\n b"), "Re: a   b");
    assert_eq!(length(&subject(&"x".repeat(900))), 800);
    let emoji = subject(&format!("{}{}", "x".repeat(799), "😀".repeat(9)));
    assert_eq!(emoji, "x".repeat(799), "must not split a surrogate pair");
}

#[test]
fn a_direction_is_always_written_and_decides_the_status() {
    let message = message(&json!({"id": "m"}));
    let sent = email(&message, &findings(Direction::Outgoing));
    assert_eq!(
        (&sent.row["directioncode"], &sent.completion["statuscode"]),
        (&json!(true), &json!(3))
    );
    let received = email(&message, &findings(Direction::Incoming));
    assert_eq!(
        (
            &received.row["directioncode"],
            &received.completion["statuscode"]
        ),
        (&json!(false), &json!(4))
    );
    assert_eq!(received.completion["statecode"], 1);
}

#[test]
fn a_message_without_a_date_is_mapped_without_dates() {
    let row = email(
        &message(&json!({"id": "m", "date": "soon"})),
        &findings(Direction::Incoming),
    )
    .row;
    assert!(
        ["actualstart", "actualend", "sortdate"]
            .iter()
            .all(|column| !row.contains_key(*column))
    );
    let row = email(
        &message(&json!({"id": "m", "date": 1_723_821_981})),
        &findings(Direction::Incoming),
    )
    .row;
    assert!(
        ["actualstart", "actualend", "sortdate"]
            .iter()
            .all(|column| row[*column] == "2024-08-16T15:26:21Z")
    );
}

#[test]
fn a_party_is_bound_to_its_record_or_has_only_an_address() {
    let address = EmailAddress::parse("eve@example.com").unwrap();
    let record = PartyReference {
        table: Table::Contact,
        id: Uuid::from_u128(1),
    };
    let bound = party(&Party {
        role: Role::Cc,
        address: address.clone(),
        record: Some(record),
        resolution: resolution(),
    });
    assert_eq!(
        bound,
        json!({"participationtypemask": 3, "addressused": "eve@example.com",
        "partyid_contact@odata.bind": "/contacts(00000000-0000-0000-0000-000000000001)"})
    );
    let alone = party(&Party {
        role: Role::Bcc,
        address,
        record: None,
        resolution: resolution(),
    });
    assert_eq!(
        alone,
        json!({"participationtypemask": 4, "addressused": "eve@example.com"})
    );
}

#[test]
fn an_owner_is_removed_only_once() {
    let owned = Findings {
        owner: Some(Uuid::from_u128(2)),
        ..findings(Direction::Incoming)
    };
    let mut message = email(&message(&json!({"id": "m"})), &owned);
    assert_eq!(
        message.row[OWNER],
        "/systemusers(00000000-0000-0000-0000-000000000002)"
    );
    assert!(without_owner(&mut message));
    assert!(!without_owner(&mut message));
}

#[test]
fn a_long_message_id_is_not_written() {
    let id = |value: &str| json!({"id": "m", "headers": [{"name": "Message-ID", "value": value}]});
    let row = |object: &Value| email(&message(object), &findings(Direction::Incoming)).row;
    assert_eq!(row(&id("a@x"))["messageid"], "<a@x>");
    assert!(row(&id(&"x".repeat(318))).contains_key("messageid"));
    assert!(!row(&id(&"x".repeat(319))).contains_key("messageid"));
}

#[test]
fn a_sender_as_long_as_its_column_is_written_and_a_longer_one_is_not() {
    let sender = |length: usize| {
        let address = format!("{}@x.example", "a".repeat(length - "@x.example".len()));
        let object = json!({"id": "m", "from": [{"email": address}]});
        let row = email(&message(&object), &findings(Direction::Incoming)).row;
        assert_eq!(address.len(), length);
        row.get("sender")
            .map(|sender| sender.as_str() == Some(&address))
    };
    assert_eq!(sender(249), Some(true));
    assert_eq!(sender(250), Some(true));
    assert_eq!(sender(251), None);
}

#[test]
fn the_separators_of_the_recipient_list_count_towards_its_length() {
    let listed = |lengths: &[usize]| {
        let address = |length: &usize| {
            let local = "a".repeat(length - "@x.example".len());
            EmailAddress::parse(&format!("{local}@x.example")).unwrap()
        };
        let addresses: Vec<EmailAddress> = lengths.iter().map(address).collect();
        let text = to_recipients(&addresses);
        let listed = text.split(';').map(str::len).collect::<Vec<_>>();
        (listed, text.len())
    };
    // 500 with the separators.
    assert_eq!(listed(&[249, 250]), (vec![249, 250], 500));
    assert_eq!(listed(&[166, 166, 166]), (vec![166, 166, 166], 500));
    // 500 without them.
    assert_eq!(listed(&[250, 250]), (vec![250], 250));
    assert_eq!(listed(&[166, 167, 167]), (vec![166, 167], 334));
    assert_eq!(listed(&[166, 166, 167]), (vec![166, 166], 333));
}

#[test]
fn a_file_name_is_made_valid_and_keeps_its_extension() {
    assert_eq!(file_name("a/b:c?.pdf", 0), "a_b_c_.pdf");
    assert_eq!(file_name("  ", 2), "attachment-3");
    let long = file_name(&format!("{}.docx", "ü".repeat(400)), 0);
    assert!(length(&long) == 255 && long.ends_with("ü.docx"));
}

#[test]
fn an_attachment_row_refers_to_its_email_and_is_deterministic() {
    let message = message(
        &json!({"id": "m", "attachments": [{"id": "a", "filename": "x.txt", "content_type": "text/plain", "content_id": "<c>"}]}),
    );
    let activity = message.activity_id();
    let row = attachment_row(activity, 0, &message.attachments[0], b"hi");
    assert_eq!(row["body"], "aGk=");
    assert_eq!(
        row["objectid_activitypointer@odata.bind"],
        format!("/activitypointers({activity})")
    );
    assert_eq!(row["attachmentcontentid"], "c");
    assert_eq!(
        row,
        attachment_row(activity, 0, &message.attachments[0], b"hi")
    );
}

proptest! {
    #[test]
    fn the_recipient_list_has_as_many_whole_addresses_as_fit(names in proptest::collection::vec("[a-zü'+%]{1,60}|😀{1,150}|\"[a;,b]{1,20}\"|x{230,306}", 0..40)) {
        let addresses: Vec<EmailAddress> = names.iter().filter_map(|name| EmailAddress::parse(&format!("{name}@example.com"))).collect();
        prop_assert_eq!(addresses.len(), names.len());
        // The same rule in other words: of the addresses that can be in a list, the longest prefix
        // that fits.
        let listed: Vec<&str> = addresses.iter().map(EmailAddress::as_str).filter(|address| !address.contains(';')).collect();
        let fitting = (0..=listed.len()).rev().map(|n| listed[..n].join(";")).find(|text| text.encode_utf16().count() <= 500);
        prop_assert_eq!(Some(to_recipients(&addresses)), fitting);
    }

    #[test]
    fn mapped_text_never_exceeds_its_column(text in any::<String>(), limit in 0..50_usize) {
        let short = cut(&text, limit);
        prop_assert!(text.starts_with(short) && length(short) <= limit);
        prop_assert!(short.len() == text.len() || length(short) + 2 > limit);
        prop_assert!(!without_forbidden(&text).chars().any(|c| c == '\0'));
        prop_assert!(length(&subject(&text)) <= SUBJECT_LENGTH && !subject(&text).is_empty());
    }
}

#[test]
fn the_creation_date_is_written_only_if_it_was_set() {
    let message = message(&json!({"id": "m", "date": "2024-02-29T23:59:59-05:00"}));
    let mut row = email(&message, &findings(Direction::Incoming));
    assert!(!row.row.contains_key("overriddencreatedon"));
    assert!(!without_created_on(&mut row));
    set_created_on(&mut row, message.date.unwrap());
    assert_eq!(row.row["overriddencreatedon"], "2024-03-01T04:59:59Z");
    assert_eq!(row.row["overriddencreatedon"], row.row["actualend"]);
    assert!(without_created_on(&mut row));
    assert!(!row.row.contains_key("overriddencreatedon"));
}

#[test]
fn a_value_longer_than_its_column_in_this_organisation_is_cut_by_the_columns_rule() {
    let fitted = |column: &str, text: &str, limit: usize| {
        let (table, ..) = LENGTHS
            .into_iter()
            .find(|(_, it, _)| *it == column)
            .unwrap();
        let mut lengths = Lengths::default();
        lengths.set(table, column, limit);
        let row = Map::from_iter([(column.to_owned(), Value::from(text))]);
        let of = |table: &str| {
            if table == "email" {
                row.clone()
            } else {
                Map::new()
            }
        };
        let mut email = EmailWrite {
            activity_id: ActivityId::new(Uuid::nil()),
            row: of(table),
            attachments: if table == "activitymimeattachment" {
                vec![row.clone()]
            } else {
                Vec::new()
            },
            completion: Map::new(),
        };
        let changed = fit(&mut email, &lengths);
        let row = email.attachments.first().unwrap_or(&email.row);
        let left = row.get(column).and_then(Value::as_str).map(str::to_owned);
        assert_eq!(changed, left.as_deref() != Some(text));
        assert!(left.as_deref().is_none_or(|left| length(left) <= limit));
        assert!(
            !fit(&mut email, &lengths),
            "a second call must change nothing"
        );
        left
    };
    for (column, text, limit, expected) in [
        ("subject", "Kites", 5, Some("Kites")),
        ("subject", "Kites", 4, Some("Kite")),
        ("subject", "Ki🪁", 3, Some("Ki")),
        ("torecipients", "a@x;b@x;c@x", 8, Some("a@x;b@x")),
        ("torecipients", "a@x;b@x;c@x", 7, Some("a@x;b@x")),
        ("torecipients", "a@x;b@x;c@x", 6, Some("a@x")),
        ("torecipients", "a@x;b@x", 2, None),
        ("sender", "a@x", 2, None),
        ("messageid", "<a@x>", 4, None),
        ("filename", "kites.pdf", 7, Some("kit.pdf")),
        ("filename", "kites.pdf", 3, Some("kit")),
        ("filename", "kites", 3, Some("kit")),
        ("mimetype", "text/plain", 4, Some("text")),
        ("attachmentcontentid", "logo@kites", 4, None),
    ] {
        assert_eq!(
            fitted(column, text, limit).as_deref(),
            expected,
            "{column} {limit}"
        );
    }
}
