//! `mailverse doctor`: whether what the sync needs is there, one line for each check, and what to do where it is not.
//!
//! | Question | File |
//! | --- | --- |
//! | What is a check, how is it shown? | `doctor/check.rs` |
//! | Is the ledger's table right, can its policy be used, are the queues there and without dead letters? | `doctor/aws.rs` |
//! | Does Nylas take the key, are the mailboxes signed in? | `doctor/nylas.rs` |
//! | Which mailboxes take part, and why? | `doctor/mailboxes.rs` |
//! | Do notifications come, as they were sent? | `webhook/verify.rs`, `webhook/probe.rs` |
//! | Does Dataverse let us in, what does the role allow, what does the organisation hold? | `doctor/dataverse.rs`, `doctor/privileges.rs` |
//! | What do policy and settings ask for that needs more? | `doctor/wants.rs` |
//! | Does a whole mail pass, and by which write mode? (`--probe-write`) | `doctor/probe.rs` |
//!
//! A check that needs a broken one is skipped, so that one cause is one broken line. Without `--probe-write` nothing is changed anywhere: writes are tried in
//! change sets that are taken back (`shared/src/dataverse/probe.rs`). The Entra credential is not looked at: only token-refresher may read it.
//!
//! Exit status: 0 when nothing is broken; 1 when something is; 2 for bad usage.

mod aws;
pub(crate) mod check;
mod dataverse;
mod mailboxes;
mod nylas;
mod privileges;
mod probe;
mod wants;

use std::process::ExitCode;

use clap::Args;
use mailverse::dataverse::write::WriteMode;
use mailverse::env::{self, Settings};
use mailverse::http;
use mailverse::mailboxes::AllowList;
use mailverse::pipeline::created_on::CreatedOn;

use self::check::{Check, Report};
use self::wants::Wants;
use crate::services::{DataverseSettings, NylasSettings};
use crate::terminal;
use crate::webhook::rotation::StoredSecret;
use crate::webhook::{is_receiver, verify};

/// Checks that everything is there that the sync needs: settings, secrets, Nylas, the webhook, Dataverse, table and queues.
///
/// Reads what the environment names: the settings of the functions and WEBHOOK_URL, with AWS's own variables. Changes nothing, unless --probe-write says so.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Write one marked email to Dynamics 365, read it back and delete it: says which WRITE_MODE to use.
    #[arg(long)]
    probe_write: bool,
    /// Print one JSON object instead of the lines.
    #[arg(long)]
    json: bool,
}

/// Nothing could be looked at, or shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the report cannot be printed: {0}")]
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

/// What the environment names, as far as it is in order.
struct Named {
    nylas: Option<NylasSettings>,
    mailboxes: Option<AllowList>,
    webhook_url: Option<String>,
    webhook_secret: Option<String>,
    dataverse: Option<DataverseSettings>,
    table: Option<String>,
    queue: Option<String>,
    tasks: Option<String>,
    wants: Wants,
}

impl Named {
    fn read(checks: &mut Vec<Check>) -> Self {
        let wants = group(checks, |it| {
            let write_mode = it.one_of("WRITE_MODE", &WriteMode::NAMED);
            let created_on = it.one_of("CREATED_ON", &CreatedOn::NAMED);
            Wants::new(write_mode, created_on)
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
            wants: wants.unwrap_or_default(),
        };
        if checks.is_empty() {
            checks.push(Check::well(SETTINGS, "everything is named"));
        }
        named
    }
}

type Environment = Settings<fn(&str) -> Option<String>>;

/// One group of settings; a broken check for each variable that is not in order.
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

/// Where the value of a setting is to be had.
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
            return "name the mailboxes that take part, as the template parameter Mailboxes does: addresses, domains, workspace:ID, or all".to_owned();
        }
        "DATAVERSE_URL" => {
            return "set it to the address of your organisation, such as https://yourorg.crm.dynamics.com".to_owned();
        }
        "NYLAS_API_URL" => {
            return "set it to https://api.us.nylas.com or https://api.eu.nylas.com, where your Nylas application lives".to_owned();
        }
        _ => return "set it as sync-worker has it, or not at all".to_owned(),
    };
    format!("set it to the output {output} of the stack (`sam list stack-outputs --stack-name …`)")
}

async fn examine(probe_write: bool) -> Result<Vec<Check>, DoctorError> {
    let mut checks = Vec::new();
    let named = Named::read(&mut checks);
    let aws = match crate::aws::connect().await {
        Ok(aws) => aws,
        Err(error) => {
            let remedy = format!("{}; nothing else can be looked at before", error.remedy());
            checks.push(Check::broken(AWS, error.problem(), remedy));
            return Ok(checks);
        }
    };
    let region = aws.region().map(ToString::to_string).unwrap_or_default();
    checks.push(Check::well(AWS, format!("credentials for {region}")));
    let http = http::client()?;

    let mut wants = named.wants;
    match named.table {
        Some(table) => {
            if let Some(policy) = aws::table(&aws, &table, &mut checks).await {
                wants.add(&policy.document().defaults);
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
            let seen = "WEBHOOK_URL is no https address";
            checks.push(Check::broken(SETTINGS, seen, where_from("WEBHOOK_URL")));
        }
        is_receiver(url)
    });
    let mut compressed = false;
    match (nylas, &url) {
        (Ok(nylas), Some(url)) => checks.push(match nylas.webhooks().await {
            Ok(there) => {
                compressed = verify::ours(&there, url).is_some_and(|found| found.compressed);
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
    dataverse::examine(named.dataverse, &aws, &wants, probe_write, &mut checks).await?;
    Ok(checks)
}

/// Checks that are not made, because something that they need is broken.
fn skip(checks: &mut Vec<Check>, names: &[&str], needs: &str) {
    checks.extend(names.iter().map(|name| Check::skipped(*name, needs)));
}
