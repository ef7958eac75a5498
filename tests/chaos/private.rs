//! Searches everything that is printed, queued and stored in the ledger for the canaries and the
//! secrets.

use std::sync::Mutex;

use crate::corpus::CANARIES;

/// The texts to search for, and the result of the search so far.
#[derive(Default)]
pub(crate) struct Private {
    secrets: Mutex<Vec<String>>,
    seen: Mutex<Seen>,
}

/// The result of the search, with figures that show that it covered enough.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    pub(crate) log_lines: usize,
    pub(crate) settled_lines: usize,
    pub(crate) metric_lines: usize,
    pub(crate) bytes: usize,
    pub(crate) found: Vec<String>,
}

impl Private {
    /// Adds texts that must not be printed or stored.
    pub(crate) fn add_secrets(&self, secrets: impl IntoIterator<Item = String>) {
        let mut known = self.secrets.lock().unwrap();
        for secret in secrets {
            let secret = secret.to_ascii_lowercase();
            if !known.contains(&secret) {
                known.push(secret);
            }
        }
    }

    /// Searches everything that a process printed.
    pub(crate) fn printed(&self, name: &str, text: &str) {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.log_lines += text.lines().count();
            seen.settled_lines += text.matches("message settled").count();
            seen.metric_lines += text.matches("CloudWatchMetrics").count();
        }
        self.search(&format!("the output of {name}"), text);
    }

    /// Searches a text that comes from `place`.
    pub(crate) fn search(&self, place: &str, text: &str) {
        let text = text.to_ascii_lowercase();
        let secrets = self.secrets.lock().unwrap().clone();
        let mut seen = self.seen.lock().unwrap();
        seen.bytes += text.len();
        let canaries = CANARIES.iter().map(|canary| (*canary).to_owned());
        for word in canaries.chain(secrets) {
            if let Some(at) = text.find(&word) {
                let from = text.floor_char_boundary(at.saturating_sub(200));
                let to = text.ceil_char_boundary((at + 100).min(text.len()));
                seen.found
                    .push(format!("{place} contains {word}: …{}…", &text[from..to]));
            }
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}
