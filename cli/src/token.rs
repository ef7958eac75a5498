//! `mailverse token refresh`: renews the Dataverse tokens now instead of at the next scheduled run,
//! which is at most 20 minutes away.
//!
//! It invokes token-refresher and waits for its answer. The command itself reads neither the Entra
//! credential nor a token.
//!
//! Exit status: 0 if each token was renewed or is still valid; 1 if a token could not be renewed
//! (the output says what to change); 2 for bad usage, or if the function could not be invoked.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use mailverse::env::{self, Settings, SettingsError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::function::{Function, FunctionError};
use crate::terminal;

/// Renews the stored Dataverse tokens.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Refresh(RefreshArguments),
}

/// Invokes token-refresher now and reports the result for each token.
///
/// Without this command, the tokens are renewed every 20 minutes. Uses the standard AWS variables
/// (AWS_REGION, AWS_PROFILE); the caller needs the right lambda:InvokeFunction on the function.
#[derive(Args)]
struct RefreshArguments {
    /// Name or ARN of the function. Default: the value of TOKEN_REFRESHER_FUNCTION.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// Print one JSON object: the function's answer, or an object with `error`.
    #[arg(long)]
    json: bool,
}

/// The command failed; the state of the tokens is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("{0}: set it to the output TokenRefresherFunction of the stack, or pass --function")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("failed to print the answer: {0}")]
    Print(#[source] std::io::Error),
}

#[derive(Deserialize)]
struct Refreshed {
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(rename = "identity")]
    application_user: String,
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
            "renewed, valid"
        } else {
            "kept (a newer one was stored already, or Entra did not answer: see the function's log), valid"
        };
        format!("{}: {what} until {}\n", token.application_user, token.expires_at)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_not_renewed_is_listed_with_both_possible_reasons() {
        let token = |application_user: &str, renewed| Token {
            application_user: application_user.to_owned(),
            renewed,
            expires_at: "2026-11-22T16:48:11Z".to_owned(),
        };
        let tokens = vec![token("primary", true), token("h1", false)];
        let table = table(&Refreshed { tokens });
        let (first, second) = table.split_once('\n').unwrap();
        assert_eq!(first, "primary: renewed, valid until 2026-11-22T16:48:11Z");
        assert!(second.starts_with("h1: kept (a newer one was stored already, or"));
        assert!(second.ends_with("valid until 2026-11-22T16:48:11Z\n"));
    }
}
