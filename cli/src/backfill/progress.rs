//! The progress of a backfill run: one bar for each mailbox, and a summary at the end.
//!
//! The number of messages is not known in advance. But a mailbox is listed from new to old, so a
//! bar shows how much of the time span was listed. The remaining time is estimated from that.

use std::collections::HashMap;
use std::time::Instant;

use backfill::request::{Answer, TaskAnswer};
use chrono::Utc;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mailverse::ledger::backfill_runs::TaskState;
use mailverse::model::ids::GrantId;

use crate::terminal::counted;

/// One progress bar for each mailbox, shown on standard error and only on a terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    each: HashMap<GrantId, Mailbox>,
    begun: Instant,
}

struct Mailbox {
    bar: ProgressBar,
    /// The number of messages that were listed before the first progress report. The run may have
    /// started long before.
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

    /// Updates the bars from an answer of the backfill function.
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

    /// Removes the bars.
    pub(crate) fn clear(&self) {
        // If the terminal cannot be cleared, the bars stay visible.
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

/// Returns the counts of a mailbox so far, and the rate in messages per second.
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
                text.push_str(&format!(", {rate}/s"));
            }
        }
        TaskState::Done => text.push_str("; done"),
        TaskState::Parked => text.push_str("; parked until its owner signs in again"),
        TaskState::Failed => text.push_str("; failed"),
    }
    text
}

/// Returns the number of mailboxes of a run as text.
pub(crate) fn mailboxes(answer: &Answer) -> String {
    match answer.tasks.len() {
        1 => "1 mailbox".to_owned(),
        number => format!("{number} mailboxes"),
    }
}

/// Returns one line for the run, and one for each mailbox whose task has a reason.
///
/// `seconds` is the duration of the run; `None` if it is unknown, and then no rate is shown.
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
        #[expect(clippy::cast_precision_loss, reason = "the rate is only displayed")]
        let rate = answer.total_emails as f64 / seconds;
        text.push_str(&format!(", {rate:.0} per second"));
    }
    for task in &answer.tasks {
        if let Some(reason) = &task.reason {
            let state = task.state.as_str();
            text.push_str(&format!("\n{}: {state}: {reason}", task.grant_id));
        }
    }
    text
}
