//! Server-side synchronization writes some of the emails as well, from five minutes before we do
//! until five minutes after.
//!
//! Whenever that happens, and whatever fails meanwhile, the external row must remain, with a
//! regarding, and ours must be gone; both remain only if ours has a file that the external row
//! lacks. With odd seeds, the organisation allows only one email for each Message-ID. Then the
//! second writer yields: Dataverse rejects our row and we adopt the external one, or it rejects the
//! external row and the email is left to us. When the harness makes time pass for the queue, it
//! also passes for these rows.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use emulators::{Dataverse, SeedError};
use serde_json::Value;
use uuid::Uuid;

use crate::corpus::Reference;

/// The longest time between the two rows, in seconds.
const LONGEST: u64 = 300;

/// When the external row is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// Before the first delivery by Nylas. The distance depends on how much time passes then.
    Before,
    /// While a write with our row is on its way: our lookup found nothing.
    AtWrite,
    /// Just after Dataverse answered such a write.
    AtCommit,
    /// This much later.
    After(Duration),
}

/// The kinds of moments, by name.
const MOMENTS: [&str; 4] = ["before", "at the write", "at the commit", "after"];

impl Moment {
    /// Returns a moment; the kind changes with each number.
    pub(crate) fn of(number: usize, seconds: u64) -> Self {
        match number % MOMENTS.len() {
            0 => Self::Before,
            1 => Self::AtWrite,
            2 => Self::AtCommit,
            _ => Self::After(Duration::from_secs(seconds % (LONGEST + 1))),
        }
    }

    fn name(self) -> &'static str {
        MOMENTS[match self {
            Self::Before => 0,
            Self::AtWrite => 1,
            Self::AtCommit => 2,
            Self::After(_) => 3,
        }]
    }
}

/// The external row of an email.
#[derive(Clone)]
pub(crate) struct Race {
    pub(crate) moment: Moment,
    pub(crate) message_id: String,
    pub(crate) sender: String,
    /// Further columns of the external row.
    pub(crate) columns: Value,
    /// The regarding that the row has when it is written.
    pub(crate) own: Option<Reference>,
}

/// The races of a run, by the marker of the email.
#[derive(Default)]
pub(crate) struct Races {
    dataverse: Option<Dataverse>,
    left: HashMap<String, Race>,
    /// When rows with a known moment are written, on the harness' clock.
    due: Vec<(Duration, String)>,
    rows: HashMap<String, Uuid>,
    /// The emails that were left to us because our row was first.
    left_to_us: HashSet<String>,
    /// The number of external rows that were written.
    come: u64,
    /// How often a row was written at its moment.
    met: HashMap<&'static str, u64>,
}

impl Races {
    pub(crate) fn of(dataverse: &Dataverse, races: HashMap<String, Race>) -> Self {
        Self {
            dataverse: Some(dataverse.clone()),
            left: races,
            ..Self::default()
        }
    }

    /// Writes the rows that come before the delivery of these emails.
    pub(crate) fn before<'a>(&mut self, markers: impl Iterator<Item = &'a str>) {
        for marker in markers {
            if self.moment(marker) == Some(Moment::Before) {
                self.put(marker, true);
            }
        }
    }

    /// Writes the rows that come while this write is on its way.
    pub(crate) fn at_write(&mut self, body: &[u8]) {
        for marker in self.messages_of_row(body) {
            if self.moment(&marker) == Some(Moment::AtWrite) {
                self.put(&marker, true);
            }
        }
    }

    /// Writes or schedules the rows that come after this write was answered.
    pub(crate) fn at_commit(&mut self, body: &[u8], now: Duration) {
        for marker in self.messages_of_row(body) {
            match self.moment(&marker) {
                Some(Moment::AtCommit) => self.put(&marker, true),
                Some(Moment::After(wait)) if !self.due.iter().any(|(_, due)| *due == marker) => {
                    self.due.push((now + wait, marker));
                }
                _ => {}
            }
        }
    }

    /// Writes the rows that are due.
    pub(crate) fn come_by(&mut self, now: Duration) {
        let due: Vec<_> = self.due.extract_if(.., |(when, _)| *when <= now).collect();
        for (_, marker) in due {
            self.put(&marker, true);
        }
    }

    /// Writes all remaining rows, whose moment was missed because the answer to the write was lost.
    pub(crate) fn come_all(&mut self) {
        let left: Vec<String> = self.left.keys().cloned().collect();
        for marker in left {
            self.put(&marker, false);
        }
    }

    /// Returns the external row of an email.
    pub(crate) fn row(&self, marker: &str) -> Option<Uuid> {
        self.rows.get(marker).copied()
    }

    /// Returns whether our row was first and the organisation rejected the external one.
    pub(crate) fn was_left_to_us(&self, marker: &str) -> bool {
        self.left_to_us.contains(marker)
    }

    /// Returns how many external rows were written.
    pub(crate) fn come(&self) -> u64 {
        self.come
    }

    /// Returns the kinds of moments at which no row was written.
    pub(crate) fn unmet(&self) -> Vec<&'static str> {
        let unmet = MOMENTS.into_iter();
        unmet
            .filter(|name| self.met.get(name).is_none_or(|met| *met == 0))
            .collect()
    }

    fn moment(&self, marker: &str) -> Option<Moment> {
        self.left.get(marker).map(|race| race.moment)
    }

    /// Returns the markers of the emails in a write.
    fn messages_of_row(&self, body: &[u8]) -> Vec<String> {
        if self.left.is_empty() {
            return Vec::new();
        }
        let body = String::from_utf8_lossy(body);
        let markers = self.left.keys().filter(|marker| body.contains(*marker));
        markers.cloned().collect()
    }

    /// Writes the external row, at its moment or later.
    fn put(&mut self, marker: &str, at_its_moment: bool) {
        let (Some(race), Some(dataverse)) = (self.left.remove(marker), &self.dataverse) else {
            return;
        };
        let row =
            dataverse.track_by_server_side_sync(&race.message_id, &race.sender, &race.columns);
        match row {
            Err(SeedError::Duplicate { .. }) => {
                self.left_to_us.insert(marker.to_owned());
            }
            row => {
                self.rows.insert(marker.to_owned(), row.unwrap());
            }
        }
        self.come += 1;
        *self.met.entry(race.moment.name()).or_default() += u64::from(at_its_moment);
    }
}
