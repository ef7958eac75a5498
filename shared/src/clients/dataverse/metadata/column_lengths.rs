//! The lengths of the text columns of this organisation.
//!
//! Columns have Dataverse's default lengths until an administrator shortens one (Dataverse facts
//! §15.1). A writer first uses the defaults and reads the real lengths only after a text was
//! rejected for its length (0x80044331). That takes one request, and an organisation with the
//! default lengths never needs it. The lengths are kept for the life of the process, and read again
//! if a text is rejected that fits them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::session::Session;

/// The lengths of the text columns of some tables, in UTF-16 code units (that SQL Server counts
/// these is inferred).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lengths(HashMap<String, HashMap<String, usize>>);

impl Lengths {
    /// Returns the length of a column; `None` if it was not read or is not a text column.
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

/// The lengths that were read, shared by all clones of a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct LengthsRead(Arc<Mutex<Option<Arc<Lengths>>>>);

impl DataverseClient {
    /// Returns the lengths that were read, if any.
    #[must_use]
    pub(crate) fn known_lengths(&self) -> Option<Arc<Lengths>> {
        // The value is consistent even after a panic: each change under the lock is one assignment.
        let read = self.lengths.0.lock();
        read.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the lengths of the text columns of these tables in one request, and keeps them. That
    /// definitions may be read in a `$batch` is inferred.
    ///
    /// # Errors
    /// [`DataverseError`]. Dataverse rejects the call if the role may not read definitions; that
    /// this takes Read on Entity and Attribute is inferred, and `mailverse doctor` checks it.
    /// Lengths that were kept before stay.
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
        // The body of an email is a Memo column, every other text a String column.
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
