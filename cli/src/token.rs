//! `mailverse token refresh`: renews the tokens now, instead of within 20 minutes.
//!
//! It invokes token-refresher and waits for its answer: the command itself never reads the Entra credential, or a token.
//!
//! Exit status: 0 when each token was renewed or lives on; 1 when one could not be renewed, with what has to be changed; 2 for bad usage, or when the function could
//! not be invoked.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mailverse::env::{self, Settings, SettingsError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::function::{Function, FunctionError};
use crate::terminal;

/// Renews the Dataverse tokens.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Refresh(RefreshArguments),
}

/// Invokes token-refresher now and tells what came of it.
///
/// Needs the right lambda:InvokeFunction on it, with AWS's own variables.
#[derive(Args)]
struct RefreshArguments {
    /// The function's name or ARN. Without it, TOKEN_REFRESHER_FUNCTION tells it.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Print one JSON object: the function's answer, or its error.
    #[arg(long)]
    json: bool,
}

/// Nothing is known of the tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{0} (the function's name; the stack's output TokenRefresherFunction tells it)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("the answer cannot be printed: {0}")]
    Print(#[source] std::io::Error),
}

#[derive(Deserialize)]
struct Refreshed {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    identity: String,
    renewed: bool,
    expires_at: String,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, TokenError> {
    let Verb::Refresh(arguments) = arguments.verb;
    let mut settings = Settings::new(env::process);
    let name = match arguments.function {
        Some(name) => name,
        None => settings.required("TOKEN_REFRESHER_FUNCTION"),
    };
    settings.finish()?;
    let function = Function::connect(name).await?;
    let (text, succeeded) = match function.ask::<Value>(&json!({})).await {
        Ok(answer) if arguments.json => (format!("{answer}\n"), true),
        Ok(answer) => {
            let refreshed = Refreshed::deserialize(&answer).map_err(FunctionError::Answer)?;
            (table(&refreshed), true)
        }
        Err(FunctionError::Refused(reason)) if arguments.json => {
            (format!("{}\n", json!({ "error": reason })), false)
        }
        Err(FunctionError::Refused(reason)) => (format!("not renewed: {reason}\n"), false),
        Err(error) => return Err(error.into()),
    };
    let printed = std::io::stdout().write_all(text.as_bytes());
    terminal::printed(printed).map_err(TokenError::Print)?;
    Ok(ExitCode::from(u8::from(!succeeded)))
}

fn table(refreshed: &Refreshed) -> String {
    let lines = refreshed.tokens.iter().map(|token| {
        let what = if token.renewed {
            "renewed, good"
        } else {
            "left as it is (a newer one was there, or Entra does not answer: see the function's log), good"
        };
        format!("{}: {what} until {}\n", token.identity, token.expires_at)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_left_as_it_is_is_not_blamed_on_entra_alone() {
        let token = |identity: &str, renewed| Token {
            identity: identity.to_owned(),
            renewed,
            expires_at: "2026-11-22T16:48:11Z".to_owned(),
        };
        let tokens = vec![token("primary", true), token("h1", false)];
        let table = table(&Refreshed { tokens });
        let (first, second) = table.split_once('\n').unwrap();
        assert_eq!(first, "primary: renewed, good until 2026-11-22T16:48:11Z");
        assert!(second.starts_with("h1: left as it is (a newer one was there, or"));
        assert!(second.ends_with("good until 2026-11-22T16:48:11Z\n"));
    }
}
