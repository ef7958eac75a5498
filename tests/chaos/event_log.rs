//! Records the events of each message in order, so that a finding can be printed with what led to
//! it.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;

use crate::time::Time;

/// The most events of one message that are printed.
const MOST: usize = 120;

/// The events of each message, by `mailbox/message`, and the events that concern all of them.
#[derive(Default)]
pub(crate) struct EventLog {
    time: Time,
    told: Mutex<HashMap<String, Vec<(u64, String)>>>,
    order: Mutex<u64>,
}

/// The key for events that concern all messages.
const EVERY: &str = "";

impl EventLog {
    pub(crate) fn keeping(time: Time) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    /// Records an event of one message.
    pub(crate) fn tell(&self, key: &str, what: &str) {
        let mut order = self.order.lock().unwrap();
        *order += 1;
        let line = format!("{:>9.1} s  {what}", self.time.now().as_secs_f64());
        let mut told = self.told.lock().unwrap();
        told.entry(key.to_owned()).or_default().push((*order, line));
    }

    /// Records an event of the message that the body of a queue message names.
    pub(crate) fn tell_of_body(&self, body: &str, what: &str) {
        if let Some(key) = key_of(body) {
            self.tell(&key, what);
        }
    }

    /// Records an event that concerns every message.
    pub(crate) fn tell_of_all(&self, what: &str) {
        self.tell(EVERY, what);
    }

    /// Returns the events of the messages that `finding` names.
    pub(crate) fn of(&self, finding: &str) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let every = told.get(EVERY).map_or(&[][..], Vec::as_slice);
        let named = told
            .iter()
            .filter(|(key, _)| !key.is_empty() && names(finding, key));
        let mut lines = Vec::new();
        for (key, own) in named {
            let mut all: Vec<_> = own.iter().chain(every).collect();
            all.sort();
            lines.push(format!("events of {key}:"));
            lines.extend(all.iter().take(MOST).map(|(_, line)| line.clone()));
        }
        lines
    }
}

/// Returns whether the text contains the key as a whole word.
fn names(finding: &str, key: &str) -> bool {
    finding.split([' ', ':', ',']).any(|word| word == key)
}

/// Returns the key of the message that the body of a queue message names.
pub(crate) fn key_of(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let text = |name: &str| body[name].as_str();
    Some(format!("{}/{}", text("grant_id")?, text("message_id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_reported_with_the_events_of_its_message_and_the_global_events() {
        let event_log = EventLog::default();
        event_log.tell("g/m1", "claimed");
        event_log.tell_of_all("the table is emptied");
        event_log.tell_of_body(r#"{"grant_id":"g","message_id":"m1"}"#, "received");
        event_log.tell("g/m", "another");
        let told = event_log.of("g/m1: lost").join("\n");
        let at = |what: &str| told.find(what).unwrap();
        assert!(
            at("claimed") < at("emptied") && at("emptied") < at("received"),
            "{told}"
        );
        assert!(!told.contains("another"), "{told}");
    }
}
