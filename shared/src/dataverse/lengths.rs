//! How long texts may be in this organisation.
//!
//! Columns are as long as Dataverse makes them until somebody makes one shorter (Dataverse facts §15.1). Who writes goes by Dataverse's lengths and asks for the
//! real ones only when a text was refused for its length (0x80044331): one request, of which nobody with the lengths of the first day ever pays any. What was
//! read is kept for the life of the process, and read anew when a text is refused that fits it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::DataverseClient;
use super::error::DataverseError;
use super::session::Session;

/// How many UTF-16 code units the text columns of some tables hold (that SQL Server counts these is inferred).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths(HashMap<String, HashMap<String, usize>>);

impl Lengths {
    /// The length of a column; `None` where it was not read, or is none of text.
    #[must_use]
    pub fn of(&self, table: &str, column: &str) -> Option<usize> {
        self.0.get(table)?.get(column).copied()
    }

    /// Adds a column.
    pub fn set(&mut self, table: &str, column: &str, length: usize) {
        let columns = self.0.entry(table.to_owned()).or_default();
        columns.insert(column.to_owned(), length);
    }
}

/// Lengths that were read, shared by all clones of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct LengthsRead(Arc<Mutex<Option<Arc<Lengths>>>>);

impl DataverseClient {
    /// What was read of this organisation's columns, if anything.
    #[must_use]
    pub fn known_lengths(&self) -> Option<Arc<Lengths>> {
        // Nothing is ever left half-done under the lock.
        let read = self.lengths.0.lock();
        read.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the lengths of the text columns of these tables, and keeps them. One request; that definitions may be read in a batch is inferred.
    ///
    /// # Errors
    /// [`DataverseError`]; refused where the role may not read definitions: that this takes Read on Entity and Attribute is inferred, and `mailverse doctor` tries
    /// it. What was kept before stays.
    pub async fn read_lengths(
        &self,
        session: &Session,
        tables: &[&str],
    ) -> Result<Arc<Lengths>, DataverseError> {
        let of = |table: &str, kind: &str| {
            format!(
                "EntityDefinitions(LogicalName='{table}')/Attributes/Microsoft.Dynamics.CRM.{kind}AttributeMetadata?$select=LogicalName,MaxLength"
            )
        };
        // A body is a Memo, everything else a String.
        let both = |table: &&'_ str| ["String", "Memo"].map(|kind| of(table, kind));
        let queries: Vec<String> = tables.iter().flat_map(both).collect();
        let answers = self.query_each(session, &queries).await?;
        let mut lengths = Lengths::default();
        let twice = tables.iter().flat_map(|table| [table, table]);
        for (table, columns) in twice.zip(answers) {
            for (column, length) in columns?.iter().filter_map(length) {
                lengths.set(table, column, length);
            }
        }
        let lengths = Arc::new(lengths);
        let kept = self.lengths.0.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&lengths));
        Ok(lengths)
    }
}

fn length(column: &Value) -> Option<(&str, usize)> {
    let name = column.get("LogicalName")?.as_str()?;
    let length = column.get("MaxLength")?.as_u64()?;
    Some((name, usize::try_from(length).ok()?))
}
