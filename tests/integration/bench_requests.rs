//! Prints how many requests to Dataverse a hundred new mails with two known people each take. `make bench-requests` runs it.
//!
//! Exit status: 0 when a batch of them takes as few as promised, 1 when it takes more.

#![expect(
    dead_code,
    unused_imports,
    reason = "the world of the tests holds more than is measured here"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod tripwire;
mod world;

use std::process::ExitCode;

use mailverse::dataverse::write::WriteMode;
use stage::dynamo;
use world::hundred::{MAILS, MOST_REQUESTS, requests, requests_of_strangers};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    println!(
        "requests to Dataverse until {MAILS} new mails with two known people each are written"
    );
    let batch = requests(WriteMode::ChangeSet, MAILS).await;
    println!("{batch:>6}  in a batch, as a change set each (at most {MOST_REQUESTS} are promised)");
    let stepwise = requests(WriteMode::Stepwise, MAILS).await;
    println!("{stepwise:>6}  in a batch, step by step");
    let alone = requests(WriteMode::Stepwise, 1).await;
    println!("{alone:>6}  one by one, step by step");
    let strangers = requests_of_strangers(WriteMode::ChangeSet, MAILS).await;
    println!(
        "{strangers:>6}  in a batch, when both people are new and become contacts of a new company"
    );
    if batch > MOST_REQUESTS {
        println!("more than promised");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
