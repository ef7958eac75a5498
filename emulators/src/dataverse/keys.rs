//! Which row a key names, and that no two rows have the same key (Dataverse facts §7).

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::org::{Org, Work};
use super::path::Key;
use super::refusal::Refusal;
use super::schema::{KeyStatus, Table};
use super::store::{MESSAGE_ID, Row, Values};

impl Org {
    /// Builds the indexes that are due. An index fails if two rows have the same values (inferred).
    pub(crate) fn finish_key_indexes(&mut self) {
        let now = self.clock.now();
        let mut finished: Vec<(String, usize, KeyStatus)> = Vec::new();
        for table in self.schema.tables() {
            for (place, key) in table.alternate_keys.iter().enumerate() {
                if key.status == KeyStatus::Pending && key.ready <= now {
                    let status = if self.has_duplicates(&table.name, &key.columns) {
                        KeyStatus::Failed
                    } else {
                        KeyStatus::Active
                    };
                    finished.push((table.name.clone(), place, status));
                }
            }
        }
        for (table, place, status) in finished {
            let table = Arc::make_mut(&mut self.schema).table_mut(&table);
            if let Some(key) = table.and_then(|table| table.alternate_keys.get_mut(place)) {
                key.status = status;
            }
        }
    }

    fn has_duplicates(&self, table: &str, columns: &[String]) -> bool {
        let mut seen = HashSet::new();
        self.store.rows(table).into_iter().any(|(_, row)| {
            let values: Vec<String> = columns
                .iter()
                .filter_map(|column| row.values.get(column))
                .map(key_text)
                .collect();
            values.len() == columns.len() && !seen.insert(values)
        })
    }
}

impl Work<'_> {
    /// Returns the id of the row that a key names.
    pub(crate) fn find(&self, table: &Table, key: &Key) -> Result<Uuid, Refusal> {
        let pairs = match key {
            Key::Id(id) if self.org.store.contains(&table.name, *id) => return Ok(*id),
            Key::Id(id) => return Err(Refusal::no_row(&table.name, *id)),
            Key::Alternate(pairs) => columns_of(table, pairs)?,
        };
        let mut columns: Vec<&str> = pairs.iter().map(|(column, _)| column.as_str()).collect();
        columns.sort_unstable();
        // A key names no row before its index is finished (inferred).
        if !table.active_keys().any(|key| {
            key.columns
                .iter()
                .map(String::as_str)
                .eq(columns.iter().copied())
        }) {
            let message = format!(
                "The key ({}) is not a key of the entity {}.",
                columns.join(", "),
                table.name
            );
            return Err(Refusal::query(message));
        }
        // Values with these characters break the address (Dataverse facts §7.2); the code is
        // inferred.
        if pairs
            .iter()
            .any(|(_, value)| value.contains(['/', '<', '>', '*', '%', '&', ':', '\\', '?', '+']))
        {
            return Err(Refusal::query("Bad Request - Error in query syntax."));
        }
        let matches = |row: &Row| {
            pairs
                .iter()
                .all(|(column, value)| same_key_value(row.get(column), value))
        };
        let found = self
            .org
            .store
            .rows(&table.name)
            .into_iter()
            .find(|(_, row)| matches(row));
        found.map(|(id, _)| id).ok_or_else(|| {
            let message = format!(
                "A record with the specified key values does not exist in {} entity",
                table.name
            );
            Refusal::new(404, "0x80060891", message)
        })
    }

    /// Inserts a complete row into the table, if its keys are free.
    pub(crate) fn insert(
        &mut self,
        table: &Table,
        id: Uuid,
        values: Values,
    ) -> Result<(), Refusal> {
        // All activities share one base table, so their ids are unique across all activity tables.
        let is_taken = self.org.store.contains(&table.name, id)
            || (table.is_activity() && self.activity_table(id).is_some());
        if is_taken {
            return Err(taken());
        }
        self.check_alternate_keys(table, id, &values)?;
        self.check_message_id(table, id, &values)?;
        self.org.store.set(&table.name, id, Some(values));
        Ok(())
    }

    /// Rejects a `messageid` that another email has, whatever its state (Dataverse facts §7.3 and
    /// §19 rule 5).
    ///
    /// Inferred: that this holds for a plain create, that the comparison ignores case, and the
    /// code.
    pub(crate) fn check_message_id(
        &self,
        table: &Table,
        id: Uuid,
        values: &Values,
    ) -> Result<(), Refusal> {
        let message_id = values.get(MESSAGE_ID).and_then(Value::as_str);
        let Some(message_id) = message_id.filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        let is_unique = table.name == "email" && self.org.settings.unique_message_ids;
        if is_unique && self.org.store.has_message_id(message_id, id) {
            return Err(taken());
        }
        Ok(())
    }

    /// Rejects values that another row has in all columns of a key.
    pub(crate) fn check_alternate_keys(
        &self,
        table: &Table,
        id: Uuid,
        values: &Values,
    ) -> Result<(), Refusal> {
        for key in table.active_keys().map(|key| &key.columns) {
            let wanted: Vec<String> = key
                .iter()
                .filter_map(|column| values.get(column))
                .map(key_text)
                .collect();
            if wanted.len() < key.len() {
                // Rows with null in a key column are not kept unique.
                continue;
            }
            let taken = self
                .org
                .store
                .rows(&table.name)
                .into_iter()
                .any(|(other, row)| {
                    other != id
                        && key
                            .iter()
                            .map(|column| key_text(row.get(column)))
                            .eq(wanted.iter().cloned())
                });
            if taken {
                let message = format!(
                    "Entity Key {} violated. A record with the same value for {} already exists. A duplicate record \
                     cannot be created. Select one or more unique values and try again.",
                    key.join("_"),
                    key.join(", ")
                );
                return Err(Refusal::new(412, "0x80060892", message));
            }
        }
        Ok(())
    }
}

/// Returns the error for a row whose key another row has. Its text is about key values in general
/// (Dataverse facts §7.1).
fn taken() -> Refusal {
    let message = "A record with matching key values already exists.";
    Refusal::new(412, "0x80040237", message)
}

/// Returns the columns of a key in an address. An address names a lookup by its property (Dataverse
/// facts §7.2).
fn columns_of(table: &Table, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, Refusal> {
    let column = |(name, value): &(String, String)| {
        let column = table.property(name);
        let column = column.ok_or_else(|| Refusal::unknown_column(&table.name, name))?;
        Ok((column.name.clone(), value.clone()))
    };
    pairs.iter().map(column).collect()
}

/// Returns the form of a value that is compared: in lower case, as the database ignores case
/// (inferred).
fn key_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_lowercase(),
        other => other.get("id").unwrap_or(other).to_string().to_lowercase(),
    }
}

fn same_key_value(stored: &Value, asked: &str) -> bool {
    key_text(stored).trim_matches('"') == asked.to_lowercase()
}
