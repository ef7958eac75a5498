//! Tests of the parts together, against emulators that speak the real protocols.
//!
//! | Question | File |
//! | --- | --- |
//! | Does the ledger keep its contract? | `ledger_contract.rs` |
//! | How does a client handle each failure? | `clients.rs` |
//! | Is a message mapped as its golden case expects? | `mapping.rs` |
//! | Does a message in a mailbox become the right row in Dataverse, whatever happens? | `pipeline.rs` |
//! | What if a message tries to make the sync fail? | `hostile.rs` |
//! | What does an operator see who replays saved events? | `replay.rs` |
//! | What does an operator see who checks, pushes or reads a policy? | `policy_command.rs` |
//! | Does the manual of the command match what the command offers? | `docs_cli.rs` |
//! | Do the manuals show what the command prints? | `manual.rs`, with a test beside those of each command |
//! | Is there always a token, and what happens without one? | `tokens.rs` |
//! | Do the compiled functions do all that, as Lambda runs them? | `end_to_end.rs` |
//! | What do operators see and do? | `end_to_end/operating.rs` |
//! | What do these tests run against? | `test_organisation.rs`, `tripwire.rs`, `failing_queue.rs`; what the functions run against: `../local_aws/` |
//!
//! A test name is a sentence about behaviour. No test waits for time to pass or sets environment
//! variables, and every random choice has a seed that is printed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test, a value that is not as expected is the failure to report"
)]

/// Runs each of these tests once per write mode, which it takes as its argument. Tests of the batch
/// itself run in one mode only.
macro_rules! in_both_write_modes {
    ($($test:ident),+ $(,)?) => {
        mod as_a_change_set {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(mailverse::clients::dataverse::emails::WriteMode::ChangeSet).await;
                }
            )+
        }

        mod step_by_step {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(mailverse::clients::dataverse::emails::WriteMode::Stepwise).await;
                }
            )+
        }
    };
}

mod clients;
mod docs_cli;
mod end_to_end;
mod failing_queue;
mod hostile;
mod ledger_contract;
mod manual;
mod mapping;
mod pipeline;
mod policy_command;
mod replay;
mod test_organisation;
mod tokens;
mod tripwire;

use local_aws::dynamo;
