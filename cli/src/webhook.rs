//! `mailverse webhook`: the destination at Nylas that sends its notifications to webhook-receiver, and the secret that both share.
//!
//! The secret is never printed: it goes from Nylas' answer into the secret store. Lost on the way, it is replaced by a rotation.
//! In which order things happen, and what is left when the process dies: [`rotation`].
//!
//! What stands between Nylas and the receiver may change a body, and then no signature matches: `create` and `verify` send a signed probe through the
//! public address ([`probe`]), and compression is refused where a front end is known to undo it ([`front_end`]).
//!
//! Exit status: 0 when it was done, or all is well; 1 when `verify`, or `create` afterwards, found something broken; 2 for bad usage, or when a service refused or did not answer.

mod front_end;
mod probe;
pub(crate) mod rotation;
pub(crate) mod verify;

use std::io::Write;
use std::process::ExitCode;

use aws_config::SdkConfig;
use clap::{Args, Subcommand};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::http;
use mailverse::nylas::NylasClient;
use mailverse::nylas::error::NylasError;
use mailverse::nylas::webhooks::{Destination, NewDestination, Shown};
use serde_json::{Value, json};
use url::Url;

use self::front_end::RestApi;
use self::rotation::{Announced, StoreError, StoredSecret, TakenBack};
use crate::aws::{self, AwsError};
use crate::doctor::check::{Check, Report};
use crate::services::NylasSettings;
use crate::terminal::{self, printable};

/// Makes, lists and checks the webhook destination at Nylas, and rotates its secret.
///
/// Needs WEBHOOK_URL (the output WebhookUrl of the stack), WEBHOOK_SECRET_ID, NYLAS_API_KEY_SECRET_ID, NYLAS_API_URL, and AWS's own variables. Rotate from one
/// place at a time.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes the destination for WEBHOOK_URL and stores its secret.
    Create {
        /// What people see at Nylas.
        #[arg(long, value_name = "TEXT", default_value = "mailverse")]
        description: String,
        /// Who gets Nylas' mail about failing deliveries; may be given several times.
        #[arg(long, value_name = "EMAIL")]
        notify: Vec<String>,
        /// Let Nylas compress deliveries. Not through an API Gateway REST API, which unpacks them, so that no signature matches.
        #[arg(long)]
        compressed: bool,
    },
    /// Lists all destinations of the Nylas application.
    List {
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Gives the destination of WEBHOOK_URL another secret and stores it; no delivery is lost.
    Rotate,
    /// Checks that notifications arrive: the destination, its secret, the receiver, and a signed probe through WEBHOOK_URL.
    Verify {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Nothing more was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("WEBHOOK_URL is no https address (http only on the loopback interface)")]
    Url,
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error(transparent)]
    Nylas(#[from] NylasError),
    #[error(
        "Nylas took no destination for this URL ({0}); it takes none whose challenge is not answered within 10 seconds: try `mailverse webhook verify`"
    )]
    NotCreated(NylasError),
    #[error(
        "a destination for this URL is there: {0}. Where its secret is lost, run `mailverse webhook rotate`"
    )]
    Exists(String),
    #[error(
        "{0}. A REST API unpacks a compressed body before its signature can be checked, so every notification would be refused and lost. \
         Leave --compressed out, or give Nylas the URL of the function itself (the output WebhookUrl of the stack) or of an HTTP API at its root"
    )]
    CompressedRestApi(RestApi),
    #[error("no destination has this URL: run `mailverse webhook create`")]
    NoDestination,
    #[error(
        "{0}. Whether Nylas made another secret is not known: run `mailverse webhook rotate` now (`mailverse webhook create` where `mailverse webhook list` shows no destination)"
    )]
    Unsure(NylasError),
    #[error(
        "destination {id} has a new secret, and it could not be stored: {source}. Deliveries are refused, and sent again for 10 to 20 minutes: \
         mend it and run `mailverse webhook rotate` now"
    )]
    NotStored { id: String, source: StoreError },
    #[error(
        "{0}. A rotation that began before is still open, and deliveries are answered with 503 until it has ended: mend this and run the command again"
    )]
    StillOpen(NylasError),
    #[error(
        "{nylas}. The announcement of another secret could not be taken back: {store}. Forged deliveries are answered with 503 until then: mend both and run the command again"
    )]
    NotTakenBack {
        nylas: NylasError,
        store: StoreError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the report cannot be printed: {0}")]
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

/// What an operator chooses about a new destination.
struct Wished<'a> {
    description: &'a str,
    notify: &'a [String],
    compressed: bool,
}

/// Whether Nylas may send to this address: HTTPS, or the loopback interface of a test.
pub(crate) fn is_receiver(url: &str) -> bool {
    let loopback = |url: &Url| matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    Url::parse(url).is_ok_and(|url| {
        url.host_str().is_some()
            && (url.scheme() == "https" || url.scheme() == "http" && loopback(&url))
    })
}

/// The Nylas application.
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

    /// What was made, and what the probes found that were sent to it.
    async fn create(&self, wished: &Wished<'_>) -> Result<(String, Report), WebhookError> {
        let there = self.nylas.webhooks().await?;
        if let Some(found) = verify::ours(&there, &self.url) {
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
            "A signed delivery arrives."
        } else {
            "But deliveries do not arrive as they are sent; once this is fixed, run `mailverse webhook verify`:"
        };
        let line = format!("Destination {id} is active; its secret is stored. {next}");
        Ok((line, report))
    }

    /// Whether the URL is, or may be, that of a REST API. One that does not answer is asked by Nylas next, which takes no such URL.
    async fn rest_api(&self) -> Option<RestApi> {
        if let Some(found) = front_end::rest_api_by_address(&self.url) {
            return Some(found);
        }
        let answer = verify::ask(&self.http, &self.url, "front-end").await.ok()?;
        front_end::rest_api_by_answer(answer.headers())
    }

    async fn path(&self, compressed: bool) -> Vec<Check> {
        verify::delivery_path(&self.http, Some(&self.url), Some(&self.store), compressed).await
    }

    async fn rotate(&self) -> Result<String, WebhookError> {
        let there = self.nylas.webhooks().await?;
        let found = verify::ours(&there, &self.url).ok_or(WebhookError::NoDestination)?;
        let announced = self.store.announce().await?;
        let made = self.nylas.rotate_webhook_secret(&found.id).await;
        let id = self.keep(made, announced).await?;
        Ok(format!(
            "Destination {id} has a new secret, and it is stored; deliveries signed with the one before it pass as well."
        ))
    }

    /// What follows Nylas' answer: the secret is stored and the announcement ended. The destination's id.
    async fn keep(
        &self,
        made: Result<Shown, NylasError>,
        announced: Option<Announced>,
    ) -> Result<String, WebhookError> {
        let made = match made {
            Ok(made) => made,
            // Nylas may have done it: the receiver goes on waiting.
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

    /// What follows Nylas' refusal: the announcement is taken back.
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
        let compressed = verify::ours(&there, &self.url).is_some_and(|found| found.compressed);
        let mut checks = vec![verify::destination(&there, &self.url)];
        checks.extend(self.path(compressed).await);
        Ok(Report(checks))
    }
}
