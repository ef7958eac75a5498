//! `mailverse webhook`: manages the webhook destination at Nylas that sends notifications to
//! webhook-receiver, and the secret that both share.
//!
//! The secret is never printed: it is copied from Nylas' answer into Secrets Manager. If it is lost
//! on the way, a rotation replaces it. [`rotation`] documents the order of the steps and what is
//! left if the process dies.
//!
//! A proxy or gateway between Nylas and the receiver may change a body, and then no signature
//! matches. So `create` and `verify` send a signed probe through the public URL ([`probe`]), and
//! compression is refused if a front end is known to decompress bodies ([`front_end`]).
//!
//! Exit status: 0 if the command succeeded and nothing is broken; 1 if `verify`, or `create` after
//! it created the destination, found something broken; 2 for bad usage, or if a service refused or
//! did not answer.

mod rest_api_detection;
pub(crate) mod secret_rotation;
mod signed_probe;
pub(crate) mod verify;

use std::io::Write;
use std::process::ExitCode;

use aws_config::SdkConfig;
use clap::{Args, Subcommand};
use mailverse::clients::http;
use mailverse::clients::nylas::NylasClient;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::webhooks::{Destination, NewDestination, Shown};
use mailverse::env::{self, Settings, SettingsError};
use serde_json::{Value, json};
use url::Url;

use self::rest_api_detection::RestApi;
use self::secret_rotation::{Announced, StoreError, StoredSecret, TakenBack};
use crate::aws::{self, AwsError};
use crate::doctor::check::{Check, Report};
use crate::services::NylasSettings;
use crate::terminal::{self, printable};

/// Creates, lists and checks the webhook destination at Nylas, and rotates its secret.
///
/// Reads WEBHOOK_URL (the output WebhookUrl of the stack), WEBHOOK_SECRET_ID,
/// NYLAS_API_KEY_SECRET_ID and NYLAS_API_URL from the environment, with the standard AWS variables.
/// Do not run two rotations at the same time. Exit status: 0 if the command succeeded, 1 if a check
/// is broken, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Creates the destination for WEBHOOK_URL, stores its secret and sends a signed probe.
    Create {
        /// Description of the destination in the Nylas dashboard.
        #[arg(long, value_name = "TEXT", default_value = "mailverse")]
        description: String,
        /// Address that Nylas notifies about failing deliveries. May be given several times.
        #[arg(long, value_name = "EMAIL")]
        notify: Vec<String>,
        /// Let Nylas compress deliveries with gzip. Not possible behind an API Gateway REST API: it
        /// decompresses them, so that no signature matches.
        #[arg(long)]
        compressed: bool,
    },
    /// Lists all destinations of the Nylas application.
    List {
        /// Print one JSON array instead of one line per destination.
        #[arg(long)]
        json: bool,
    },
    /// Rotates the secret of the destination for WEBHOOK_URL and stores the new one. No delivery is
    /// lost.
    Rotate,
    /// Checks that notifications arrive: destination, secret, receiver, and a signed probe through
    /// WEBHOOK_URL.
    Verify {
        /// Print one JSON object instead of one line per check.
        #[arg(long)]
        json: bool,
    },
}

/// The command stopped. Each variant says what was done before and what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("WEBHOOK_URL must be an https URL (http is allowed only for the loopback interface)")]
    Url,
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Nylas(#[from] NylasError),
    #[error(
        "Nylas rejected the destination ({0}); the URL must answer its challenge within 10 seconds: run `mailverse webhook verify`"
    )]
    NotCreated(NylasError),
    #[error(
        "a destination for this URL exists already: {0}. If its secret is lost, run `mailverse webhook rotate`"
    )]
    Exists(String),
    #[error(
        "{0}. A REST API decompresses a body before its signature can be checked, so every notification would be rejected and lost. \
         Omit --compressed, or use the URL of the function itself (the output WebhookUrl of the stack) or the root URL of an HTTP API"
    )]
    CompressedRestApi(RestApi),
    #[error("no destination has the URL WEBHOOK_URL: run `mailverse webhook create`")]
    NoDestination,
    #[error(
        "{0}. It is unknown whether Nylas made a new secret: run `mailverse webhook rotate` now (or `mailverse webhook create` if `mailverse webhook list` shows no destination)"
    )]
    Unsure(NylasError),
    #[error(
        "destination {id} has a new secret that could not be stored: {source}. Deliveries are rejected, and Nylas retries them for 10 to 20 minutes: \
         fix the cause and run `mailverse webhook rotate` now"
    )]
    NotStored { id: String, source: StoreError },
    #[error(
        "{0}. An earlier rotation is still open, and the receiver answers deliveries that it cannot verify with 503 until it ends: fix the cause and run the command again"
    )]
    StillOpen(NylasError),
    #[error(
        "{nylas}. The announcement of a new secret could not be removed: {store}. Until then, forged deliveries are answered with 503: fix both and run the command again"
    )]
    NotTakenBack {
        nylas: NylasError,
        store: StoreError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, WebhookError> {
    let (line, report) = match arguments.verb {
        Verb::Create {
            description,
            notify,
            compressed,
        } => {
            let wished = Wished {
                description: &description,
                notify: &notify,
                compressed,
            };
            Webhook::connect().await?.create(&wished).await?
        }
        Verb::Rotate => (Webhook::connect().await?.rotate().await?, Report::default()),
        Verb::List { json } => return list(json).await,
        Verb::Verify { json } => {
            let report = Webhook::connect().await?.verify().await?;
            return print_report(&report, json);
        }
    };
    let printed = writeln!(std::io::stdout(), "{line}");
    terminal::printed(printed).map_err(WebhookError::Print)?;
    if report.is_healthy() {
        return Ok(ExitCode::SUCCESS);
    }
    print_report(&report, false)
}

fn print_report(report: &Report, json: bool) -> Result<ExitCode, WebhookError> {
    let printed = report.print(&mut std::io::stdout().lock(), json);
    terminal::printed(printed).map_err(WebhookError::Print)?;
    Ok(ExitCode::from(u8::from(!report.is_healthy())))
}

/// The operator's options for a new destination.
struct Wished<'a> {
    description: &'a str,
    notify: &'a [String],
    compressed: bool,
}

/// Returns whether Nylas may send to this URL: HTTPS, or HTTP on the loopback interface for tests.
pub(crate) fn is_receiver(url: &str) -> bool {
    let loopback = |url: &Url| matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    Url::parse(url).is_ok_and(|url| {
        url.host_str().is_some()
            && (url.scheme() == "https" || url.scheme() == "http" && loopback(&url))
    })
}

/// Returns a client for the Nylas application, and the AWS configuration.
async fn nylas(
    mut settings: Settings<impl Fn(&str) -> Option<String>>,
) -> Result<(NylasClient, SdkConfig), WebhookError> {
    let nylas = NylasSettings::required(&mut settings);
    settings.finish()?;
    let aws = aws::connect().await?;
    Ok((nylas.connect(&aws)?, aws))
}

async fn list(as_json: bool) -> Result<ExitCode, WebhookError> {
    let (nylas, _) = nylas(Settings::new(env::process)).await?;
    let found = nylas.webhooks().await?;
    let text = if as_json {
        let all: Vec<Value> = found.iter().map(shown).collect();
        format!("{}\n", Value::Array(all))
    } else {
        let line = |one: &Destination| {
            let triggers = one.triggers.join(",");
            let line = format!("{}  {}  {}  {triggers}", one.id, one.status, one.url);
            format!("{}\n", printable(&line))
        };
        found.iter().map(line).collect()
    };
    let printed = write!(std::io::stdout(), "{text}");
    terminal::printed(printed).map_err(WebhookError::Print)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(one: &Destination) -> Value {
    json!({
        "id": one.id, "status": one.status, "webhook_url": one.url, "trigger_types": one.triggers,
        "compressed_delivery": one.compressed,
    })
}

struct Webhook {
    nylas: NylasClient,
    http: reqwest::Client,
    store: StoredSecret,
    url: String,
}

impl Webhook {
    async fn connect() -> Result<Self, WebhookError> {
        let mut settings = Settings::new(env::process);
        let url = settings.required("WEBHOOK_URL");
        let secret = settings.required("WEBHOOK_SECRET_ID");
        let (nylas, aws) = nylas(settings).await?;
        if !is_receiver(&url) {
            return Err(WebhookError::Url);
        }
        let secrets = aws_sdk_secretsmanager::Client::new(&aws);
        Ok(Self {
            nylas,
            http: http::client()?,
            store: StoredSecret::new(secrets, secret),
            url,
        })
    }

    /// Creates the destination and sends probes to it. Returns the line to print and their report.
    async fn create(&self, wished: &Wished<'_>) -> Result<(String, Report), WebhookError> {
        let there = self.nylas.webhooks().await?;
        if let Some(found) = verify::our_destination(&there, &self.url) {
            return Err(WebhookError::Exists(found.id.clone()));
        }
        if wished.compressed
            && let Some(rest_api) = self.rest_api().await
        {
            return Err(WebhookError::CompressedRestApi(rest_api));
        }
        let announced = self.store.announce().await?;
        let destination = NewDestination {
            url: &self.url,
            triggers: &verify::triggers(),
            description: wished.description,
            notify: wished.notify,
            compressed: wished.compressed,
        };
        let made = self.nylas.create_webhook(&destination).await;
        let id = self
            .keep(made, announced)
            .await
            .map_err(|error| match error {
                WebhookError::Nylas(error @ NylasError::Rejected { status: 400, .. }) => {
                    WebhookError::NotCreated(error)
                }
                other => other,
            })?;
        let report = Report(self.path(wished.compressed).await);
        let next = if report.is_healthy() {
            "A signed delivery arrives unchanged."
        } else {
            "But deliveries do not arrive unchanged; fix this and run `mailverse webhook verify`:"
        };
        let line = format!("Destination {id} is active; its secret is stored. {next}");
        Ok((line, report))
    }

    /// Returns whether the URL belongs, or may belong, to a REST API.
    ///
    /// A URL that does not answer counts as none: Nylas challenges it next and rejects it.
    async fn rest_api(&self) -> Option<RestApi> {
        if let Some(found) = rest_api_detection::rest_api_by_address(&self.url) {
            return Some(found);
        }
        let answer = verify::ask(&self.http, &self.url, "front-end").await.ok()?;
        rest_api_detection::rest_api_by_answer(answer.headers())
    }

    async fn path(&self, compressed: bool) -> Vec<Check> {
        verify::delivery_path(&self.http, Some(&self.url), Some(&self.store), compressed).await
    }

    async fn rotate(&self) -> Result<String, WebhookError> {
        let there = self.nylas.webhooks().await?;
        let found =
            verify::our_destination(&there, &self.url).ok_or(WebhookError::NoDestination)?;
        let announced = self.store.announce().await?;
        let made = self.nylas.rotate_webhook_secret(&found.id).await;
        let id = self.keep(made, announced).await?;
        Ok(format!(
            "Destination {id} has a new secret, and it is stored. Deliveries signed with the previous one are still accepted."
        ))
    }

    /// Stores the secret from Nylas' answer and ends the announcement. Returns the id of the
    /// destination.
    async fn keep(
        &self,
        made: Result<Shown, NylasError>,
        announced: Option<Announced>,
    ) -> Result<String, WebhookError> {
        let made = match made {
            Ok(made) => made,
            // Nylas may have made the secret, so the announcement stays: the receiver keeps
            // answering 503 instead of 401.
            Err(error @ NylasError::Unavailable { .. }) => return Err(WebhookError::Unsure(error)),
            Err(error) => return Err(self.refused(error, announced).await),
        };
        let id = made.destination.id;
        let stored = match self.store.store(&made.secret).await {
            Ok(stored) => stored,
            Err(source) => return Err(WebhookError::NotStored { id, source }),
        };
        if let Some(announced) = announced {
            self.store.end(announced, stored).await?;
        }
        Ok(id)
    }

    /// Removes the announcement after Nylas rejected the request. Returns the error to report.
    async fn refused(&self, nylas: NylasError, announced: Option<Announced>) -> WebhookError {
        let Some(announced) = announced else {
            return nylas.into();
        };
        match self.store.take_back(announced).await {
            Ok(TakenBack::Yes) => nylas.into(),
            Ok(TakenBack::StillOpen) => WebhookError::StillOpen(nylas),
            Err(store) => WebhookError::NotTakenBack { nylas, store },
        }
    }

    async fn verify(&self) -> Result<Report, WebhookError> {
        let there = self.nylas.webhooks().await?;
        let compressed =
            verify::our_destination(&there, &self.url).is_some_and(|found| found.compressed);
        let mut checks = vec![verify::destination(&there, &self.url)];
        checks.extend(self.path(compressed).await);
        Ok(Report(checks))
    }
}
