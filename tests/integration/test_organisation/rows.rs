//! Rows as the Dataverse emulator shows them.

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A party as a test sees it: participation type mask, address, and the row that it refers to.
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

/// Returns a party that refers to a row.
pub(crate) fn bound(mask: i64, address: &str, table: &str, id: Uuid) -> PartyView {
    (mask, address.to_owned(), Some((table.to_owned(), id)))
}

/// Returns a party that is only an address.
pub(crate) fn unbound(mask: i64, address: &str) -> PartyView {
    (mask, address.to_owned(), None)
}

/// Returns a lookup as the Dataverse emulator shows it.
pub(crate) fn to_row(table: &str, id: Uuid) -> Value {
    json!({"table": table, "id": id})
}
