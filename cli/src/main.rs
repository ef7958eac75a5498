//! `mailverse`: the command for the people who run the sync.
//!
//! | Verb | Question |
//! | --- | --- |
//! | `replay` | What would become of these saved events? |
//! | `backfill` | What lies in the mailboxes from before? |
//! | `policy` | What is tracked? |
//! | `what-if` | What would another policy change? |
//! | `import` | What was saved before there was a sync? |
//! | `explain` | What became of this message, and why? |
//! | `status` | What needs somebody's attention? |
//! | `redrive` | Would it work now? |
//! | `doctor` | Is everything there that the sync needs? |
//! | `webhook` | Do notifications come, and verify? |
//! | `token` | Can a token be had now? |

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

/// Email from any mailbox that Nylas reaches, as completed email activities in Dynamics 365.
#[derive(Parser)]
#[command(name = "mailverse", version, about)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

// What each does, `--help` takes from its arguments.
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
        // Boxed, because its future is large.
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
