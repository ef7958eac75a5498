//! The history harness: runs eighteen months of email from five mailboxes through the compiled
//! backfill, and audits the result.
//!
//! | Question | File |
//! | --- | --- |
//! | What messages are there, and which services? | `test_organisation.rs` |
//! | What does Lambda do for the functions, and what goes wrong? | `run.rs` |
//! | What must hold at the end? | `audit.rs` |
//!
//! Every invocation gets a deadline that leaves it a few seconds of work, and is killed after
//! twenty seconds; some are killed in the middle of their work. One request to Nylas in a hundred
//! fails. The harness makes time pass by ending leases and making tasks visible, never by waiting.
//! The seed decides the messages, the faults and their moments. How the processes interleave
//! depends on the machine, and the verdict must be the same for every interleaving.
//!
//! Exit status: 0 if every bound holds, 1 if one does not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod audit;
mod run;
mod test_organisation;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use crate::run::Run;
use crate::test_organisation::TestOrganisation;

/// Runs eighteen months of email through the compiled backfill, stops and kills it, and audits the
/// outcome of every message.
#[derive(Parser)]
struct Options {
    /// Seed: the same seed draws the same messages and the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use a few hundred messages, for every test run.
    #[arg(long)]
    short: bool,
    /// Break something on purpose; the audit must detect it.
    #[arg(long = "break", value_name = "WHAT")]
    defect: Option<Defect>,
}

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Defect {
    /// No cursor survives its invocation.
    Cursor,
    /// The task of a killed worker is not delivered again.
    Redelivery,
}

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
struct Shape {
    seed: u64,
    /// The number of messages in each mailbox.
    messages: usize,
    /// The most seconds of work that an invocation's deadline allows.
    work: f64,
    /// The number of invocations that are killed in the middle of their work.
    kills: u64,
    short: bool,
    defect: Option<Defect>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let (messages, work, kills) = match (options.defect, options.short) {
        (Some(Defect::Redelivery), _) => (100, 3.0, 5),
        (Some(Defect::Cursor), _) => (600, 4.0, 0),
        (None, true) => (200, 16.0, 2),
        (None, false) => (1_000, 16.0, 6),
    };
    let shape = Shape {
        seed: options.seed,
        messages,
        work,
        kills,
        short: options.short,
        defect: options.defect,
    };
    let begun = Instant::now();
    let organisation = TestOrganisation::start(&shape).await;
    let mut run = Run::new(&shape, &organisation);
    let answer = run.history().await;
    run.drain().await;
    let verdict = audit::audit(&organisation, &shape, run.figures, answer.as_ref()).await;
    let figures = &run.figures;
    println!(
        "history seed {}: mailboxes {}, messages {}, invocations {}, cut {}, killed {}, failed requests {}, written {}, skipped {}, dead {}, lost {}, twice {}, \
         dataverse requests a message {:.3}, nylas pages {} for {} messages, {:.0} s",
        options.seed,
        test_organisation::MAILBOXES,
        verdict.messages,
        figures.invocations,
        figures.cut,
        figures.killed,
        figures.failed_requests,
        verdict.written,
        verdict.skipped,
        verdict.dead,
        verdict.lost,
        verdict.twice,
        verdict.dataverse_requests_a_message,
        verdict.pages,
        verdict.messages,
        begun.elapsed().as_secs_f64(),
    );
    let findings: Vec<&String> = run.findings.iter().chain(&verdict.findings).collect();
    for finding in &findings {
        println!("  seed {}: {finding}", options.seed);
    }
    ExitCode::from(u8::from(!findings.is_empty()))
}
