//! `mailverse`: the command-line tool for the operators of the sync.
//!
//! | Command | What it does |
//! | --- | --- |
//! | `replay` | runs saved webhook events through the sync and reports what would be written |
//! | `backfill` | imports the mail that is in the mailboxes already |
//! | `policy` | checks, stores and shows the policy: what is tracked and how |
//! | `what-if` | shows what another policy would change |
//! | `import` | imports messages and contacts that an earlier integration saved |
//! | `explain` | reports the outcome of a message and the reasons |
//! | `status` | lists messages that need an operator |
//! | `redrive` | queues dead messages again |
//! | `doctor` | checks everything that the sync needs |
//! | `webhook` | creates the webhook at Nylas, checks it and rotates its secret |
//! | `token` | renews the stored Dataverse tokens |

mod aws;
mod backfill;
mod doctor;
mod explain;
mod function;
mod import;
mod policy;
mod redrive;
mod replay;
mod services;
mod status;
mod terminal;
mod token;
mod webhook;
mod what_if;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tracks email from any mailbox that Nylas can read as completed email activities in Dynamics 365.
#[derive(Parser)]
#[command(name = "mailverse", version, about)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

// `--help` takes the description of each command from the doc comment of its arguments.
#[derive(Subcommand)]
enum Verb {
    Replay(replay::Arguments),
    Backfill(backfill::Arguments),
    Policy(policy::Arguments),
    WhatIf(what_if::Arguments),
    Import(import::Arguments),
    Explain(explain::Arguments),
    Status(status::Arguments),
    Redrive(redrive::Arguments),
    Doctor(doctor::Arguments),
    Webhook(webhook::Arguments),
    Token(token::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let result: Result<ExitCode, Box<dyn std::error::Error>> = match command.verb {
        // Boxed because the future is large.
        Verb::Replay(arguments) => Box::pin(replay::run(arguments)).await.map_err(Into::into),
        Verb::Backfill(arguments) => backfill::run(arguments).await.map_err(Into::into),
        Verb::Policy(arguments) => policy::run(arguments).await.map_err(Into::into),
        Verb::WhatIf(arguments) => Box::pin(what_if::run(arguments)).await.map_err(Into::into),
        Verb::Import(arguments) => import::run(arguments).await.map_err(Into::into),
        Verb::Explain(arguments) => explain::run(arguments).await.map_err(Into::into),
        Verb::Status(arguments) => status::run(arguments).await.map_err(Into::into),
        Verb::Redrive(arguments) => redrive::run(arguments).await.map_err(Into::into),
        Verb::Doctor(arguments) => doctor::run(arguments).await.map_err(Into::into),
        Verb::Webhook(arguments) => webhook::run(arguments).await.map_err(Into::into),
        Verb::Token(arguments) => token::run(arguments).await.map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        eprintln!("mailverse: {error}");
        ExitCode::from(2)
    })
}
