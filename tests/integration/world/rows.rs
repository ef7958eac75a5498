//! Rows as the twin shows them.

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A party as a test looks at it: mask, address, and the row it is bound to.
pub(crate) type PartyView = (i64, String, Option<(String, Uuid)>);

pub(crate) fn id_of(email: &Value) -> Uuid {
    email["activityid"].as_str().unwrap().parse().unwrap()
}

pub(super) fn view(party: &Value) -> PartyView {
    let bound = party["partyid"].as_object().map(|to: &Map<String, Value>| {
        let id = to["id"].as_str().unwrap().parse().unwrap();
        (to["table"].as_str().unwrap().to_owned(), id)
    });
    (
        party["participationtypemask"].as_i64().unwrap(),
        party["addressused"].as_str().unwrap_or_default().to_owned(),
        bound,
    )
}

/// A party that is bound to a row.
pub(crate) fn bound(mask: i64, address: &str, table: &str, id: Uuid) -> PartyView {
    (mask, address.to_owned(), Some((table.to_owned(), id)))
}

/// A party that is an address and nothing else.
pub(crate) fn unbound(mask: i64, address: &str) -> PartyView {
    (mask, address.to_owned(), None)
}

/// A lookup as the twin shows it.
pub(crate) fn to_row(table: &str, id: Uuid) -> Value {
    json!({"table": table, "id": id})
}
