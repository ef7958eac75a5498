//! Resolves the row that an `@odata.bind` refers to (Dataverse facts §6 and §19 rule 8).

use serde_json::Value;
use uuid::Uuid;

use super::org::Work;
use super::path::{self, Key};
use super::privileges::Privilege;
use super::refusal::Refusal;
use super::schema::{Navigation, Table};
use super::store::lookup_value;

impl Work<'_> {
    /// Returns the lookup to store for one `@odata.bind`; null clears the lookup.
    ///
    /// A missing row is 404 / 0x80040217. An entity set that does not fit the navigation name is
    /// 400 / 0x80048d19 (inferred).
    pub(crate) fn resolve(
        &self,
        table: &Table,
        navigation: &Navigation,
        value: &Value,
    ) -> Result<Value, Refusal> {
        let Some(address) = value.as_str() else {
            return Ok(Value::Null);
        };
        let (bound_table, id) = match address.strip_prefix('$') {
            Some(content_id) => self.reference(content_id)?,
            None => self.address(table, navigation, address)?,
        };
        let target = navigation.target.as_str();
        let fits = match target {
            "owner" | "principal" => matches!(bound_table.as_str(), "systemuser" | "team"),
            "activitypointer" => self
                .schema
                .table(&bound_table)
                .is_some_and(Table::is_activity),
            // A stored file is referred to by the attachment that has it (Dataverse facts §4.2).
            "attachment" => bound_table == "activitymimeattachment",
            other => bound_table == other,
        };
        if !fits {
            let detail = format!(
                "'{}' does not lead to '{target}', which '{}' wants.",
                address, navigation.name
            );
            return Err(Refusal::payload(&table.set, detail));
        }
        if !self.org.store.contains(&bound_table, id) {
            return Err(Refusal::no_row(&bound_table, id));
        }
        if navigation.column == "ownerid" {
            if id != self.org.caller.user {
                self.require(Privilege::Assign, &table.name)?;
            }
        } else {
            self.require(Privilege::Append, &table.name)?;
            self.require(Privilege::AppendTo, &bound_table)?;
        }
        Ok(lookup_value(&bound_table, id))
    }

    /// Returns the table and id of the row that an earlier operation of the change set created
    /// under this Content-ID.
    pub(crate) fn reference(&self, content_id: &str) -> Result<(String, Uuid), Refusal> {
        self.references.get(content_id).cloned().ok_or_else(|| {
            Refusal::query(format!(
                "Content-ID Reference: '${content_id}' does not exist in the batch context."
            ))
        })
    }

    fn address(
        &self,
        table: &Table,
        navigation: &Navigation,
        address: &str,
    ) -> Result<(String, Uuid), Refusal> {
        let malformed = || {
            Refusal::payload(
                &table.set,
                format!("'{address}' is not the address of a row."),
            )
        };
        let relative = path::below_root(address)
            .or_else(|| address.strip_prefix('/'))
            .unwrap_or(address);
        let (set, key) = path::set_and_key(relative).ok_or_else(malformed)?;
        let id = match key {
            Some(Key::Id(id)) => id,
            Some(Key::Alternate(_)) => return self.by_alternate_key(&set, key.as_ref()),
            None => return Err(malformed()),
        };
        if set == "activitypointers" {
            return Ok((
                self.activity_table(id)
                    .ok_or_else(|| Refusal::no_row("activitypointer", id))?,
                id,
            ));
        }
        match self.schema.set(&set) {
            Some(bound) => Ok((bound.name.clone(), id)),
            // The emulator has no rows of a table that it does not store. Any other unknown set is
            // a wrong name.
            None if self.schema.table(&navigation.target).is_none() => {
                Err(Refusal::no_row(&navigation.target, id))
            }
            None => Err(Refusal::payload(
                &table.set,
                format!("Resource not found for the segment '{set}'."),
            )),
        }
    }

    fn by_alternate_key(&self, set: &str, key: Option<&Key>) -> Result<(String, Uuid), Refusal> {
        let bound = self
            .schema
            .set(set)
            .ok_or_else(|| Refusal::no_segment(set))?;
        match key {
            Some(key) => Ok((bound.name.clone(), self.find(bound, key)?)),
            None => Err(Refusal::no_segment(set)),
        }
    }

    /// Returns the table of the activity with this id, or `None` if there is no such activity.
    pub(crate) fn activity_table(&self, id: Uuid) -> Option<String> {
        let mut activities = self.schema.tables().filter(|table| table.is_activity());
        activities
            .find(|table| self.org.store.contains(&table.name, id))
            .map(|table| table.name.clone())
    }
}
