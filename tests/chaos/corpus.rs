//! The emails of a run, drawn from its seed, and the expected outcome of each.
//!
//! The expected outcome is derived from how an email was made, not by asking the code under test.

mod draw;
mod kind;
mod people;

use std::collections::{HashMap, HashSet};

use emulators::Emulators;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::incident::{Incident, Incidents, Late};
use crate::race::Race;

pub(crate) use self::draw::draw;
pub(crate) use self::people::People;

/// Words that all subjects, bodies, names, addresses and files contain. Nothing that is stored or
/// printed outside Dataverse and Nylas may contain one of them.
pub(crate) const CANARIES: [&str; 5] = [SUBJECT, BODY, NAME, ADDRESS, FILE];
const SUBJECT: &str = "zq7subject";
const BODY: &str = "zq7body";
const NAME: &str = "zq7name";
const ADDRESS: &str = "zq7address";
const FILE: &str = "zq7file";

/// The longest subject that the organisation accepts. Some emails have a longer one and are
/// rejected.
pub(crate) const LONGEST_SUBJECT: usize = 200;

/// A notification with a longer body comes without it (Nylas facts §5), in bytes.
const LONGEST_NOTIFICATION: usize = 1_000_000;

/// The size of the corpus and its contents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// The least number of messages.
    pub(crate) messages: usize,
    pub(crate) with_files: bool,
    /// Messages that Nylas does not return until they were given up.
    pub(crate) stubborn: usize,
    /// Emails with one copy, and emails with two, that are reserved for scenarios and kills: the
    /// least number of each.
    pub(crate) kept: (usize, usize),
    /// The number of emails for each kind of incident.
    pub(crate) late_files: usize,
    pub(crate) broken_files: usize,
    pub(crate) crowds: usize,
    pub(crate) large_bodies: usize,
}

/// A table and the id of a row.
pub(crate) type Reference = (String, Uuid);

/// An activity party: participation type mask, address, and its row; `None` if it is unresolved.
pub(crate) type Party = (i64, String, Option<Reference>);

/// An email, whatever the number of mailboxes that have a copy.
pub(crate) struct Email {
    /// A word in the subject of its row, and of no other row.
    pub(crate) marker: String,
    pub(crate) body: String,
    pub(crate) outgoing: bool,
    pub(crate) parties: Vec<Party>,
    /// The record that the email concerns because of its parties.
    pub(crate) regarding: Option<Reference>,
    /// The index of the email that it answers. If that one is written first, this one gets the same
    /// regarding.
    pub(crate) answers: Option<usize>,
    /// The names and bytes of its attachments.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The row that another client had already written.
    pub(crate) external_row: Option<Uuid>,
    /// The row that another client writes at about the same time as we do.
    pub(crate) race: Option<Race>,
    /// The incident for which the email was made.
    pub(crate) incident: Option<Incident>,
}

/// The expected outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Written,
    Skipped(&'static str),
    Dead,
}

/// A message: the copy of an email in one mailbox.
pub(crate) struct Copy {
    pub(crate) grant: String,
    pub(crate) id: String,
    /// The index of its email.
    pub(crate) email: usize,
    pub(crate) expected: Expected,
    /// The message object that Nylas returns.
    object: Value,
}

/// All emails and messages.
pub(crate) struct Corpus {
    pub(crate) emails: Vec<Email>,
    pub(crate) messages: Vec<Copy>,
    /// Indexes of messages that Nylas does not return until they were given up.
    pub(crate) stubborn: Vec<usize>,
    /// Indexes of messages that are the only copy and will be written, for the scenarios. They are
    /// not recent, so that the backfill does not list them first, and were not delivered before.
    pub(crate) single: Vec<usize>,
    /// The same for emails with two copies.
    pub(crate) pairs: Vec<[usize; 2]>,
    /// Indexes of messages with large bodies, for their scene.
    pub(crate) large: Vec<usize>,
    /// Indexes of messages that have arrived in their mailbox.
    arrived: HashSet<usize>,
}

impl Copy {
    /// Returns the key of the message in the ledger and the logs.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.grant, self.id)
    }

    /// Returns a notification for the message, of a type that Nylas uses for it and with the
    /// content of that type.
    pub(crate) fn notification(&self, rng: &mut StdRng) -> Value {
        use rand::Rng;
        let mut object = self.object.clone();
        let body = object["body"].as_str().unwrap_or_default();
        let drawn = match rng.random_range(0..10) {
            _ if body.len() > LONGEST_NOTIFICATION => 1,
            drawn => drawn,
        };
        let kind = match drawn {
            0 => "message.updated",
            1 => {
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("body");
                }
                "message.created.truncated"
            }
            _ => "message.created",
        };
        json!({
            "specversion": "1.0", "type": kind, "source": "/google/emails/realtime", "id": format!("{:016x}", rng.random::<u64>()),
            // The current time, whatever the date of the message: notifications older than a week
            // are not queued.
            "time": chrono::Utc::now().timestamp(), "webhook_delivery_attempt": 1, "data": {"application_id": "app", "object": object},
        })
    }
}

impl Corpus {
    /// Removes the messages that are reserved for scenarios from the remaining deliveries.
    pub(crate) fn reserve(&self, left: &mut Vec<usize>) {
        let reserved: HashSet<usize> = self
            .single
            .iter()
            .chain(self.pairs.iter().flatten())
            .chain(&self.large)
            .copied()
            .collect();
        left.retain(|index| !reserved.contains(index));
    }

    /// Returns the emails that another client writes too, by marker.
    pub(crate) fn races(&self) -> HashMap<String, Race> {
        let races = self.emails.iter().filter_map(|email| {
            let race = email.race.clone()?;
            Some((email.marker.clone(), race))
        });
        races.collect()
    }

    /// Makes the first file of some emails unavailable, for a while or for the whole run.
    pub(crate) fn mark_files(&self, incidents: &mut Incidents) {
        for (number, copy) in self.messages.iter().enumerate() {
            let file = file_id(0, copy);
            match self.emails[copy.email].incident {
                Some(Incident::LateFiles) => {
                    let requests = u32::try_from(number % 3 + 1).unwrap();
                    incidents.late.insert(file, Late::by(requests));
                }
                Some(Incident::BrokenFiles) => drop(incidents.broken.insert(file)),
                _ => continue,
            }
            incidents.emails.push(copy.key());
        }
    }

    /// Stores everything in the emulators before the first delivery, except what
    /// [arrives](Self::arrive) later.
    pub(crate) fn store(&self, emulators: &Emulators) {
        let emails = &self.emails;
        let there = self.messages.iter().filter(|copy| {
            copy.expected != Expected::Skipped("gone") && emails[copy.email].race.is_none()
        });
        self.put(emulators, there);
    }

    /// Stores messages that another client writes too. They arrive in their mailbox just before
    /// their first delivery, so that no list has shown them before.
    pub(crate) fn arrive(&mut self, emulators: &Emulators, next: &[usize]) {
        for index in next {
            let copy = &self.messages[*index];
            if self.emails[copy.email].race.is_some() && self.arrived.insert(*index) {
                self.put(emulators, std::iter::once(copy));
            }
        }
    }

    fn put<'a>(&self, emulators: &Emulators, copies: impl Iterator<Item = &'a Copy>) {
        for copy in copies {
            let email = &self.emails[copy.email];
            emulators
                .nylas()
                .add_message(&copy.grant, copy.object.clone());
            for (n, (name, bytes)) in email.files.iter().enumerate() {
                let object = json!({"id": file_id(n, copy), "filename": name, "content_type": "application/pdf"});
                emulators
                    .nylas()
                    .add_attachment(&copy.grant, &copy.id, object, bytes.clone());
            }
        }
    }
}

fn file_id(position: usize, copy: &Copy) -> String {
    format!("file-{position}-of-{}", copy.id)
}
