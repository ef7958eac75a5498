//! The chaos harness: runs the compiled functions against emulators over their real protocols,
//! causes faults, and audits the result.
//!
//! | Question | File |
//! | --- | --- |
//! | What emails are there, and which outcome is expected? | `corpus.rs` |
//! | What happens in which order? How does time pass? | `run.rs`, `ending.rs`; `time.rs` |
//! | Who invokes the functions? | `invoking.rs` |
//! | Which random faults are there? | `faults.rs` |
//! | Which faults affect everyone, or last long? | `incident.rs`, `stretch.rs`, `scenes.rs` |
//! | What is played on purpose? What must a run have covered? | `scenarios.rs`; `demands.rs` |
//! | Where can a process be killed, and how? | `plan.rs`, `fault_proxy.rs` |
//! | What does a request ask for? | `asked.rs` |
//! | How does a request or its answer get lost? | `connection.rs`, `http.rs` |
//! | What does Lambda do for a process? | `worker.rs`, `queue.rs` |
//! | What must hold at the end? | `audit.rs`; all the time, in the ledger: `history.rs`; for stored data: `private.rs` |
//! | When does another client write the same email? | `race.rs` |
//! | What happened to the message of a finding? | `event_log.rs` |
//! | Would the audit detect a broken guard? | `defect.rs` |
//!
//! The seed decides the emails, the deliveries, and the faults that are planned for each
//! invocation. How the processes interleave depends on the machine. The verdict must be the same
//! for every interleaving.
//!
//! Exit status: 0 if there are no findings; 1 if the audit found something, or with `--break`,
//! found the broken guard; 3 if, with `--break`, it found only something else.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod asked;
mod audit;
mod cloud;
mod connection;
mod corpus;
mod defect;
mod demands;
mod ending;
mod event_log;
mod fault_proxy;
mod faults;
mod figures;
mod history;
mod http;
mod incident;
mod invoking;
mod plan;
mod private;
mod queue;
mod race;
mod run;
mod scenarios;
mod scenes;
mod stretch;
mod time;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use crate::audit::Verdict;
use crate::corpus::Size;
use crate::defect::Defect;
use crate::event_log::EventLog;
use crate::incident::Incident;
use crate::plan::Mode;
use crate::run::{Run, Shape};

/// Kills, disconnects, throttles and overruns the functions, then audits the outcome of every
/// message.
#[derive(Parser)]
struct Options {
    /// Seed: the same seed draws the same emails and the same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use a small corpus, for every test run.
    #[arg(long)]
    short: bool,
    /// Break a guard; the audit must detect it.
    #[arg(long = "break", value_name = "GUARD")]
    defect: Option<Defect>,
    /// Switch an incident on; can be repeated. Without it, the default incidents are on.
    #[arg(long = "fault", value_name = "INCIDENT")]
    incidents: Vec<Incident>,
    /// Print the kill matrix as well.
    #[arg(long)]
    verbose: bool,
}

/// The memory of sync-worker in `template.yaml`, in MB.
const WORKER_MEMORY: u64 = 512;

/// The most findings that are printed.
const SHOWN: usize = 40;

/// The number of findings for which the preceding events are printed.
const TOLD: usize = 5;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let shape = shape(&options);
    let mut run = Run::prepare(shape.clone()).await;
    run.play().await;
    run.stop().await;
    let mut verdict = run.audit().await;
    let figures = run.cloud.shared.figures.lock().unwrap();
    let unmet = demands::unmet(&figures, &shape.modes, shape.wanted);
    if options.defect.is_none() && !unmet.is_empty() {
        let finding = format!(
            "required, but not covered, although it was tried on purpose {} times: {}",
            figures.on_purpose,
            unmet.join("; ")
        );
        verdict.findings.push(finding);
    }
    let incidents = run.cloud.shared.incidents.lock().unwrap();
    for incident in &shape.incidents {
        // A product that asks for few parties at a time never meets the slow operations of
        // `crowds`.
        if *incident != Incident::Crowds && incidents.met(*incident) == 0 {
            let finding = format!("{} was switched on, but met no request", incident.name());
            verdict.findings.push(finding);
        }
    }
    drop(incidents);
    let memory = run.workers.iter().map(|worker| worker.peak_memory).max();
    let memory = memory.unwrap_or_default() >> 20;
    let heavy = [Incident::Crowds, Incident::LargeBodies];
    if memory > WORKER_MEMORY && heavy.iter().any(|it| shape.incidents.contains(it)) {
        let finding =
            format!("a worker used {memory} MB, but the function has only {WORKER_MEMORY} MB");
        verdict.findings.push(finding);
    }
    println!(
        "chaos seed {}: messages {}, deliveries {}, invocations {}, kills {}, faults {}, races {}, written {}, skipped {}, dead {}, lost {}, duplicated {}, \
         two holders {}, {:.0} s",
        options.seed,
        run.corpus.messages.len(),
        figures.deliveries,
        figures.invocations,
        figures.kills(),
        figures.faults + figures.cuts,
        run.cloud.shared.races.lock().unwrap().come(),
        verdict.written,
        verdict.skipped,
        verdict.dead,
        verdict.lost,
        verdict.duplicated,
        verdict.two_holders,
        run.time.real().as_secs_f64(),
    );
    if options.verbose || (!verdict.findings.is_empty() && options.defect.is_none()) {
        println!("{}", figures.matrix());
        println!(
            "time passed {} times, dead letters {}, stranded {}, scenarios {:?}, tried on purpose {}, memory of a worker {memory} MB",
            figures.jumps,
            figures.dead_letters,
            figures.stranded,
            figures.scenarios,
            figures.on_purpose
        );
        let seen = run.private.seen();
        println!(
            "searched for private texts: {} lines of logs, {} bytes in all",
            seen.log_lines, seen.bytes
        );
    }
    // A moment is missed if the answer to the write is lost, and it cannot be repeated for the same
    // email.
    let unmet = run.cloud.shared.races.lock().unwrap().unmet();
    if !unmet.is_empty() {
        println!(
            "not covered, and not required: a row of another client that is written {}",
            unmet.join(", ")
        );
    }
    drop(figures);
    judge(&options, &verdict, &run.cloud.shared.event_log)
}

fn shape(options: &Options) -> Shape {
    // Many small rounds, because moto becomes slow with many messages in a queue.
    let (messages, rounds, scenarios, wanted, stubborn, kept) =
        match (options.defect, options.short) {
            (Some(_), _) => (100, 4, 2, 1, 0, (12, 6)),
            (None, true) => (250, 8, 2, 2, 2, (56, 8)),
            (None, false) => (2_000, 64, 6, 2, 5, (80, 24)),
        };
    // The broken keys are consistent within a request, but not across the requests of a stepwise
    // write.
    let whole = options.defect == Some(Defect::Key);
    let mut incidents = options.incidents.clone();
    if incidents.is_empty() && options.defect.is_none() {
        incidents.extend(Incident::BY_DEFAULT);
    }
    let of = |incident, number| {
        if incidents.contains(&incident) {
            number
        } else {
            0
        }
    };
    Shape {
        seed: options.seed,
        size: Size {
            messages,
            with_files: !whole,
            stubborn,
            kept,
            late_files: of(Incident::LateFiles, messages / 40),
            broken_files: of(Incident::BrokenFiles, messages / 80),
            crowds: of(Incident::Crowds, 2),
            large_bodies: of(Incident::LargeBodies, 10),
        },
        rounds,
        scenarios,
        wanted,
        modes: [
            Mode::ChangeSet,
            if whole {
                Mode::ChangeSet
            } else {
                Mode::Stepwise
            },
            Mode::ChangeSet,
        ],
        defect: options.defect,
        incidents,
    }
}

/// Prints the findings and returns whether they are the expected ones.
fn judge(options: &Options, verdict: &Verdict, event_log: &EventLog) -> ExitCode {
    let shown = verdict.findings.iter().take(SHOWN);
    shown.for_each(|finding| println!("  seed {}: {finding}", options.seed));
    if options.defect.is_none() {
        let told = verdict.findings.iter().take(TOLD);
        told.flat_map(|finding| event_log.of(finding))
            .for_each(|line| println!("    {line}"));
    }
    if verdict.findings.len() > SHOWN {
        println!("  and {} more", verdict.findings.len() - SHOWN);
    }
    let seen = match options.defect {
        None => !verdict.findings.is_empty(),
        Some(Defect::Fence) => verdict.stale > 0 && verdict.lost > 0,
        Some(Defect::Key) => verdict.duplicated > 0,
        Some(Defect::Claim) => verdict.two_holders > 0,
    };
    match (seen, verdict.findings.is_empty()) {
        (true, _) => ExitCode::from(1),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(3),
    }
}
