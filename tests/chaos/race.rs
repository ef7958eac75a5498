//! Server-side sync tracks some of the mail as well: its row comes between five minutes before ours and five minutes after it.
//!
//! Whenever it comes, whatever fails meanwhile, their row survives, with a regarding, and ours is gone; both stay only where ours has a file that theirs
//! lacks. Where the organisation lets no two emails have one Message-ID, which it does for odd seeds, whoever is second gives way instead: ours is refused and
//! theirs adopted, or theirs is refused and it leaves the mail to us. Time that passes for the queue passes for them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use twin::{Dataverse, SeedError};
use uuid::Uuid;

use crate::corpus::Reference;

/// The longest time between the two rows.
const LONGEST: u64 = 300;

/// When their row comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// Before Nylas delivers the mail for the first time, as long before as time passes then.
    Before,
    /// A write that carries our row is on its way: the look-up found nothing.
    AtWrite,
    /// Dataverse has just answered such a write.
    AtCommit,
    /// So much later.
    After(Duration),
}

/// The kinds of moments, by name.
const MOMENTS: [&str; 4] = ["before", "at the write", "at the commit", "after"];

impl Moment {
    /// Another kind for each number.
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

/// Their part of a mail.
#[derive(Clone)]
pub(crate) struct Race {
    pub(crate) moment: Moment,
    pub(crate) message_id: String,
    pub(crate) sender: String,
    /// What their row has besides.
    pub(crate) columns: Value,
    /// The record that it concerns when it comes.
    pub(crate) own: Option<Reference>,
}

/// The races of a run, by the marker of the mail.
#[derive(Default)]
pub(crate) struct Races {
    dataverse: Option<Dataverse>,
    left: HashMap<String, Race>,
    /// When those come whose moment is known, on the harness' clock.
    due: Vec<(Duration, String)>,
    rows: HashMap<String, Uuid>,
    /// The mails that they left to us, because our row was there.
    left_to_us: HashSet<String>,
    /// All that came.
    come: u64,
    /// How often a row came at its moment.
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

    /// These mails are delivered next.
    pub(crate) fn before<'a>(&mut self, markers: impl Iterator<Item = &'a str>) {
        for marker in markers {
            if self.moment(marker) == Some(Moment::Before) {
                self.put(marker, true);
            }
        }
    }

    /// A write is on its way.
    pub(crate) fn at_write(&mut self, body: &[u8]) {
        for marker in self.carried(body) {
            if self.moment(&marker) == Some(Moment::AtWrite) {
                self.put(&marker, true);
            }
        }
    }

    /// Dataverse has answered a write.
    pub(crate) fn at_commit(&mut self, body: &[u8], now: Duration) {
        for marker in self.carried(body) {
            match self.moment(&marker) {
                Some(Moment::AtCommit) => self.put(&marker, true),
                Some(Moment::After(wait)) if !self.due.iter().any(|(_, due)| *due == marker) => {
                    self.due.push((now + wait, marker));
                }
                _ => {}
            }
        }
    }

    /// Time has passed.
    pub(crate) fn come_by(&mut self, now: Duration) {
        let due: Vec<_> = self.due.extract_if(.., |(when, _)| *when <= now).collect();
        for (_, marker) in due {
            self.put(&marker, true);
        }
    }

    /// Whose moment was lost, because the answer to the write was, come now.
    pub(crate) fn come_all(&mut self) {
        let left: Vec<String> = self.left.keys().cloned().collect();
        for marker in left {
            self.put(&marker, false);
        }
    }

    /// Their row of a mail.
    pub(crate) fn row(&self, marker: &str) -> Option<Uuid> {
        self.rows.get(marker).copied()
    }

    /// Whether ours was first, in an organisation that lets theirs not be second.
    pub(crate) fn was_left_to_us(&self, marker: &str) -> bool {
        self.left_to_us.contains(marker)
    }

    /// How many rows came.
    pub(crate) fn come(&self) -> u64 {
        self.come
    }

    /// Moments at which no row came.
    pub(crate) fn unmet(&self) -> Vec<&'static str> {
        let unmet = MOMENTS.into_iter();
        unmet
            .filter(|name| self.met.get(name).is_none_or(|met| *met == 0))
            .collect()
    }

    fn moment(&self, marker: &str) -> Option<Moment> {
        self.left.get(marker).map(|race| race.moment)
    }

    /// The mails that a write carries.
    fn carried(&self, body: &[u8]) -> Vec<String> {
        if self.left.is_empty() {
            return Vec::new();
        }
        let body = String::from_utf8_lossy(body);
        let markers = self.left.keys().filter(|marker| body.contains(*marker));
        markers.cloned().collect()
    }

    /// Puts their row there, at its moment or without one.
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
