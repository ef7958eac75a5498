//! The compiled `mailverse` command, as seen at a terminal.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::replay;

/// The result of running the command: exit status and output.
pub(super) struct Seen {
    pub(super) status: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// Runs the command with only these settings in its environment, and without an interactive
/// terminal.
pub(super) async fn run(arguments: &[&str], settings: &[(&str, String)]) -> Seen {
    let output = Command::new(replay::command())
        .args(arguments)
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    Seen {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
