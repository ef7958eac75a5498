//! The history harness: eighteen months of mail of five mailboxes through the compiled backfill, and an audit afterwards.
//!
//! | Question | File |
//! | --- | --- |
//! | What mail is there, and around which services? | `world.rs` |
//! | What does Lambda do for the functions, and what goes wrong? | `run.rs` |
//! | What must hold in the end? | `audit.rs` |
//!
//! Every invocation is told a deadline that leaves it a few seconds of work, and is killed after twenty; some are killed in the middle of it. One
//! request to Nylas in a hundred fails. Time is let pass by ending leases and bringing tasks back, never by waiting. The seed decides the mail, the faults and
//! the moments; how the processes interleave is up to the machine, and the verdict must be the same for every interleaving.
//!
//! Exit status: 0 when every bound holds, 1 when one is broken.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod audit;
mod run;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};

use crate::run::Run;
use crate::world::World;

/// Takes eighteen months of mail through the compiled backfill, cuts and kills it, and audits what became of every message.
#[derive(Parser)]
struct Options {
    /// The same seed draws the same mail and the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Some hundred messages, for every test run.
    #[arg(long)]
    short: bool,
    /// Breaks something on purpose, which the audit then has to see.
    #[arg(long = "break", value_name = "WHAT")]
    defect: Option<Defect>,
}

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Defect {
    /// No cursor outlives its invocation.
    Cursor,
    /// A task whose worker was killed does not come back.
    Redelivery,
}

/// What a run is like.
#[derive(Debug, Clone, Copy)]
struct Shape {
    seed: u64,
    /// Messages of each mailbox.
    messages: usize,
    /// Seconds of work that an invocation is told it has, at most.
    work: f64,
    /// How many invocations are killed in the middle of their work.
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
    let world = World::start(&shape).await;
    let mut run = Run::new(&shape, &world);
    let answer = run.history().await;
    run.drain().await;
    let verdict = audit::audit(&world, &shape, run.figures, answer.as_ref()).await;
    let figures = &run.figures;
    println!(
        "history seed {}: mailboxes {}, messages {}, invocations {}, cut {}, killed {}, failed requests {}, written {}, skipped {}, dead {}, lost {}, twice {}, \
         dataverse requests a message {:.3}, nylas pages {} for {} messages, {:.0} s",
        options.seed,
        world::MAILBOXES,
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
