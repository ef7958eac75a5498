//! How a run goes, for people: a bar for each mailbox, and one line at the end.
//!
//! Nobody knows beforehand how many messages there are. But a list goes back in time, so how far it has come, of the time that it has to go back, is what a
//! bar shows, and what the time left is reckoned from.

use std::collections::HashMap;
use std::time::Instant;

use backfill::request::{Answer, TaskAnswer};
use chrono::Utc;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mailverse::dedupe::runs::TaskState;
use mailverse::ids::GrantId;

use crate::terminal::counted;

/// A bar for each mailbox, on standard error, and only on a terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    each: HashMap<GrantId, Mailbox>,
    begun: Instant,
}

struct Mailbox {
    bar: ProgressBar,
    /// Messages that were listed when we began to look: a run may have gone on for long before.
    listed_before: u64,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            each: HashMap::new(),
            begun: Instant::now(),
        }
    }

    pub(crate) fn show(&mut self, answer: &Answer) {
        let whole = span(Utc::now().timestamp(), answer.received_after);
        let seconds = self.begun.elapsed().as_secs();
        for task in &answer.tasks {
            let listed = task.coverage.listed;
            let Mailbox { bar, listed_before } = self
                .each
                .entry(task.grant_id.clone())
                .or_insert_with(|| Mailbox {
                    bar: self.all.add(bar(&task.grant_id, whole)),
                    listed_before: listed,
                });
            let rate = listed.saturating_sub(*listed_before).checked_div(seconds);
            bar.set_message(told(task, rate));
            match task.state {
                TaskState::Done | TaskState::Failed if !bar.is_finished() => bar.finish(),
                TaskState::Done | TaskState::Failed | TaskState::Parked => {}
                TaskState::Queued => {
                    let reached = task.reached.unwrap_or(answer.received_after);
                    if task.reached.is_some() {
                        bar.set_position(
                            whole.saturating_sub(span(reached, answer.received_after)),
                        );
                    }
                }
            }
        }
    }

    /// Takes the bars away.
    pub(crate) fn clear(&self) {
        // A terminal that cannot be cleared keeps them.
        self.all.clear().ok();
    }
}

fn span(later: i64, earlier: i64) -> u64 {
    u64::try_from(later - earlier).unwrap_or_default()
}

fn bar(grant: &GrantId, whole: u64) -> ProgressBar {
    let bar = ProgressBar::new(whole);
    if let Ok(style) =
        ProgressStyle::with_template("{prefix:.bold} {bar:20} {percent:>3} %, {eta} left: {msg}")
    {
        bar.set_style(style);
    }
    let id: String = grant.as_str().chars().take(12).collect();
    bar.with_prefix(id)
}

/// What was found in a mailbox so far, and how many messages a second are being listed.
fn told(task: &TaskAnswer, rate: Option<u64>) -> String {
    let found = &task.coverage;
    let mut text = format!(
        "{} listed, {} written, {} skipped",
        found.listed, found.written, found.skipped
    );
    for (what, number) in [("waiting", found.waiting), ("dead", found.dead)] {
        if number > 0 {
            text.push_str(&format!(", {number} {what}"));
        }
    }
    match task.state {
        TaskState::Queued => {
            if let Some(rate) = rate.filter(|rate| *rate > 0) {
                text.push_str(&format!(", {rate} a second"));
            }
        }
        TaskState::Done => text.push_str("; done"),
        TaskState::Parked => text.push_str("; parked until somebody has signed in again"),
        TaskState::Failed => text.push_str("; failed"),
    }
    text
}

/// How many mailboxes a run has.
pub(crate) fn mailboxes(answer: &Answer) -> String {
    match answer.tasks.len() {
        1 => "1 mailbox".to_owned(),
        number => format!("{number} mailboxes"),
    }
}

/// One line for the run, and one for each mailbox that did not come to its end.
pub(crate) fn summary(answer: &Answer, seconds: Option<f64>) -> String {
    let verb = if answer.dry_run {
        "would be written"
    } else {
        "written"
    };
    let mut text = format!(
        "{} in {}: {} {verb}, {} skipped, {} waiting, {} dead",
        counted(
            usize::try_from(answer.total_emails).unwrap_or(usize::MAX),
            "message"
        ),
        mailboxes(answer),
        answer.synced,
        answer.skipped,
        answer.waiting,
        answer.dead
    );
    if let Some(seconds) = seconds.filter(|seconds| *seconds >= 1.0) {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = answer.total_emails as f64 / seconds;
        text.push_str(&format!(", {rate:.0} a second"));
    }
    for task in &answer.tasks {
        if let Some(reason) = &task.reason {
            let state = task.state.as_str();
            text.push_str(&format!("\n{}: {state}: {reason}", task.grant_id));
        }
    }
    text
}
