//! The report of `mailverse replay`, as a table or as one JSON object.

mod table;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use backfill::BackfillError;
use backfill::plan::Planned;
use mailverse::ledger::State;
use mailverse::model::ids::MessageKey;
use mailverse::pipeline::{Outcome, Processed, Summary};
use serde_json::{Value, json};
use sync_worker::Worked;
use webhook_receiver::event::EventError;
use webhook_receiver::{Received, RequestOutcome};

use super::event::SavedEvent;
use super::harness::Harness;
use crate::terminal::printable;

/// Collects the results of all deliveries.
pub(crate) struct Report {
    events: usize,
    /// The position of each file in the order of delivery.
    places: HashMap<String, usize>,
    /// The messages, in the order in which the events named them.
    messages: Vec<MessageKey>,
    message_reports: HashMap<MessageKey, MessageReport>,
    /// Results of events apart from their messages: file, result, reason.
    others: Vec<(String, &'static str, String)>,
    /// The files and results in `others`, to find repetitions.
    told: HashSet<(String, &'static str)>,
    /// The files of rejected events.
    refused: HashSet<String>,
    /// For each event that names messages of earlier events: these earlier events.
    repeated: HashMap<String, BTreeSet<String>>,
    /// The number of deliveries that named a message.
    naming_deliveries: usize,
    requests: (u64, u64),
    activities: usize,
    elapsed: Duration,
}

/// A message with its outcome.
struct MessageReport {
    /// The file of the first event that named the message.
    event: String,
    /// `None` until a worker has processed the message.
    outcome: Option<Outcome>,
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
            message_reports: HashMap::new(),
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

    /// Records the receiver's answer to an HTTP event.
    pub(crate) fn received(&mut self, file: &str, received: Result<Received, EventError>) {
        match received.map(|received| (received.response.status().as_u16(), received.outcome)) {
            Ok((_, RequestOutcome::Queued(request))) => self.named(file, request.key),
            Ok((_, RequestOutcome::Ignored { kind })) => {
                self.other(file, "ignored", &format!("{kind} needs no action"));
            }
            Ok((_, RequestOutcome::NotQueued { why, .. })) => {
                self.other(file, "ignored", why.text());
            }
            Ok((_, RequestOutcome::Probe)) => {
                self.other(file, "answered", "a probe of `mailverse`");
            }
            Ok((_, RequestOutcome::Challenge(_))) => {
                self.other(file, "answered", "the challenge of a new webhook");
            }
            Ok((status, RequestOutcome::Refused(refusal))) => {
                let hint = if status == 401 {
                    " (pass the secret with --webhook-secret-file, or sign again with --resign)"
                } else {
                    ""
                };
                self.refused(file, &format!("{status}: {refusal}{hint}"));
            }
            Err(error) => self.refused(file, &error.to_string()),
        }
    }

    /// Records the worker's results of a batch: from the SQS event `event`, or for `None` from the
    /// queue, whose messages were named by earlier events.
    pub(crate) fn worked(&mut self, event: Option<&str>, worked: Worked) {
        let file = event.unwrap_or("the queue");
        for reason in worked.unreadable {
            self.refused(file, &reason);
        }
        for processed in worked.processed {
            if event.is_some() {
                self.named(file, processed.key.clone());
            }
            self.processed(file, processed);
        }
    }

    /// Records the result of a schedule event, which lists the mailboxes.
    pub(crate) fn listed(
        &mut self,
        file: &str,
        result: Result<(Planned, Vec<Processed>, usize), BackfillError>,
    ) {
        match result {
            Ok((planned, processed, left)) => {
                let fresh = processed
                    .iter()
                    .filter(|processed| !processed.settled_before)
                    .count();
                let text = format!(
                    "{} messages in {} mailboxes, {fresh} of them not settled before",
                    processed.len(),
                    planned.mailboxes
                );
                if left > 0 {
                    self.refused(file, &format!("failed to list {left} mailboxes; {text}"));
                } else {
                    self.other(file, "listed", &text);
                }
                for message in processed {
                    self.processed(file, message);
                }
            }
            Err(error) => self.refused(file, &error.to_string()),
        }
    }

    /// Records an event that was rejected.
    pub(crate) fn refused(&mut self, file: &str, reason: &str) {
        self.refused.insert(file.to_owned());
        self.other(file, "refused", reason);
    }

    /// Records the numbers of requests and rows, and the time that the replay took.
    pub(crate) fn measure(&mut self, harness: &Harness, elapsed: Duration) {
        self.requests = harness.requests();
        let written = self.message_reports.values().filter_map(|message_report| {
            match &message_report.outcome {
                Some(Outcome::Written { activity_id, .. }) => Some(activity_id),
                _ => None,
            }
        });
        self.activities = harness
            .activities()
            .unwrap_or_else(|| written.collect::<HashSet<_>>().len());
        self.elapsed = elapsed;
    }

    /// Returns whether every message was written or skipped and no event was rejected.
    pub(crate) fn is_success(&self) -> bool {
        let settled = |message_report: &MessageReport| {
            matches!(
                message_report.outcome,
                Some(Outcome::Written { .. } | Outcome::Skipped { .. })
            )
        };
        self.refused.is_empty() && self.message_reports.values().all(settled)
    }

    pub(crate) fn json(&self) -> Value {
        let message = |key: &MessageKey| {
            let message_report = self.message_reports.get(key)?;
            let activity_id = match &message_report.outcome {
                Some(Outcome::Written { activity_id, .. }) => Some(activity_id),
                _ => None,
            };
            Some(json!({
                "event": message_report.event,
                "message_id": key.message_id,
                "grant_id": key.grant_id,
                "fate": message_report.state().as_str(),
                "reason": message_report.outcome.as_ref().and_then(Outcome::reason),
                "activity_id": activity_id,
            }))
        };
        let others = self.others.iter().map(
            |(event, outcome, reason)| json!({"event": event, "fate": outcome, "reason": reason}),
        );
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
        let first = self.report_of(file, key).event.clone();
        if first != file {
            let repeated = self.repeated.entry(file.to_owned()).or_default();
            repeated.insert(first);
        }
    }

    fn processed(&mut self, file: &str, processed: Processed) {
        let message_report = self.report_of(file, processed.key);
        message_report.outcome = Some(processed.outcome);
        // A second delivery finds the message settled and does not read it, so keep the first
        // summary.
        message_report.summary = message_report.summary.take().or(processed.summary);
    }

    fn report_of(&mut self, file: &str, key: MessageKey) -> &mut MessageReport {
        if !self.message_reports.contains_key(&key) {
            self.messages.push(key.clone());
        }
        self.message_reports
            .entry(key)
            .or_insert_with(|| MessageReport {
                event: file.to_owned(),
                outcome: None,
                summary: None,
            })
    }

    /// Records a result once per event, however often the event was delivered.
    fn other(&mut self, file: &str, outcome: &'static str, reason: &str) {
        if self.told.insert((file.to_owned(), outcome)) {
            self.others
                .push((file.to_owned(), outcome, printable(reason)));
        }
    }

    fn count(&self, state: State) -> usize {
        self.message_reports
            .values()
            .filter(|message_report| message_report.state() == state)
            .count()
    }

    fn duplicate_deliveries(&self) -> usize {
        self.naming_deliveries.saturating_sub(self.messages.len())
    }
}

impl MessageReport {
    /// Returns the state of the message. One that no worker has processed is still on the queue, so
    /// it is waiting.
    fn state(&self) -> State {
        self.outcome.as_ref().map_or(State::Waiting, Outcome::state)
    }
}
