//! What became of the events: a table for people, or one JSON object for programs.

mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use backfill::BackfillError;
use backfill::plan::Planned;
use mailverse::dedupe::State;
use mailverse::ids::MessageKey;
use mailverse::pipeline::{Fate, Handled, Summary};
use serde_json::{Value, json};
use sync_worker::Worked;
use webhook_receiver::event::EventError;
use webhook_receiver::{Outcome, Received};

use super::event::SavedEvent;
use super::stage::Stage;
use crate::terminal::printable;

/// Collects what happened.
pub(crate) struct Report {
    events: usize,
    /// The files, by their place in the order of delivery.
    places: HashMap<String, usize>,
    /// In the order in which the events named them.
    messages: Vec<MessageKey>,
    story: HashMap<MessageKey, Story>,
    /// Events that name no message, or not only messages: file, fate, reason.
    others: Vec<(String, &'static str, String)>,
    /// What `others` holds.
    told: HashSet<(String, &'static str)>,
    refused: HashSet<String>,
    /// For an event that names messages of earlier events: these events.
    repeated: HashMap<String, BTreeSet<String>>,
    /// Deliveries that named a message.
    naming_deliveries: usize,
    requests: (u64, u64),
    activities: usize,
    elapsed: Duration,
}

struct Story {
    event: String,
    /// `None` until a worker has dealt with it.
    fate: Option<Fate>,
    summary: Option<Summary>,
}

impl Report {
    pub(crate) fn new(events: &[SavedEvent]) -> Self {
        Self {
            events: events.len(),
            places: events
                .iter()
                .enumerate()
                .map(|(place, event)| (event.file.clone(), place))
                .collect(),
            messages: Vec::new(),
            story: HashMap::new(),
            others: Vec::new(),
            told: HashSet::new(),
            refused: HashSet::new(),
            repeated: HashMap::new(),
            naming_deliveries: 0,
            requests: (0, 0),
            activities: 0,
            elapsed: Duration::ZERO,
        }
    }

    /// The receiver answered.
    pub(crate) fn received(&mut self, file: &str, received: Result<Received, EventError>) {
        match received.map(|received| (received.response.status().as_u16(), received.outcome)) {
            Ok((_, Outcome::Queued(request))) => self.named(file, request.key),
            Ok((_, Outcome::Ignored { kind })) => {
                self.other(file, "ignored", &format!("nothing to do for {kind}"));
            }
            Ok((_, Outcome::NotQueued { why, .. })) => self.other(file, "ignored", why.text()),
            Ok((_, Outcome::Probe)) => self.other(file, "answered", "a probe of this command"),
            Ok((_, Outcome::Challenge(_))) => {
                self.other(file, "answered", "the challenge of a new webhook");
            }
            Ok((status, Outcome::Refused(refusal))) => {
                let hint = if status == 401 {
                    " (--webhook-secret-file gives the secret, --resign signs anew)"
                } else {
                    ""
                };
                self.refused(file, &format!("{status}: {refusal}{hint}"));
            }
            Err(error) => self.refused(file, &error.to_string()),
        }
    }

    /// The worker has dealt with a batch: an event's own, or one from the queue, whose messages earlier events named.
    pub(crate) fn worked(&mut self, event: Option<&str>, worked: Worked) {
        let file = event.unwrap_or("the queue");
        for reason in worked.unreadable {
            self.refused(file, &reason);
        }
        for handled in worked.handled {
            if event.is_some() {
                self.named(file, handled.key.clone());
            }
            self.handled(file, handled);
        }
    }

    /// A schedule event has listed the mailboxes.
    pub(crate) fn listed(
        &mut self,
        file: &str,
        result: Result<(Planned, Vec<Handled>, usize), BackfillError>,
    ) {
        match result {
            Ok((planned, handled, left)) => {
                let fresh = handled
                    .iter()
                    .filter(|handled| !handled.settled_before)
                    .count();
                let text = format!(
                    "{} messages in {} mailboxes, {fresh} not settled before",
                    handled.len(),
                    planned.mailboxes
                );
                if left > 0 {
                    self.refused(
                        file,
                        &format!("{left} mailboxes could not be listed; {text}"),
                    );
                } else {
                    self.other(file, "listed", &text);
                }
                for message in handled {
                    self.handled(file, message);
                }
            }
            Err(error) => self.refused(file, &error.to_string()),
        }
    }

    /// An event that nobody could take.
    pub(crate) fn refused(&mut self, file: &str, reason: &str) {
        self.refused.insert(file.to_owned());
        self.other(file, "refused", reason);
    }

    pub(crate) fn measure(&mut self, stage: &Stage, elapsed: Duration) {
        self.requests = stage.requests();
        let written = self.story.values().filter_map(|story| match &story.fate {
            Some(Fate::Written { activity_id, .. }) => Some(activity_id),
            _ => None,
        });
        self.activities = stage
            .activities()
            .unwrap_or_else(|| written.collect::<HashSet<_>>().len());
        self.elapsed = elapsed;
    }

    /// Whether every message is where it belongs and every event was taken.
    pub(crate) fn is_success(&self) -> bool {
        let settled = |story: &Story| {
            matches!(
                story.fate,
                Some(Fate::Written { .. } | Fate::Skipped { .. })
            )
        };
        self.refused.is_empty() && self.story.values().all(settled)
    }

    pub(crate) fn json(&self) -> Value {
        let message = |key: &MessageKey| {
            let story = self.story.get(key)?;
            let activity_id = match &story.fate {
                Some(Fate::Written { activity_id, .. }) => Some(activity_id),
                _ => None,
            };
            Some(json!({
                "event": story.event,
                "message_id": key.message_id,
                "grant_id": key.grant_id,
                "fate": story.state().as_str(),
                "reason": story.fate.as_ref().and_then(Fate::reason),
                "activity_id": activity_id,
            }))
        };
        let others = self
            .others
            .iter()
            .map(|(event, fate, reason)| json!({"event": event, "fate": fate, "reason": reason}));
        json!({
            "events": self.events,
            "refused": self.refused.len(),
            "written": self.count(State::Written),
            "skipped": self.count(State::Skipped),
            "waiting": self.count(State::Waiting),
            "dead": self.count(State::Dead),
            "activities": self.activities,
            "duplicate_deliveries": self.duplicate_deliveries(),
            "dataverse_requests": self.requests.0,
            "nylas_requests": self.requests.1,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "messages": self.messages.iter().filter_map(message).collect::<Vec<_>>(),
            "other_events": others.collect::<Vec<_>>(),
        })
    }

    fn named(&mut self, file: &str, key: MessageKey) {
        self.naming_deliveries += 1;
        let first = self.story_of(file, key).event.clone();
        if first != file {
            let repeated = self.repeated.entry(file.to_owned()).or_default();
            repeated.insert(first);
        }
    }

    fn handled(&mut self, file: &str, handled: Handled) {
        let story = self.story_of(file, handled.key);
        story.fate = Some(handled.fate);
        // A second delivery finds the message settled and reads nothing of it.
        story.summary = story.summary.take().or(handled.summary);
    }

    fn story_of(&mut self, file: &str, key: MessageKey) -> &mut Story {
        if !self.story.contains_key(&key) {
            self.messages.push(key.clone());
        }
        self.story.entry(key).or_insert_with(|| Story {
            event: file.to_owned(),
            fate: None,
            summary: None,
        })
    }

    /// Once for each event, however often it was delivered.
    fn other(&mut self, file: &str, fate: &'static str, reason: &str) {
        if self.told.insert((file.to_owned(), fate)) {
            self.others.push((file.to_owned(), fate, printable(reason)));
        }
    }

    fn count(&self, state: State) -> usize {
        self.story
            .values()
            .filter(|story| story.state() == state)
            .count()
    }

    fn duplicate_deliveries(&self) -> usize {
        self.naming_deliveries.saturating_sub(self.messages.len())
    }
}

impl Story {
    /// A message that no worker has dealt with is on the queue still.
    fn state(&self) -> State {
        self.fate.as_ref().map_or(State::Waiting, Fate::state)
    }
}
