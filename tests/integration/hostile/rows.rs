//! Checks that hold for every stored row, whatever the message contained.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use emulators::Emulators;
use serde_json::Value;
use uuid::Uuid;

use super::corpus::Case;
use super::mailbox::FILE;

/// Maximum lengths in UTF-16 code units (Dataverse facts §2.1, §4, §5).
const EMAIL: [(&str, usize); 5] = [
    ("subject", 800),
    ("sender", 250),
    ("torecipients", 500),
    ("messageid", 320),
    ("description", 1_073_741_823),
];
const ATTACHMENT: [(&str, usize); 3] = [
    ("filename", 255),
    ("mimetype", 256),
    ("attachmentcontentid", 250),
];
const PARTY: [(&str, usize); 1] = [("addressused", 320)];

/// Asserts that the row is complete and completed, that its texts fit their columns, and that it
/// contains no address or file that the message does not have.
pub(super) fn assert_sound(emulators: &Emulators, id: Uuid, case: &Case) {
    let dataverse = emulators.dataverse();
    let email = dataverse.row("email", id).unwrap();
    let name = &case.name;
    assert_eq!(email["statecode"], 1, "{name}");
    assert_texts(&email, &EMAIL, name);
    let subject = email["subject"].as_str().unwrap();
    assert!(
        !subject.is_empty() && !subject.contains(char::is_control),
        "{name}: {subject:?}"
    );

    let object = case.object().unwrap();
    let from = addresses(&object, &["from"]);
    let to = addresses(&object, &["to"]);
    let all = addresses(&object, &["from", "to", "cc", "bcc"]);
    if let Some(sender) = email["sender"].as_str() {
        assert!(from.contains(sender), "{name}: {sender}");
    }
    let listed = email["torecipients"].as_str().unwrap_or_default();
    for address in listed.split(';').filter(|_| !listed.is_empty()) {
        assert!(
            to.contains(address),
            "{name}: {address} is listed but is not a recipient of the message"
        );
    }
    for party in dataverse.parties(id) {
        assert_texts(&party, &PARTY, name);
        if party["participationtypemask"].as_i64() <= Some(4) {
            let address = party["addressused"].as_str().unwrap();
            assert!(
                all.contains(address),
                "{name}: the party {address} is not an address of the message"
            );
        }
    }
    for file in dataverse.attachments(id) {
        assert_texts(&file, &ATTACHMENT, name);
        let stored = file["filename"].as_str().unwrap();
        let reserved = |c: char| c.is_control() || "\\/:*?\"<>|".contains(c);
        assert!(
            !stored.is_empty() && !stored.contains(reserved),
            "{name}: {stored:?}"
        );
        assert_eq!(file["body"], STANDARD.encode(FILE), "{name}: {stored:?}");
    }
}

fn assert_texts(row: &Value, columns: &[(&str, usize)], name: &str) {
    let forbidden = |c: char| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    for (column, longest) in columns {
        let text = row[column].as_str().unwrap_or_default();
        let length = text.encode_utf16().count();
        assert!(length <= *longest, "{name}: {column} has {length}");
        assert!(!text.contains(forbidden), "{name}: {column} is {text:?}");
    }
}

/// Returns every text that the message has as an address in these fields, trimmed and in lower
/// case.
fn addresses(object: &Value, fields: &[&str]) -> HashSet<String> {
    let people = fields.iter().filter_map(|field| object[field].as_array());
    people
        .flatten()
        .filter_map(|person| person["email"].as_str())
        .map(|address| address.trim().to_lowercase())
        .collect()
}
