//! Serves the emulators until standard input closes.
//!
//! Prints one line of JSON with the addresses and the secrets. Each line of standard input is a
//! [`Command`] in JSON. The answer to it is one line: the number of requests that Dataverse
//! received so far, and the values that it dropped.

use std::error::Error;
use std::io::{self, BufRead, Write};

use emulators::{Dataverse, Emulators, Fault, Setting};
use serde_json::json;

#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    /// The next request is answered with this status and code and, if given, this `Retry-After` in
    /// seconds.
    Refuse(u16, String, Option<u64>),
    /// The connection of the next request breaks: before anything is done, or after everything was
    /// done.
    ResetBefore,
    ResetAfterCommit,
    /// Adds a text column to a table, and an alternate key over it.
    AddKey(String, String),
    BareChangeSetErrors(bool),
    UniqueMessageIds(bool),
    Look,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let emulators = Emulators::start().await?;
    let (dataverse, nylas, entra) = (emulators.dataverse(), emulators.nylas(), emulators.entra());
    let started = json!({"dataverse_url": dataverse.url(), "nylas_url": nylas.url(), "nylas_api_key": nylas.api_key(),
        "authority": entra.authority(), "tenant_id": entra.tenant_id(), "client_id": entra.client_id(),
        "client_secret": entra.client_secret()});
    writeln!(io::stdout(), "{started}")?;
    for line in io::stdin().lock().lines() {
        obey(dataverse, serde_json::from_str(&line?)?)?;
        let dropped = dataverse.dropped().into_iter();
        let dropped: Vec<_> = dropped.map(|it| [it.table, it.column]).collect();
        let seen = json!({"requests": dataverse.requests().total, "dropped": dropped});
        writeln!(io::stdout(), "{seen}")?;
    }
    Ok(())
}

fn obey(dataverse: &Dataverse, command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Refuse(status, code, retry_after_seconds) => dataverse.fail_next(Fault::Status {
            status,
            code,
            message: "refused on demand".to_owned(),
            retry_after_seconds,
        }),
        Command::ResetBefore => dataverse.fail_next(Fault::ResetBefore),
        Command::ResetAfterCommit => dataverse.fail_next(Fault::ResetAfterCommit),
        Command::AddKey(table, column) => {
            dataverse.add_text_column(&table, &column, 100)?;
            dataverse.add_alternate_key(&table, &[&column])?;
        }
        Command::BareChangeSetErrors(on) => dataverse.set_setting(Setting::BareChangeSetErrors(on)),
        Command::UniqueMessageIds(on) => dataverse.set_setting(Setting::UniqueMessageIds(on)),
        Command::Look => {}
    }
    Ok(())
}
