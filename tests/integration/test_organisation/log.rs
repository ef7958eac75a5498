//! Captures the log of one test.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;

/// Captures what the test's thread logs, in the format of the functions: one JSON object per line.
/// Capturing ends when the value is dropped.
pub(crate) struct Log {
    lines: Lines,
    _guard: DefaultGuard,
}

impl Log {
    pub(crate) fn start() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        Self {
            lines,
            _guard: guard,
        }
    }

    /// Returns the number of errors, which call for an operator.
    pub(crate) fn errors(&self) -> usize {
        self.count(|_| true)
    }

    /// Returns the number of errors that report the message `id` as dead.
    pub(crate) fn errors_about(&self, id: &str) -> usize {
        let key = format!("/{id}");
        self.count(|line| {
            line["sync.key"]
                .as_str()
                .is_some_and(|text| text.ends_with(&key))
                && line["state"] == "dead"
        })
    }

    /// Returns whether a line contains this text, as JSON spells it.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let spelled = Value::from(text).to_string();
        let log = self.lines.0.lock().unwrap();
        String::from_utf8_lossy(&log).contains(&spelled[1..spelled.len() - 1])
    }

    fn count(&self, is_meant: impl Fn(&Value) -> bool) -> usize {
        let text = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["level"] == "ERROR" && is_meant(line))
            .count()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
