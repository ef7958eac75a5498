//! The figures as a table, and the check of the promises.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::company::allowed;
use crate::history::Worked;
use crate::live::Live;

/// The share of what the limits leave that the backfill must reach.
const SHARE: f64 = 0.90;
/// The factor by which p99 may grow.
const GROWTH: f64 = 1.25;

/// The measurements of one phase.
pub(crate) struct Phase {
    /// For each live message, the time from webhook to completed activity.
    pub(crate) live: Live,
    pub(crate) worked: Worked,
    /// By how much a timer was late, each time.
    pub(crate) late: Vec<Duration>,
}

impl Phase {
    /// Returns a percentile of the time from webhook to completed activity.
    fn percentile(&self, percent: usize) -> Duration {
        nearest_rank(&self.live.latencies, percent)
    }
}

fn nearest_rank(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    let found = rank.checked_sub(1).and_then(|n| sorted.get(n));
    found.copied().unwrap_or_default()
}

pub(crate) struct Figures {
    pub(crate) alone: Phase,
    pub(crate) history: Phase,
    pub(crate) both: Phase,
    pub(crate) states: BTreeMap<&'static str, usize>,
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn ratio(part: u64, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
impl Figures {
    /// Returns the operations for one live message.
    fn for_a_live_mail(&self) -> f64 {
        ratio(self.alone.live.operations, self.alone.live.latencies.len())
    }

    /// Returns the operations per second of live mail, and of the backfill.
    fn rates(&self, phase: &Phase) -> (f64, f64) {
        let seconds = phase.worked.time.as_secs_f64();
        let live = phase.live.latencies.len() as f64 * self.for_a_live_mail() / seconds;
        (live, phase.worked.operations as f64 / seconds - live)
    }

    /// Returns the rate of the backfill as a share of what live mail left it of the limits.
    fn share(&self, phase: &Phase) -> f64 {
        let (live, history) = self.rates(phase);
        history / (allowed() - live)
    }

    /// Returns the factor by which p99 of live mail grew.
    fn growth(&self) -> f64 {
        self.both.percentile(99).as_secs_f64() / self.alone.percentile(99).as_secs_f64()
    }

    /// Returns the promises that do not hold.
    pub(crate) fn broken(&self) -> Vec<&'static str> {
        let fast = [&self.history, &self.both].map(|phase| self.share(phase) >= SHARE);
        let settled = self.states.keys().all(|state| *state == "written");
        let promises = [
            (
                fast == [true; 2],
                "backfill runs at 90 % of what the limits allow",
            ),
            (settled, "no message is given up"),
            (
                self.growth() < GROWTH,
                "p99 of live mail grows by less than 25 %",
            ),
        ];
        let broken = promises.iter().filter(|(holds, _)| !holds);
        broken.map(|(_, promise)| *promise).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<46}{:>12}{:>12}{:>12}",
            "", "live alone", "history", "both"
        )?;
        let phases = [&self.alone, &self.history, &self.both];
        let mut row = |what: &str, of: &dyn Fn(&Phase) -> Option<String>| {
            write!(f, "{what:<46}")?;
            for phase in phases {
                write!(f, "{:>12}", of(phase).unwrap_or_default())?;
            }
            writeln!(f)
        };
        let with_live =
            |phase: &Phase, text: String| (!phase.live.latencies.is_empty()).then_some(text);
        let with_history =
            |phase: &Phase, text: String| (!phase.worked.time.is_zero()).then_some(text);
        row("live messages", &|phase| {
            with_live(phase, phase.live.latencies.len().to_string())
        })?;
        for percent in [50, 99] {
            row(
                &format!("webhook to completed activity, p{percent}, ms"),
                &|phase| with_live(phase, phase.percentile(percent).as_millis().to_string()),
            )?;
        }
        row("history, messages a second", &|phase| {
            let emails = phase
                .worked
                .emails
                .saturating_sub(phase.live.latencies.len());
            let rate = emails as f64 / phase.worked.time.as_secs_f64();
            with_history(phase, format!("{rate:.1}"))
        })?;
        row("history, operations a second", &|phase| {
            with_history(phase, format!("{:.1}", self.rates(phase).1))
        })?;
        row(
            &format!("what live mail leaves it of {:.0}", allowed()),
            &|phase| with_history(phase, format!("{:.1}", allowed() - self.rates(phase).0)),
        )?;
        row("share of that, % (90 or more)", &|phase| {
            with_history(phase, format!("{:.1}", 100.0 * self.share(phase)))
        })?;
        row("requests refused with 429", &|phase| {
            with_history(phase, phase.worked.throttled.to_string())
        })?;
        row("pages of Nylas for 100 messages", &|phase| {
            let emails = phase
                .worked
                .emails
                .saturating_sub(phase.live.latencies.len());
            let pages = 100.0 * phase.worked.pages as f64 / emails as f64;
            with_history(phase, format!("{pages:.1}"))
        })?;
        row("the machine: a timer was late, p99, ms", &|phase| {
            Some(nearest_rank(&phase.late, 99).as_millis().to_string())
        })?;
        let states: Vec<String> = self
            .states
            .iter()
            .map(|(state, n)| format!("{state} {n}"))
            .collect();
        writeln!(f, "messages in the end: {}", states.join(", "))?;
        writeln!(
            f,
            "p99 beside history: {:+.1} % (less than +25)",
            100.0 * (self.growth() - 1.0)
        )
    }
}
