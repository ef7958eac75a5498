//! Measures whether the backfill uses what Dataverse allows, and whether live mail gets slower.
//! `make bench` runs it in real time, in less than three minutes.
//!
//! It runs the real handlers in this process: the receiver, four workers, and four invocations of
//! the backfill, each with its own pipeline, over the embedded DynamoDB. The emulator has the
//! documented limits in a window of 10 seconds instead of 300 (200 requests, 40 seconds of
//! execution, 52 in flight). It needs 40 ms for each operation and 30 ms for each direction of the
//! network. There are three phases: live mail alone, backfill alone, both.
//!
//! | Promise | Figure |
//! | --- | --- |
//! | backfill runs at 90 % or more of what the limits allow | its operations, as a share of what live mail leaves of the limit |
//! | no message is given up | states in the ledger at the end: all `written` |
//! | the time from webhook to completed activity grows by less than 25 % | p99 (nearest rank) with backfill compared with p99 alone; same arrivals, by their seed |
//!
//! The time that a request takes counts as Dataverse's, so other load on the machine matters: the
//! figures include by how much a timer was late.
//!
//! Exit status: 0 if all promises hold, 1 if one does not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod company;
mod figures;
mod history;
mod live;
mod queue;

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use self::company::Company;
use self::figures::{Figures, Phase};
use self::live::Live;

/// Measures live mail and backfill under one rate limit.
#[derive(Parser)]
struct Arguments {
    /// Seed for the arrivals of live mail.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds of each phase with live mail; the phase with backfill alone takes a third of it.
    #[arg(long, default_value_t = 50)]
    seconds: u64,
}

// One thread for each process that is simulated, so that the machine's scheduler divides the time
// among them.
#[tokio::main(flavor = "multi_thread", worker_threads = 12)]
async fn main() -> ExitCode {
    let Arguments { seed, seconds } = Arguments::parse();
    let company = Arc::new(Company::found().await);
    let whole = Duration::from_secs(seconds);
    println!(
        "seed {seed}; three phases of {seconds}, {} and {seconds} s",
        seconds / 3
    );
    let alone = measure(&company, Some(seed), false, whole).await;
    history::ask(&company).await;
    let history = measure(&company, None, true, whole / 3).await;
    let both = measure(&company, Some(seed), true, whole).await;
    company.drain().await;
    let figures = Figures {
        alone,
        history,
        both,
        states: company.states().await,
    };
    print!("{figures}");
    let broken = figures.broken();
    for promise in &broken {
        println!("broken: {promise}");
    }
    ExitCode::from(u8::from(!broken.is_empty()))
}

/// Runs and measures one phase.
async fn measure(
    company: &Arc<Company>,
    seed: Option<u64>,
    history: bool,
    time: Duration,
) -> Phase {
    let live = async {
        match seed {
            Some(seed) => live::arrive(company, seed, time).await,
            None => Live::default(),
        }
    };
    let history = async {
        if history {
            history::run(company, time).await
        } else {
            history::Worked::default()
        }
    };
    let mut late = Vec::new();
    let measured = async { tokio::join!(live, history) };
    let (live, worked) = tokio::select! {
        measured = measured => measured,
        never = be_late(&mut late) => match never {},
    };
    Phase { live, worked, late }
}

/// Records by how much a timer was late, each time: other load on the machine also delays
/// everything that is measured here.
async fn be_late(late: &mut Vec<Duration>) -> Infallible {
    const TIMER: Duration = Duration::from_millis(10);
    loop {
        let begun = Instant::now();
        company::pass(TIMER).await;
        late.push(begun.elapsed().saturating_sub(TIMER));
    }
}
