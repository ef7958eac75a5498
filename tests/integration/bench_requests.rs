//! Prints how many requests to Dataverse a hundred new messages with two known people each take.
//! `make bench-requests` runs it.
//!
//! Exit status: 0 if a batch of them takes at most the promised number, 1 if it takes more.

#![expect(
    dead_code,
    unused_imports,
    reason = "the test world has more than this benchmark uses"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod test_organisation;
mod tripwire;

use std::process::ExitCode;

use local_aws::dynamo;
use mailverse::clients::dataverse::emails::WriteMode;
use test_organisation::hundred::{MESSAGES, MOST_REQUESTS, requests, requests_of_strangers};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    println!(
        "requests to Dataverse until {MESSAGES} new messages with two known people each are written"
    );
    let batch = requests(WriteMode::ChangeSet, MESSAGES).await;
    println!("{batch:>6}  in a batch, one change set each (at most {MOST_REQUESTS} are promised)");
    let stepwise = requests(WriteMode::Stepwise, MESSAGES).await;
    println!("{stepwise:>6}  in a batch, request by request");
    let alone = requests(WriteMode::Stepwise, 1).await;
    println!("{alone:>6}  one by one, request by request");
    let strangers = requests_of_strangers(WriteMode::ChangeSet, MESSAGES).await;
    println!(
        "{strangers:>6}  in a batch, if both people are new and become contacts of a new company"
    );
    if batch > MOST_REQUESTS {
        println!("more than promised");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
