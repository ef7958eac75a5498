//! Writes that are noted instead of sent: what a run would do, from the code that does it.
//!
//! Reads are sent as ever. A write counts as done, so a row that it would have made is not found afterwards; ids are derived and not drawn, so whoever
//! would make it again names the same row.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::batch::{Answer, Operation};

/// A write that was not sent.
#[derive(Debug, Clone, PartialEq)]
pub struct NotedWrite {
    /// `POST`, `PATCH` or `DELETE`.
    pub method: String,
    /// Below `/api/data/v9.2/`: an entity set, or one of its rows.
    pub path: String,
    /// The row; empty for a removal.
    pub columns: Map<String, Value>,
}

/// Where a client notes its writes.
#[derive(Debug, Clone, Default)]
pub struct Rehearsal(Arc<Mutex<Vec<NotedWrite>>>);

impl Rehearsal {
    /// What was noted since this was asked last.
    #[must_use]
    pub fn take(&self) -> Vec<NotedWrite> {
        // Nothing is ever left half-done under the lock.
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, method: &str, path: &str, columns: Map<String, Value>) {
        let write = NotedWrite {
            method: method.to_owned(),
            path: path.to_owned(),
            columns,
        };
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push(write);
    }

    /// What Dataverse would have answered to a batch of change sets, which are noted; `None` for a batch that holds none.
    pub(super) fn note_all(&self, operations: &[Operation]) -> Option<Vec<Vec<Answer>>> {
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
            let answer = Answer {
                status: 204,
                retry_after_seconds: None,
                body: Vec::new(),
            };
            done.push(vec![answer; changes.len()]);
        }
        Some(done)
    }
}
