//! Records writes instead of sending them, so that a dry run executes the real code.
//!
//! Reads are sent as usual. A write counts as successful, so a later read does not find the row
//! that it would have created. Ids are derived, not random, so a second attempt to create the row
//! uses the same id.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::batch::{BatchPart, Operation};

/// A write that was not sent.
#[derive(Debug, Clone, PartialEq)]
pub struct NotedWrite {
    /// `POST`, `PATCH` or `DELETE`.
    pub method: String,
    /// The path below `/api/data/v9.2/`: an entity set, or one of its rows.
    pub path: String,
    /// The row; empty for a deletion.
    pub columns: Map<String, Value>,
}

/// The recorded writes of a client.
#[derive(Debug, Clone, Default)]
pub struct DryRun(Arc<Mutex<Vec<NotedWrite>>>);

impl DryRun {
    /// Returns the writes recorded since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<NotedWrite> {
        // The list is consistent even after a panic: each change under the lock is one operation.
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn note(&self, method: &str, path: &str, columns: Map<String, Value>) {
        let write = NotedWrite {
            method: method.to_owned(),
            path: path.to_owned(),
            columns,
        };
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(write);
    }

    /// Records the writes of a batch of change sets and returns the answers of a Dataverse that
    /// accepts them. `None` if the batch contains a query.
    pub(crate) fn note_all(&self, operations: &[Operation]) -> Option<Vec<Vec<BatchPart>>> {
        let mut done = Vec::with_capacity(operations.len());
        for operation in operations {
            // Queries and change sets never share a batch.
            let Operation::ChangeSet(changes) = operation else {
                return None;
            };
            for change in changes {
                let columns = change.body.as_object().cloned().unwrap_or_default();
                self.note(change.method, &change.path, columns);
            }
            let answer = BatchPart {
                status: 204,
                retry_after_seconds: None,
                body: Vec::new(),
            };
            done.push(vec![answer; changes.len()]);
        }
        Some(done)
    }
}
