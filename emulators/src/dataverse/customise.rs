//! What a customised organisation has in addition to the standard tables, and what other clients do
//! in it.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Dataverse;
use super::definitions;
use super::schema::{Column, Kind};
use super::seed::SeedError;
use crate::lock::lock;

impl Dataverse {
    /// Adds a custom table, such as `new_project`, with a name column, states, and one lookup to
    /// the given tables.
    ///
    /// With `has_activities`, emails can have its rows as regarding record, and bind them by the
    /// names of its relationships (Dataverse facts §6).
    ///
    /// # Errors
    /// [`SeedError`] if the table exists already.
    pub fn add_table(
        &self,
        name: &str,
        lookup: (&str, &[&str]),
        has_activities: bool,
    ) -> Result<(), SeedError> {
        let mut org = lock(&self.org);
        if org.schema.table(name).is_some() {
            return Err(SeedError::Malformed {
                why: format!("the table {name} exists already"),
            });
        }
        let (column, targets) = lookup;
        let type_name = if targets.len() == 1 {
            "Lookup"
        } else {
            "Customer"
        };
        let lookup = Column {
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            ..Column::custom(column, Kind::Lookup, type_name)
        };
        let title = Column {
            max_length: Some(100),
            ..Column::custom(&format!("{}name", prefix(name)), Kind::Text, "String")
        };
        definitions::add_table(
            Arc::make_mut(&mut org.schema),
            name,
            title,
            vec![lookup],
            has_activities,
        );
        Ok(())
    }

    /// Adds an email as server-side synchronization does when it tracks a received message:
    /// completed at once, with its Message-ID in angle brackets and without a regarding record.
    /// Returns its id.
    ///
    /// `changes` add or replace columns; null removes a column.
    ///
    /// # Errors
    /// [`SeedError`] if a column is unknown, if a value does not fit, or if another email has the
    /// Message-ID ([`Setting::UniqueMessageIds`](super::Setting::UniqueMessageIds)). In the last
    /// case, server-side synchronization skips the message.
    pub fn track_by_server_side_sync(
        &self,
        message_id: &str,
        sender: &str,
        changes: &Value,
    ) -> Result<Uuid, SeedError> {
        let mut row = json!({
            "subject": "Tracked by server-side synchronisation", "messageid": message_id, "sender": sender, "directioncode": false,
            "statecode": 1, "statuscode": 4,
        });
        if let (Some(row), Some(changes)) = (row.as_object_mut(), changes.as_object()) {
            for (column, value) in changes {
                row.insert(column.clone(), value.clone());
            }
            row.retain(|_, value| !value.is_null());
        }
        self.insert("email", row)
    }
}

/// Returns the publisher's prefix, with its underscore.
fn prefix(name: &str) -> &str {
    name.split_inclusive('_').next().unwrap_or_default()
}
