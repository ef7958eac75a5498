//! Incidents that last for a phase of the run: some rounds with deliveries, then some in which only
//! time passes. Then the incident ends.
//!
//! Everything that was rejected in the meantime must be waiting. So at the end of a phase no
//! message may be dead that was not dead before, except those that Dataverse rejects anyway.

use std::collections::HashSet;

use crate::corpus::Expected;
use crate::incident::Incident;
use crate::run::{Besides, Run};

/// The longest phase, in rounds with deliveries.
const LONGEST: usize = 3;

/// The most dead messages that are named in findings.
const TOLD: usize = 5;

/// The current phase.
pub(crate) struct Stretch {
    incident: Incident,
    /// The keys of messages that were dead before.
    dead: HashSet<String>,
}

impl Run {
    /// Returns the incident of this round, if it has one: each in turn, starting with the second
    /// round.
    fn stretch_of(&self, round: usize) -> Option<Incident> {
        let on = Incident::STRETCHES.into_iter();
        let on: Vec<Incident> = on.filter(|it| self.shape.incidents.contains(it)).collect();
        let room = self.shape.rounds.saturating_sub(2);
        let each = (room / on.len().max(1)).clamp(1, LONGEST);
        on.get(round.checked_sub(1)? / each).copied()
    }

    /// Ends the phase of the previous round and begins that of this one, if they differ.
    pub(crate) async fn begin_stretch(&mut self, round: usize) {
        let next = self.stretch_of(round);
        if self.stretch.as_ref().map(|stretch| stretch.incident) == next {
            return;
        }
        self.end_stretch().await;
        if let Some(incident) = next {
            let what = format!("start of {}", incident.name());
            self.cloud.shared.event_log.tell_of_all(&what);
            let dead = self.dead_of_no_fault().await;
            self.stretch = Some(Stretch {
                incident,
                dead: dead.into_iter().map(|(key, _)| key).collect(),
            });
            self.faults.stretch(next);
        }
    }

    /// Lets time pass, checks which messages became dead because of the incident, and ends it.
    pub(crate) async fn end_stretch(&mut self) {
        let Some(stretch) = self.stretch.take() else {
            return;
        };
        let name = stretch.incident.name();
        for _ in 0..stretch.incident.idle_rounds() {
            let last = self.cloud.shared.reserve.lock().unwrap().due().pop();
            if let Some(last) = last {
                self.let_time_pass_until(last).await;
            }
            self.round(Vec::new(), Besides::default()).await;
        }
        let dead = self.dead_of_no_fault().await;
        let died: Vec<_> = dead
            .iter()
            .filter(|(key, _)| !stretch.dead.contains(key))
            .collect();
        self.died += died.len();
        for (key, reason) in died.iter().take(TOLD) {
            let finding = format!("{key} became dead because of {name}: {reason}");
            self.findings.push(finding);
        }
        if died.len() > TOLD {
            let finding = format!(
                "{} messages in total became dead because of {name}",
                died.len()
            );
            self.findings.push(finding);
        }
        self.faults.stretch(None);
        let what = format!("end of {name}");
        self.cloud.shared.event_log.tell_of_all(&what);
    }

    /// Returns the messages that are dead in the ledger although they are valid, with the reason. A
    /// message that is still held is not settled yet.
    pub(crate) async fn dead_of_no_fault(&self) -> Vec<(String, String)> {
        let items = self.ledger_by_key().await;
        let stubborn = &self.corpus.stubborn;
        let messages = self.corpus.messages.iter().enumerate();
        let sound = messages
            .filter(|(index, copy)| copy.expected != Expected::Dead && !stubborn.contains(index));
        sound
            .filter_map(|(_, copy)| {
                let item = items.get(&copy.key())?;
                let reason = item.reason.clone().unwrap_or_default();
                (item.state == "dead" && !item.held).then(|| (copy.key(), reason))
            })
            .collect()
    }
}
