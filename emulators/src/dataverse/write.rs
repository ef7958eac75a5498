//! What create, update and delete do to the rows (Dataverse facts §2, §3, §7 and §19 rules 2, 5, 6,
//! 9).
//!
//! The order of checks: first the names and types of the whole body, then the meaning of each
//! value, then whether the key is free. So a repeated create with a valid body always ends in 412.

use serde_json::{Value, json};
use uuid::Uuid;

use super::defaults::add_computed;
use super::org::Work;
use super::payload::{self, Payload};
use super::privileges::Privilege;
use super::refusal::Refusal;
use super::schema::{Column, Table};
use super::state;
use super::store::{Row, Values, lookup_value};

impl Work<'_> {
    /// Creates a row with its defaults, parties and attachment count, and returns its id.
    pub(crate) fn create(
        &mut self,
        table: &Table,
        body: &Value,
        id: Option<Uuid>,
    ) -> Result<Uuid, Refusal> {
        let payload = payload::read(table, body)?;
        self.require(Privilege::Create, &table.name)?;
        self.refuse_email(table, body)?;
        let chosen = payload
            .value(&table.key)
            .and_then(Value::as_str)
            .and_then(|text| Uuid::try_parse(text).ok());
        let id = id
            .or(chosen)
            .filter(|id| !id.is_nil())
            .unwrap_or_else(Uuid::new_v4);
        let mut values = self.writable(table, &payload, "create")?;
        if let Some((state, status)) = state::on_create(table, payload.number("statuscode"), id)? {
            values.insert("statecode".to_owned(), json!(state));
            values.insert("statuscode".to_owned(), json!(status));
        }
        if let Some(created) = values
            .get("overriddencreatedon")
            .filter(|value| !value.is_null())
            .cloned()
        {
            if !self.org.settings.may_override_created_on {
                let message = "Principal user is missing prvOverrideCreatedOnCreatedBy privilege.";
                return Err(Refusal::new(403, "0x80040220", message));
            }
            // `createdon` shows the requested time, `overriddencreatedon` the real one (inferred).
            values.insert("createdon".to_owned(), created);
            values.insert("overriddencreatedon".to_owned(), self.now_text());
        }
        self.add_defaults(table, id, &mut values);
        if table.name == "activitymimeattachment" {
            self.complete_attachment(&mut values)?;
        }
        self.insert(table, id, values)?;
        if table.is_activity() {
            self.add_parties(table, id, payload.parties.as_deref().unwrap_or_default())?;
        }
        if table.name == "activitymimeattachment" {
            self.count_attachments(id);
        }
        Ok(id)
    }

    /// Updates an existing row.
    pub(crate) fn update(
        &mut self,
        table: &Table,
        id: Uuid,
        row: &Row,
        body: &Value,
    ) -> Result<(), Refusal> {
        let payload = payload::read(table, body)?;
        self.require(Privilege::Write, &table.name)?;
        refuse_parties(table, &payload)?;
        refuse_closed(table, id, row, &payload)?;
        let mut values = self.writable(table, &payload, "update")?;
        let asked = (payload.number("statecode"), payload.number("statuscode"));
        let current_state = row.get("statecode").as_i64().unwrap_or_default();
        if let Some((state, status)) = state::on_update(table, current_state, asked, id)? {
            values.insert("statecode".to_owned(), json!(state));
            values.insert("statuscode".to_owned(), json!(status));
        }
        let mut after = row.values.clone();
        after.extend(values);
        if table.columns.contains_key("modifiedon") {
            after.insert("modifiedon".to_owned(), self.now_text());
        }
        if table.columns.contains_key("modifiedby") {
            let user = lookup_value("systemuser", self.org.caller.user);
            after.insert("modifiedby".to_owned(), user);
        }
        if table.columns.contains_key("modifiedonbehalfby") {
            let application = self.org.caller.on_behalf;
            let application = application.map(|user| lookup_value("systemuser", user));
            after.insert(
                "modifiedonbehalfby".to_owned(),
                application.unwrap_or_default(),
            );
        }
        add_computed(table, &mut after);
        self.check_alternate_keys(table, id, &after)?;
        self.check_message_id(table, id, &after)?;
        if table.name == "activitymimeattachment" {
            self.complete_attachment(&mut after)?;
        }
        self.org.store.set(&table.name, id, Some(after));
        if table.is_activity() {
            self.renew_platform_parties(table, id);
        }
        Ok(())
    }

    /// Creates the row of a PATCH whose row does not exist.
    pub(crate) fn create_by_patch(
        &mut self,
        table: &Table,
        id: Uuid,
        body: &Value,
    ) -> Result<(), Refusal> {
        refuse_parties(table, &payload::read(table, body)?)?;
        self.create(table, body, Some(id)).map(|_| ())
    }

    /// Rejects an email as a plug-in of the organisation would, if the settings request it.
    fn refuse_email(&self, table: &Table, body: &Value) -> Result<(), Refusal> {
        let subject = body["subject"].as_str().unwrap_or_default();
        match &self.org.settings.refused_emails {
            Some(refused) if table.name == "email" && subject.contains(refused.subject) => Err(
                Refusal::new(refused.status, refused.code, "A plug-in refused the email."),
            ),
            _ => Ok(()),
        }
    }

    /// Deletes a row. The parties and attachments of an activity are deleted with it.
    pub(crate) fn delete(&mut self, table: &Table, id: Uuid) -> Result<(), Refusal> {
        let row = self
            .org
            .store
            .get(&table.name, id)
            .ok_or_else(|| Refusal::no_row(&table.name, id))?;
        self.require(Privilege::Delete, &table.name)?;
        if table.name == "activitymimeattachment" {
            self.refuse_closed_owner(&row.values)?;
        }
        self.org.store.set(&table.name, id, None);
        if table.is_activity() {
            self.remove_children("activityparty", id);
            self.remove_children("activitymimeattachment", id);
        }
        if table.name == "activitymimeattachment"
            && let Some((owner_table, owner)) = row.lookup("objectid")
        {
            self.recount_attachments(&owner_table, owner);
        }
        self.mark_deleted_parties(&table.name, id);
        Ok(())
    }

    /// Returns the values of a body that may be written. The others are dropped and recorded.
    fn writable(
        &mut self,
        table: &Table,
        payload: &Payload<'_>,
        operation: &'static str,
    ) -> Result<Values, Refusal> {
        let valid = |column: &Column| match operation {
            "create" => column.valid_for_create,
            _ => column.valid_for_update,
        };
        let mut values = Values::new();
        for (column, value) in &payload.values {
            if valid(column) {
                values.insert(column.name.clone(), value.clone());
            } else {
                self.drop_value(&table.name, &column.name, operation);
            }
        }
        let mut bound: Vec<&str> = Vec::new();
        for (navigation, value) in &payload.binds {
            if bound.contains(&navigation.column.as_str()) {
                let detail = format!(
                    "the lookup '{}' is bound more than once.",
                    navigation.column
                );
                return Err(Refusal::payload(&table.set, detail));
            }
            bound.push(&navigation.column);
            let lookup = self.resolve(table, navigation, value)?;
            if table.columns.get(&navigation.column).is_some_and(valid) {
                values.insert(navigation.column.clone(), lookup);
            } else {
                self.drop_value(&table.name, &navigation.column, operation);
            }
        }
        Ok(values)
    }

    fn remove_children(&mut self, table: &str, parent: Uuid) {
        for (id, _) in self.org.store.children(table, parent) {
            self.org.store.set(table, id, None);
        }
    }

    /// Marks the parties that refer to a deleted record. They are kept (Dataverse facts §2.3; the
    /// flag is inferred).
    fn mark_deleted_parties(&mut self, table: &str, id: Uuid) {
        for (party, row) in self.org.store.rows("activityparty") {
            if row
                .lookup("partyid")
                .is_some_and(|(of, target)| of == table && target == id)
            {
                let mut values = row.values.clone();
                values.insert("ispartydeleted".to_owned(), json!(true));
                self.org.store.set("activityparty", party, Some(values));
            }
        }
    }
}

/// Rejects deep insert in a PATCH, which is not supported (Dataverse facts §7.1 and §19 rule 6).
fn refuse_parties(table: &Table, payload: &Payload<'_>) -> Result<(), Refusal> {
    if payload.parties.is_none() {
        return Ok(());
    }
    let detail = "a collection-valued navigation property cannot be written by PATCH.";
    Err(Refusal::payload(&table.set, detail))
}

/// Rejects every change of a completed or cancelled activity except another regarding.
///
/// This is the cautious reading of an *unknown* (Dataverse facts §3.2 and §19 rule 9), and so is
/// the code, "invalid activity state".
fn refuse_closed(table: &Table, id: Uuid, row: &Row, payload: &Payload<'_>) -> Result<(), Refusal> {
    let only_regarding = payload.values.is_empty()
        && payload
            .binds
            .iter()
            .all(|(navigation, _)| navigation.column == "regardingobjectid");
    if is_closed(table, row) && !only_regarding {
        Err(closed(&table.name, id))
    } else {
        Ok(())
    }
}

/// Returns whether a row is a completed or cancelled activity.
pub(crate) fn is_closed(table: &Table, row: &Row) -> bool {
    table.is_activity() && row.get("statecode").as_i64().unwrap_or_default() != 0
}

/// Returns the error for a change of a closed activity.
pub(crate) fn closed(table: &str, id: Uuid) -> Refusal {
    Refusal::new(
        400,
        "0x80043500",
        format!("Invalid activity state: {table} {id} is closed or cancelled."),
    )
}
