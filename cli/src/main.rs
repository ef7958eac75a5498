//! `mailverse`: the command for the people who run the sync.
//!
//! | Verb | Question |
//! | --- | --- |
//! | `replay` | What would become of these saved events? |
//! | `policy` | What is tracked? |
//! | `explain` | What became of this message, and why? |

mod aws;
mod explain;
mod policy;
mod replay;
mod services;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Email from any mailbox that Nylas reaches, as completed email activities in Dynamics 365.
#[derive(Parser)]
#[command(name = "mailverse", version, about)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs saved events through the real handlers and shows what becomes of each message.
    Replay(replay::Arguments),
    /// Checks, stores and shows the policy.
    Policy(policy::Arguments),
    Explain(explain::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let result = match command.verb {
        Verb::Replay(arguments) => replay::run(arguments).await.map_err(|e| e.to_string()),
        Verb::Policy(arguments) => policy::run(arguments).await.map_err(|e| e.to_string()),
        Verb::Explain(arguments) => explain::run(arguments).await.map_err(|e| e.to_string()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("mailverse: {error}");
        ExitCode::from(2)
    })
}
