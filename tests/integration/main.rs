//! The parts together, against stand-ins that speak the real protocols.
//!
//! | Question | File |
//! | --- | --- |
//! | Does the ledger keep its promises? | `ledger_contract.rs` |
//! | What does a client make of each failure? | `clients.rs` |
//! | Is an email mapped as its golden case says? | `mapping.rs` |
//! | Does a message in a mailbox become the right row in Dataverse, whatever happens? | `pipeline.rs` |
//! | What if somebody wants the sync to fail? | `hostile.rs` |
//! | What does a person see who replays saved events? | `replay.rs` |
//! | What does a person see who checks, pushes or reads a policy? | `policy_command.rs` |
//! | Is the manual of the command what the command offers? | `docs_cli.rs` |
//! | Is there always a token, and what if not? | `tokens.rs` |
//! | Do the compiled functions do all that, as Lambda runs them? | `end_to_end.rs` |
//! | What do the people see and do who operate it? | `end_to_end/operating.rs` |
//! | What do those tests run against? | `world.rs`, `tripwire.rs`; what the functions run against: `../stage/` |
//!
//! A test name is a sentence about behaviour. Nothing waits for time to pass, nothing sets environment variables, and whatever is
//! drawn at random names its seed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "in a test, a value that is not as expected is the failure to report"
)]

/// Each of these tests once for each write mode, which it takes as its argument. What speaks about the batch itself stays in one mode.
macro_rules! in_both_write_modes {
    ($($test:ident),+ $(,)?) => {
        mod as_a_change_set {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(mailverse::dataverse::write::WriteMode::ChangeSet).await;
                }
            )+
        }

        mod step_by_step {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(mailverse::dataverse::write::WriteMode::Stepwise).await;
                }
            )+
        }
    };
}

mod clients;
mod docs_cli;
mod end_to_end;
mod hostile;
mod ledger_contract;
mod mapping;
mod pipeline;
mod policy_command;
mod replay;
mod tokens;
mod tripwire;
mod world;

use stage::dynamo;
