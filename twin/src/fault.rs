//! How a test makes a service fail: a queue of faults, one of which is used up by each HTTP request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// What goes wrong with one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The service answers this instead of doing anything.
    Status {
        /// The HTTP status.
        status: u16,
        /// Dataverse: the hexadecimal code. Nylas: the error type. Entra: the OAuth error.
        code: String,
        /// The text beside the code.
        message: String,
        /// The value of a `Retry-After` header, in seconds; none when `None`.
        retry_after_seconds: Option<u64>,
    },
    /// The connection breaks before the service did anything.
    ResetBefore,
    /// The service does all that was asked, then the connection breaks and the answer is lost.
    ResetAfterCommit,
}

/// The faults that are still to come, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultQueue(Arc<Mutex<VecDeque<Fault>>>);

impl FaultQueue {
    pub(crate) fn push(&self, fault: Fault) {
        lock(&self.0).push_back(fault);
    }

    pub(crate) fn take(&self) -> Option<Fault> {
        lock(&self.0).pop_front()
    }
}
