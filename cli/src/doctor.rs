//! `mailverse doctor`: checks everything that the sync needs. Prints one line per check, and what
//! to do if it fails.
//!
//! | Question | File |
//! | --- | --- |
//! | What is a check, and how is it printed? | `doctor/check.rs` |
//! | Is the ledger table set up correctly? Is the stored policy valid? Do the queues exist, without dead letters? | `doctor/aws.rs` |
//! | Does Nylas accept the API key? Are the mailboxes signed in? | `doctor/nylas.rs` |
//! | Which mailboxes take part, and why? | `doctor/mailboxes.rs` |
//! | Do notifications arrive unchanged? | `webhook/verify.rs`, `webhook/signed_probe.rs` |
//! | Does Dataverse accept the token? What does the role allow? What are the organisation's limits? | `doctor/dataverse.rs`, `doctor/privileges.rs` |
//! | Which further privileges do the policy and the settings need? | `doctor/requirements.rs` |
//! | Can a whole email be written, and in which write mode? (`--probe-write`) | `doctor/test_email.rs` |
//!
//! A check that depends on a broken one is skipped, so that one cause gives one broken line.
//! Without `--probe-write` nothing is changed anywhere: test writes are sent in change sets that
//! Dataverse rolls back (`shared/src/clients/dataverse/probes.rs`). The Entra credential is not
//! checked, because only token-refresher may read it.
//!
//! Exit status: 0 if nothing is broken; 1 if something is; 2 for bad usage.

mod aws;
pub(crate) mod check;
mod dataverse;
mod mailboxes;
mod nylas;
mod privileges;
mod requirements;
mod test_email;

use std::process::ExitCode;

use clap::Args;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::http;
use mailverse::env::{self, Settings};
use mailverse::mailboxes::AllowList;
use mailverse::pipeline::created_on::CreatedOn;

use self::check::{Check, Report};
use self::requirements::Requirements;
use crate::services::{DataverseSettings, NylasSettings};
use crate::terminal;
use crate::webhook::secret_rotation::StoredSecret;
use crate::webhook::{is_receiver, verify};

/// Checks everything that the sync needs, from settings and secrets to Dataverse and the queues.
///
/// Prints one line per check and what to do if it fails. Changes nothing without --probe-write.
/// Reads the settings of the functions and WEBHOOK_URL from the environment, with the standard AWS
/// variables. Exit status: 0 if nothing is broken, 1 if something is, 2 for bad usage.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Write one marked email to Dynamics 365, read it back and delete it. Shows which WRITE_MODE
    /// to use and whether CREATED_ON can be `original`.
    #[arg(long)]
    probe_write: bool,
    /// Print one JSON object instead of one line per check.
    #[arg(long)]
    json: bool,
}

/// The checks could not be run, or the report could not be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, DoctorError> {
    let report = Report(examine(arguments.probe_write).await?);
    let printed = report.print(&mut std::io::stdout().lock(), arguments.json);
    terminal::printed(printed).map_err(DoctorError::Print)?;
    Ok(ExitCode::from(u8::from(!report.is_healthy())))
}

pub(crate) const SETTINGS: &str = "settings";
const AWS: &str = "aws";

/// The settings from the environment; `None` for each one that is missing or malformed.
struct Named {
    nylas: Option<NylasSettings>,
    mailboxes: Option<AllowList>,
    webhook_url: Option<String>,
    webhook_secret: Option<String>,
    dataverse: Option<DataverseSettings>,
    table: Option<String>,
    queue: Option<String>,
    tasks: Option<String>,
    requirements: Requirements,
}

impl Named {
    fn read(checks: &mut Vec<Check>) -> Self {
        let requirements = group(checks, |it| {
            let write_mode = it.one_of("WRITE_MODE", &WriteMode::NAMED);
            let created_on = it.one_of("CREATED_ON", &CreatedOn::NAMED);
            Requirements::new(write_mode, created_on)
        });
        let named = Self {
            nylas: group(checks, NylasSettings::required),
            mailboxes: group(checks, AllowList::read),
            webhook_url: group(checks, |it| it.required("WEBHOOK_URL")),
            webhook_secret: group(checks, |it| it.required("WEBHOOK_SECRET_ID")),
            dataverse: group(checks, DataverseSettings::required),
            table: group(checks, |it| it.required("LEDGER_TABLE")),
            queue: group(checks, |it| it.required("SYNC_QUEUE_URL")),
            tasks: group(checks, |it| it.required("BACKFILL_QUEUE_URL")),
            requirements: requirements.unwrap_or_default(),
        };
        if checks.is_empty() {
            checks.push(Check::passed(SETTINGS, "all settings are present"));
        }
        named
    }
}

type Environment = Settings<fn(&str) -> Option<String>>;

/// Reads one group of settings.
///
/// Returns `None` and adds a broken check for each variable if any is missing or malformed.
fn group<T>(checks: &mut Vec<Check>, read: impl FnOnce(&mut Environment) -> T) -> Option<T> {
    let mut settings: Environment = Settings::new(env::process);
    let value = read(&mut settings);
    match settings.finish() {
        Ok(()) => Some(value),
        Err(error) => {
            checks.extend(error.problems().iter().map(|problem| {
                let name = problem.split(' ').next().unwrap_or_default();
                Check::broken(SETTINGS, problem, where_from(name))
            }));
            None
        }
    }
}

/// Returns where the operator finds the value of a setting.
fn where_from(setting: &str) -> String {
    let output = match setting {
        "WEBHOOK_URL" => "WebhookUrl",
        "WEBHOOK_SECRET_ID" => "WebhookSecretArn",
        "NYLAS_API_KEY_SECRET_ID" => "NylasApiKeyArn",
        "TOKEN_SECRET_ID" => "DataverseTokenArn",
        "LEDGER_TABLE" => "LedgerTable",
        "SYNC_QUEUE_URL" => "SyncQueueUrl",
        "BACKFILL_QUEUE_URL" => "BackfillQueueUrl",
        "MAILBOXES" => {
            return "name the mailboxes that take part, as in the template parameter Mailboxes: addresses, domains, workspace:ID, or all".to_owned();
        }
        "DATAVERSE_URL" => {
            return "set it to the address of your organisation, such as https://yourorg.crm.dynamics.com".to_owned();
        }
        "NYLAS_API_URL" => {
            return "set it to https://api.us.nylas.com or https://api.eu.nylas.com, the region of your Nylas application".to_owned();
        }
        _ => return "set it to the same value as sync-worker has, or unset it".to_owned(),
    };
    format!("set it to the output {output} of the stack (`sam list stack-outputs --stack-name …`)")
}

async fn examine(probe_write: bool) -> Result<Vec<Check>, DoctorError> {
    let mut checks = Vec::new();
    let named = Named::read(&mut checks);
    let aws = match crate::aws::connect().await {
        Ok(aws) => aws,
        Err(error) => {
            let remedy = format!("{}; nothing else can be checked until then", error.remedy());
            checks.push(Check::broken(AWS, error.problem(), remedy));
            return Ok(checks);
        }
    };
    let region = aws.region().map(ToString::to_string).unwrap_or_default();
    checks.push(Check::passed(AWS, format!("credentials for {region}")));
    let http = http::client()?;

    let mut requirements = named.requirements;
    match named.table {
        Some(table) => {
            if let Some(policy) = aws::table(&aws, &table, &mut checks).await {
                requirements.add(&policy.document().defaults);
            }
        }
        None => skip(&mut checks, &aws::TABLE_CHECKS, SETTINGS),
    }
    for (queue, url) in [(aws::SYNC, named.queue), (aws::BACKFILL, named.tasks)] {
        match url {
            Some(url) => aws::queue(&aws, &queue, &url, &mut checks).await,
            None => skip(&mut checks, &queue.checks(), SETTINGS),
        }
    }
    let nylas = if let Some(settings) = named.nylas {
        let url = settings.url().clone();
        let allowed = named.mailboxes.as_ref();
        nylas::examine(&settings.connect(&aws)?, &url, allowed, &mut checks).await
    } else {
        skip(&mut checks, &[nylas::KEY, mailboxes::MAILBOXES], SETTINGS);
        Err(SETTINGS)
    };
    let url = named.webhook_url.filter(|url| {
        if !is_receiver(url) {
            let seen = "WEBHOOK_URL is not an https URL";
            checks.push(Check::broken(SETTINGS, seen, where_from("WEBHOOK_URL")));
        }
        is_receiver(url)
    });
    let mut compressed = false;
    match (nylas, &url) {
        (Ok(nylas), Some(url)) => checks.push(match nylas.webhooks().await {
            Ok(there) => {
                compressed =
                    verify::our_destination(&there, url).is_some_and(|found| found.compressed);
                verify::destination(&there, url)
            }
            Err(error) => Check::broken(verify::DESTINATION, error.to_string(), "try again"),
        }),
        (Err(needs), _) => checks.push(Check::skipped(verify::DESTINATION, needs)),
        (Ok(_), None) => checks.push(Check::skipped(verify::DESTINATION, SETTINGS)),
    }
    let store = named.webhook_secret.map(|id| {
        let secrets = aws_sdk_secretsmanager::Client::new(&aws);
        StoredSecret::new(secrets, id)
    });
    let path = verify::delivery_path(&http, url.as_deref(), store.as_ref(), compressed).await;
    checks.extend(path);
    dataverse::examine(
        named.dataverse,
        &aws,
        &requirements,
        probe_write,
        &mut checks,
    )
    .await?;
    Ok(checks)
}

/// Adds a skipped check for each of `names`, because the check `needs` is broken.
fn skip(checks: &mut Vec<Check>, names: &[&str], needs: &str) {
    checks.extend(names.iter().map(|name| Check::skipped(*name, needs)));
}
