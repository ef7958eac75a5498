//! The parties of an activity (Dataverse facts §5 and §19 rule 7).
//!
//! Parties are sent with the POST of their activity or by PUT of the whole collection, never
//! separately. The platform adds two: the owner (mask 9) and the regarding record (mask 8). They
//! come after the sent ones (inferred) and follow later changes.

use serde_json::{Value, json};
use uuid::Uuid;

use super::org::Work;
use super::payload::{self, Payload};
use super::refusal::Refusal;
use super::schema::Table;
use super::store::{Values, lookup_value};
use super::write;

const SENDER: i64 = 1;
const REGARDING: i64 = 8;
const OWNER: i64 = 9;

/// Returns whether the platform adds the parties with this mask.
pub(crate) fn is_platform(mask: &Value) -> bool {
    matches!(mask.as_i64(), Some(REGARDING | OWNER))
}

/// The tables that a party of an email can refer to: those of the base installation and of the
/// Dynamics 365 apps.
const EMAIL_PARTY_TYPES: [&str; 8] = [
    "account",
    "contact",
    "entitlement",
    "equipment",
    "knowledgearticle",
    "lead",
    "queue",
    "systemuser",
];

impl Work<'_> {
    /// Adds the parties that were sent with a new activity, and those of the platform.
    pub(crate) fn add_parties(
        &mut self,
        activity: &Table,
        id: Uuid,
        entries: &[Value],
    ) -> Result<(), Refusal> {
        let schema = self.schema.clone();
        let Some(table) = schema.table("activityparty") else {
            return Ok(());
        };
        let mut senders = 0;
        for entry in entries {
            let values = self.party(table, activity, entry)?;
            senders += i32::from(
                values.get("participationtypemask").and_then(Value::as_i64) == Some(SENDER),
            );
            if senders > 1 {
                return Err(Refusal::new(
                    400,
                    "0x80040B01",
                    "More than one sender specified",
                ));
            }
            self.insert_party(table, activity, id, values)?;
        }
        self.note_sender(activity, id);
        self.renew_platform_parties(activity, id);
        Ok(())
    }

    /// Replaces all parties by those of a PUT of the collection.
    pub(crate) fn replace_parties(
        &mut self,
        activity: &Table,
        id: Uuid,
        body: &Value,
    ) -> Result<(), Refusal> {
        let row = self
            .org
            .store
            .get(&activity.name, id)
            .ok_or_else(|| Refusal::no_row(&activity.name, id))?;
        if write::is_closed(activity, &row) {
            return Err(write::closed(&activity.name, id));
        }
        let entries = body.get("value").and_then(Value::as_array).ok_or_else(|| {
            Refusal::payload(
                "activityparties",
                "the body must be an object with an array called 'value'.",
            )
        })?;
        for (party, _) in self.parties_of(id) {
            self.org.store.set("activityparty", party, None);
        }
        self.add_parties(activity, id, entries)
    }

    /// Returns ids and masks of an activity's parties, in order.
    fn parties_of(&self, activity: Uuid) -> Vec<(Uuid, i64)> {
        let parties = self
            .org
            .store
            .children("activityparty", activity)
            .into_iter();
        parties
            .map(|(id, row)| {
                (
                    id,
                    row.get("participationtypemask")
                        .as_i64()
                        .unwrap_or_default(),
                )
            })
            .collect()
    }

    /// Returns the checked values of one entry.
    fn party(&mut self, table: &Table, activity: &Table, entry: &Value) -> Result<Values, Refusal> {
        let payload = payload::read(table, entry)?;
        let mask = payload.number("participationtypemask").ok_or_else(|| {
            Refusal::new(
                400,
                "0x80040B06",
                "Participation type is missing from an activity",
            )
        })?;
        // Dataverse facts §5: clients may send masks 1 to 4 for an email; the code is inferred.
        if activity.name == "email" && !(1..=4).contains(&mask) {
            return Err(Refusal::argument(format!(
                "Participation type {mask} is not allowed on an email."
            )));
        }
        let mut values = Values::new();
        for (column, value) in &payload.values {
            if column.valid_for_create {
                values.insert(column.name.clone(), value.clone());
            } else {
                self.drop_value(&table.name, &column.name, "create");
            }
        }
        if let Some(person) = self.person(table, activity, &payload)? {
            values.insert("partyid".to_owned(), person);
        } else if payload
            .value("addressused")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            // The name of the code is verified; that this causes it is inferred.
            return Err(Refusal::new(
                400,
                "0x80043504",
                "Activity party object Id or type is missing",
            ));
        }
        Ok(values)
    }

    /// Returns the record that an entry binds; `None` if it binds none.
    fn person(
        &self,
        table: &Table,
        activity: &Table,
        payload: &Payload<'_>,
    ) -> Result<Option<Value>, Refusal> {
        let mut person = None;
        for (navigation, value) in &payload.binds {
            if navigation.column != "partyid" || person.is_some() {
                let detail = format!(
                    "'{}' cannot be bound here: a party belongs to the activity around it and \
                                      stands for one record.",
                    navigation.name
                );
                return Err(Refusal::payload(&table.set, detail));
            }
            if activity.name == "email" && !EMAIL_PARTY_TYPES.contains(&navigation.target.as_str())
            {
                let message = format!(
                    "Cannot create activity party of specified object type: {}.",
                    navigation.target
                );
                return Err(Refusal::new(400, "0x80043506", message));
            }
            person =
                Some(self.resolve(table, navigation, value)?).filter(|lookup| !lookup.is_null());
        }
        Ok(person)
    }

    fn insert_party(
        &mut self,
        table: &Table,
        activity: &Table,
        of: Uuid,
        mut values: Values,
    ) -> Result<(), Refusal> {
        let chosen = values
            .get(&table.key)
            .and_then(Value::as_str)
            .and_then(|text| Uuid::try_parse(text).ok());
        let id = chosen.unwrap_or_else(Uuid::new_v4);
        values.insert("activityid".to_owned(), lookup_value(&activity.name, of));
        values.insert("ispartydeleted".to_owned(), json!(false));
        self.add_defaults(table, id, &mut values);
        self.insert(table, id, values)
    }

    /// Sets the sender column, which the platform computes from the sender party (Dataverse facts
    /// §2.1).
    fn note_sender(&mut self, activity: &Table, id: Uuid) {
        let sender = self
            .parties_of(id)
            .into_iter()
            .find(|(_, mask)| *mask == SENDER);
        let person = sender
            .and_then(|(party, _)| self.org.store.get("activityparty", party))
            .map(|party| party.get("partyid").clone())
            .unwrap_or_default();
        if activity.name == "email"
            && let Some(row) = self.org.store.get(&activity.name, id)
        {
            let mut values = row.values.clone();
            values.insert("emailsender".to_owned(), person);
            self.org.store.set(&activity.name, id, Some(values));
        }
    }

    /// Updates the sender of an activity after a test inserted one of its parties.
    pub(crate) fn note_party(&mut self, party: Uuid) {
        let schema = self.schema.clone();
        let activity = self
            .org
            .store
            .get("activityparty", party)
            .and_then(|row| row.lookup("activityid"));
        if let Some((table, id)) = activity
            && let Some(activity) = schema.table(&table)
        {
            self.note_sender(activity, id);
        }
    }

    /// Updates the parties for the owner and the regarding record.
    pub(crate) fn renew_platform_parties(&mut self, activity: &Table, id: Uuid) {
        let schema = self.schema.clone();
        let (Some(table), Some(row)) = (
            schema.table("activityparty"),
            self.org.store.get(&activity.name, id),
        ) else {
            return;
        };
        for (column, mask) in [("regardingobjectid", REGARDING), ("ownerid", OWNER)] {
            let present = self
                .parties_of(id)
                .into_iter()
                .find(|(_, of)| *of == mask)
                .map(|(party, _)| party);
            let shown = present.and_then(|party| self.org.store.get("activityparty", party));
            if shown.as_ref().map(|party| party.get("partyid")) == row.values.get(column) {
                continue;
            }
            if let Some(party) = present {
                self.org.store.set("activityparty", party, None);
            }
            if let Some(record) = row.values.get(column) {
                let mut values = Values::new();
                values.insert("participationtypemask".to_owned(), json!(mask));
                values.insert("partyid".to_owned(), record.clone());
                // The key is new, so it cannot be taken.
                let _always_free = self.insert_party(table, activity, id, values);
            }
        }
    }
}
