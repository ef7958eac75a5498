//! Earlier emails that a new message answers: found by the Message-ID of an ancestor, or by the
//! tracking token in the subject.
//!
//! The same query returns their activity parties (`$expand`, Dataverse facts §5), because a message
//! with none of the earlier email's people does not belong to its regarding record.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::clients::dataverse::odata::{any_of, literal, rows};
use crate::clients::dataverse::records::{REGARDING, RecordReference, guid, target};
use crate::clients::http::encoded;
use crate::lookup::request::{LookupRequest, with_message_id};
use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, InternetMessageId};

/// The longest `trackingtoken`, in UTF-16 code units (Dataverse facts §2.1).
pub const LONGEST_TOKEN: usize = 50;

/// How many emails with one token are read, newest first.
///
/// Tokens repeat (Dataverse facts §18) and every answer contains the token, so hundreds of rows may
/// have it. Only the newest is trusted; the others show whether the token was also used for another
/// record.
const EMAILS_A_TOKEN: usize = 10;

/// An email in Dataverse that a new message may belong to. Cancelled emails are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierEmail {
    /// Its primary key.
    pub activity_id: ActivityId,
    /// Whether it is completed, not a draft.
    pub completed: bool,
    /// When its row was created (`createdon`), which decides which email with a token is the
    /// newest.
    pub created: Option<DateTime<Utc>>,
    /// The regarding record.
    pub regarding: Option<RecordReference>,
    /// Sender, To, Cc and Bcc: address and row, each if known.
    pub people: Vec<(Option<EmailAddress>, Option<RecordReference>)>,
}

impl EarlierEmail {
    /// Returns whether this address, or this row, is among its people.
    #[must_use]
    pub fn has(&self, address: &EmailAddress, row: Option<&RecordReference>) -> bool {
        self.people.iter().any(|(known, known_row)| {
            known.as_ref() == Some(address) || (row.is_some() && known_row.as_ref() == row)
        })
    }
}

/// The Message-ID and the tracking token by which a row is found.
pub(crate) struct Names {
    pub message_id: Option<InternetMessageId>,
    pub token: Option<String>,
}

/// Returns the form in which tokens are compared: Dataverse compares without case (Dataverse facts
/// §14).
pub(crate) fn normal(token: &str) -> String {
    token.to_lowercase()
}

pub(crate) fn queries(lookup_request: &LookupRequest) -> Vec<String> {
    let select =
        format!("activityid,createdon,messageid,sender,statecode,trackingtoken,{REGARDING}");
    let people = "email_activity_parties($select=participationtypemask,addressused,_partyid_value)";
    let ancestors = lookup_request.ancestors.iter().map(with_message_id);
    let ancestors = ancestors.filter(|terms| !terms.is_empty());
    let mut queries: Vec<String> = any_of(ancestors)
        .iter()
        .map(|filter| format!("{}&$expand={people}", rows("emails", &select, filter)))
        .collect();
    let newest_first = encoded("createdon desc");
    for token in &lookup_request.tokens {
        let filter = format!("trackingtoken eq {} and statecode ne 2", literal(token));
        let emails = rows("emails", &select, &filter);
        queries.push(format!(
            "{emails}&$expand={people}&$orderby={newest_first}&$top={EMAILS_A_TOKEN}"
        ));
    }
    queries
}

/// Reads a row; `None` if it is cancelled or has no key.
pub(crate) fn read(row: &Value) -> Option<(EarlierEmail, Names)> {
    if row.get("statecode").and_then(Value::as_i64) == Some(2) {
        return None;
    }
    let text = |column: &str| row.get(column).and_then(Value::as_str);
    let parties = row
        .get("email_activity_parties")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    // The platform adds the regarding record and the owner as parties 8 and 9 (Dataverse facts §5);
    // they are neither sender nor recipient.
    let wrote_or_got = parties.filter(|party| {
        let role = party.get("participationtypemask").and_then(Value::as_i64);
        role.is_some_and(|role| (1..=4).contains(&role))
    });
    let people = wrote_or_got.map(|party| {
        let address = party.get("addressused").and_then(Value::as_str);
        (
            address.and_then(EmailAddress::parse),
            target(party, "_partyid_value"),
        )
    });
    let sender = text("sender").and_then(EmailAddress::parse);
    let email = EarlierEmail {
        activity_id: guid(row, "activityid").map(ActivityId::new)?,
        completed: row.get("statecode").and_then(Value::as_i64) == Some(1),
        created: text("createdon").and_then(|time| time.parse().ok()),
        regarding: target(row, REGARDING),
        people: people
            .chain(sender.map(|sender| (Some(sender), None)))
            .collect(),
    };
    let names = Names {
        message_id: text("messageid").and_then(InternetMessageId::from_header),
        token: text("trackingtoken").map(normal),
    };
    Some((email, names))
}
