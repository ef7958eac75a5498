//! The mail of a run, drawn from its seed, and what has to become of it.
//!
//! What is expected is worked out here from how a mail was made, and not by asking the code that is on trial.

mod draw;
mod kind;
mod people;

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use serde_json::{Value, json};
use twin::Twin;
use uuid::Uuid;

use crate::incident::{Incident, Incidents, Late};
use crate::race::Race;

pub(crate) use self::draw::draw;
pub(crate) use self::people::People;

/// What every subject, body, name, address and file holds, each its own; nothing that is kept or printed outside Dataverse and Nylas may.
pub(crate) const CANARIES: [&str; 5] = [SUBJECT, BODY, NAME, ADDRESS, FILE];
const SUBJECT: &str = "zq7subject";
const BODY: &str = "zq7body";
const NAME: &str = "zq7name";
const ADDRESS: &str = "zq7address";
const FILE: &str = "zq7file";

/// Longest subject that the organisation takes; some mails have a longer one and are refused for good.
pub(crate) const LONGEST_SUBJECT: usize = 200;

/// A notification with more than this has no body (Nylas facts §5).
const LONGEST_NOTIFICATION: usize = 1_000_000;

/// How large the corpus is, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Messages, at least.
    pub(crate) messages: usize,
    pub(crate) with_files: bool,
    /// Messages that Nylas cannot give until they were given up.
    pub(crate) stubborn: usize,
    /// Mails of one copy, and mails of two, that are kept for what is done on purpose: so many at
    /// least.
    pub(crate) kept: (usize, usize),
    /// Mails of each kind that an incident is about.
    pub(crate) late_files: usize,
    pub(crate) broken_files: usize,
    pub(crate) crowds: usize,
    pub(crate) large_bodies: usize,
}

/// A table and a row of it.
pub(crate) type Reference = (String, Uuid);

/// Somebody on a mail: mask, address, and the row that it is.
pub(crate) type Party = (i64, String, Option<Reference>);

/// A mail, whatever number of mailboxes has a copy.
pub(crate) struct Mail {
    /// Found in the subject of its row, and of no other.
    pub(crate) marker: String,
    pub(crate) body: String,
    pub(crate) outgoing: bool,
    pub(crate) parties: Vec<Party>,
    /// The record that it concerns by the people on it.
    pub(crate) regarding: Option<Reference>,
    /// The mail that it answers, as an index. Where that one is written before, this one concerns what that one does.
    pub(crate) answers: Option<usize>,
    /// Names and bytes.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The row that another client has put there already.
    pub(crate) theirs: Option<Uuid>,
    /// The row that another client puts there about when we do.
    pub(crate) race: Option<Race>,
    /// The incident that it is for.
    pub(crate) incident: Option<Incident>,
}

/// What has to become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Written,
    Skipped(&'static str),
    Dead,
}

/// A copy of a mail in one mailbox.
pub(crate) struct Copy {
    pub(crate) grant: String,
    pub(crate) id: String,
    /// Index of its mail.
    pub(crate) mail: usize,
    pub(crate) expected: Expected,
    /// As Nylas shows it.
    object: Value,
}

/// All mail.
pub(crate) struct Corpus {
    pub(crate) mails: Vec<Mail>,
    pub(crate) messages: Vec<Copy>,
    /// Indexes of messages that Nylas cannot give until they were given up.
    pub(crate) stubborn: Vec<usize>,
    /// Indexes of messages of one copy that are written, for the scenarios: not recent, so that the backfill does not get there first, and not delivered before.
    pub(crate) single: Vec<usize>,
    /// The same of mails with two copies.
    pub(crate) pairs: Vec<[usize; 2]>,
    /// Indexes of messages with large bodies, for the scene that is about them.
    pub(crate) large: Vec<usize>,
    /// Indexes of messages that have arrived.
    arrived: HashSet<usize>,
}

impl Copy {
    /// As the ledger and the logs name it.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.grant, self.id)
    }

    /// A notification about it: of a type that Nylas has for this, and with as much content as that type has.
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
            // Of now, whenever the mail is from: what is older than a week is not taken.
            "time": chrono::Utc::now().timestamp(), "webhook_delivery_attempt": 1, "data": {"application_id": "app", "object": object},
        })
    }
}

impl Corpus {
    /// Takes the messages of the scenarios out of the deliveries that are left.
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

    /// The mails that another client writes too, by marker.
    pub(crate) fn races(&self) -> HashMap<String, Race> {
        let races = self.mails.iter().filter_map(|mail| {
            let race = mail.race.clone()?;
            Some((mail.marker.clone(), race))
        });
        races.collect()
    }

    /// The first file of some mails is not there yet, or never can be had.
    pub(crate) fn mark_files(&self, incidents: &mut Incidents) {
        for (number, copy) in self.messages.iter().enumerate() {
            let file = file_id(0, copy);
            match self.mails[copy.mail].incident {
                Some(Incident::LateFiles) => {
                    let requests = u32::try_from(number % 3 + 1).unwrap();
                    incidents.late.insert(file, Late::by(requests));
                }
                Some(Incident::BrokenFiles) => drop(incidents.broken.insert(file)),
                _ => continue,
            }
            incidents.mails.push(copy.key());
        }
    }

    /// Puts everything where it belongs before the first delivery, but for what [arrives](Self::arrive) later.
    pub(crate) fn store(&self, twin: &Twin) {
        let mails = &self.mails;
        let there = self.messages.iter().filter(|copy| {
            copy.expected != Expected::Skipped("gone") && mails[copy.mail].race.is_none()
        });
        self.put(twin, there);
    }

    /// Mail that another client writes too arrives in its mailbox when it is about to be delivered for the first time: no list has shown it before.
    pub(crate) fn arrive(&mut self, twin: &Twin, next: &[usize]) {
        for index in next {
            let copy = &self.messages[*index];
            if self.mails[copy.mail].race.is_some() && self.arrived.insert(*index) {
                self.put(twin, std::iter::once(copy));
            }
        }
    }

    fn put<'a>(&self, twin: &Twin, copies: impl Iterator<Item = &'a Copy>) {
        for copy in copies {
            let mail = &self.mails[copy.mail];
            twin.nylas().add_message(&copy.grant, copy.object.clone());
            for (n, (name, bytes)) in mail.files.iter().enumerate() {
                let object = json!({"id": file_id(n, copy), "filename": name, "content_type": "application/pdf"});
                twin.nylas()
                    .add_attachment(&copy.grant, &copy.id, object, bytes.clone());
            }
        }
    }
}

fn file_id(position: usize, copy: &Copy) -> String {
    format!("file-{position}-of-{}", copy.id)
}
