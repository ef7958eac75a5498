//! The harness for replays: the handlers of the functions, with an in-memory queue, and emulated or
//! real services.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use aws_config::BehaviorVersion;
use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use backfill::plan::Planned;
use backfill::{Backfill, BackfillError};
use chrono::{TimeDelta, Utc};
use emulators::{Emulators, SeedError, Setting};
use lambda_http::http::HeaderValue;
use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::clients::aws::secrets::SecretSource;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::dataverse::records::RecordReference;
use mailverse::clients::entra::client::{Credential, EntraClient};
use mailverse::clients::entra::{Origin, TokenSource};
use mailverse::clients::http;
use mailverse::clients::nylas::NylasClient;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::mailboxes::{AllowList, MailboxDirectory};
use mailverse::pipeline::application_users::ApplicationUsers;
use mailverse::pipeline::config::PipelineSettings;
use mailverse::pipeline::created_on::Backdating;
use mailverse::pipeline::people_limit::ResolvedPeopleLimit;
use mailverse::pipeline::{Invocation, Pipeline, Processed};
use mailverse::policy::Policy;
use mailverse::policy::cache::PolicySource;
use mailverse::rate_limit::Limits;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use sync_worker::{Worked, Worker};
use url::Url;
use webhook_receiver::event::EventError;
use webhook_receiver::signature::{HEADER, Key};
use webhook_receiver::webhook_secrets::WebhookSecrets;
use webhook_receiver::{Received, Receiver};

use super::embedded_ledger::{EmbeddedError, EmbeddedLedger};
use super::event::SavedEvent;
use super::mailboxes::{self, PLACEHOLDER};

/// The contacts, accounts and leads of the emulated organisation. Its users are created from the
/// events.
const DEMO_ORGANISATION: &str = include_str!("../../data/demo-organisation.json");

/// The time limit of an invocation.
const INVOCATION: TimeDelta = TimeDelta::minutes(15);

/// The services could not be set up, or the state could not be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HarnessError {
    #[error("{0} (--org reads the settings of sync-worker from the environment)")]
    Settings(#[from] SettingsError),
    #[error("failed to parse the demo organisation: {0}")]
    Demo(#[source] serde_json::Error),
    #[error(transparent)]
    Ledger(#[from] EmbeddedError),
    #[error("failed to start the emulators: {0}")]
    Emulators(#[source] std::io::Error),
    #[error("failed to fill the emulated organisation: {0}")]
    Seed(#[from] SeedError),
    #[error("{}: {problem}", path.display())]
    State { path: PathBuf, problem: String },
    #[error("failed to create an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("an emulator has an invalid URL: {0}")]
    Address(#[from] url::ParseError),
}

/// The handlers of all functions and the services that they call.
pub(crate) struct Harness {
    queue: MemoryQueue,
    receiver: Receiver<MemoryQueue>,
    worker: Worker<MemoryQueue>,
    backfill: Backfill<MemoryQueue>,
    key: Key,
    dataverse: DataverseClient,
    nylas: NylasClient,
    offline: Option<Offline>,
}

struct Offline {
    emulators: Emulators,
    _ledger: EmbeddedLedger,
    organisation_file: Option<PathBuf>,
}

/// Reads the settings of sync-worker from the environment.
///
/// # Errors
/// [`HarnessError::Settings`]: names every setting that is missing or malformed.
pub(crate) fn settings() -> Result<PipelineSettings, HarnessError> {
    let mut settings = Settings::new(env::process);
    let pipeline = PipelineSettings::read(&mut settings);
    settings.finish()?;
    Ok(pipeline)
}

impl Harness {
    /// Connects to the real services. Uses the stored policy unless `policy` is given.
    pub(crate) async fn organisation(
        settings: &PipelineSettings,
        policy: Option<&Policy>,
        key: Key,
    ) -> Result<Self, HarnessError> {
        let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
        let mut pipelines = [settings.connect(&aws)?, settings.connect(&aws)?];
        if let Some(policy) = policy {
            for pipeline in &mut pipelines {
                pipeline.policy = PolicySource::given(policy.clone());
            }
        }
        Ok(Self::new(pipelines, key, None))
    }

    /// Starts emulators on this machine. Their mailboxes hold the messages of the events.
    pub(crate) async fn offline(
        events: &[SavedEvent],
        state: Option<&Path>,
        policy: &Policy,
        key: Key,
    ) -> Result<Self, HarnessError> {
        let emulators = Emulators::start().await.map_err(HarnessError::Emulators)?;
        // A replay may send years of saved events at once, so the emulator must not throttle it.
        emulators
            .dataverse()
            .set_setting(Setting::RequestsPerFiveMinutes(usize::MAX));
        let organisation_file = state.map(organisation_file);
        fill_organisation(&emulators, organisation_file.as_deref())?;
        fill_mailboxes(&emulators, events)?;
        let ledger = EmbeddedLedger::start(state).await?;
        let pipelines = [
            offline_pipeline(&emulators, &ledger, policy)?,
            offline_pipeline(&emulators, &ledger, policy)?,
        ];
        let offline = Offline {
            emulators,
            _ledger: ledger,
            organisation_file,
        };
        Ok(Self::new(pipelines, key, Some(offline)))
    }

    fn new([for_worker, for_backfill]: [Pipeline; 2], key: Key, offline: Option<Offline>) -> Self {
        let queue = MemoryQueue::default();
        Self {
            dataverse: for_worker.dataverse.clone(),
            nylas: for_worker.nylas.clone(),
            receiver: Receiver::new(queue.clone(), WebhookSecrets::fixed(key.clone(), None)),
            worker: Worker::new(for_worker, queue.clone()),
            backfill: Backfill::new(for_backfill, queue.clone(), MemoryQueue::default()),
            queue,
            key,
            offline,
        }
    }

    /// Delivers an HTTP event to the receiver.
    ///
    /// An event without a signature is signed. One with a signature keeps it, unless `resign` is
    /// true.
    pub(crate) async fn receive(&self, event: &str, resign: bool) -> Result<Received, EventError> {
        let mut request = webhook_receiver::event::request(event)?;
        if resign || !request.headers().contains_key(HEADER) {
            let signature = self.key.sign(request.body().as_ref());
            // Hexadecimal digits are always a valid header value.
            if let Ok(value) = HeaderValue::from_str(&signature) {
                request.headers_mut().insert(HEADER, value);
            }
        }
        Ok(self.receiver.handle(request, Utc::now()).await)
    }

    /// Passes a batch to the worker.
    pub(crate) async fn work(&self, batch: &SqsEvent) -> Worked {
        self.worker.work(batch.clone(), begin()).await
    }

    /// Returns how many sync requests wait in the queue.
    pub(crate) fn queued(&self) -> usize {
        self.queue.visible()
    }

    /// Passes the first `most` messages of the queue to the worker, and deletes those that it does
    /// not report as failed.
    pub(crate) async fn work_queue(&self, most: usize) -> Worked {
        let received = self.queue.receive(most);
        let mut batch = SqsEvent::default();
        for message in &received {
            let mut record = SqsMessage::default();
            record.message_id = Some(message.receipt.clone());
            record.receipt_handle = Some(message.receipt.clone());
            record.body = Some(message.body.clone());
            record.attributes.insert(
                "ApproximateReceiveCount".to_owned(),
                message.receive_count.to_string(),
            );
            batch.records.push(record);
        }
        let worked = self.worker.work(batch, begin()).await;
        let failed = &worked.response.batch_item_failures;
        for message in received {
            if !failed
                .iter()
                .any(|failure| failure.item_identifier == message.receipt)
            {
                self.queue.delete(&message.receipt);
            }
        }
        worked
    }

    /// Runs the backfill for a schedule event.
    ///
    /// Returns what it planned, each message that its tasks processed, and how many tasks remain.
    pub(crate) async fn backfill(
        &self,
        event: &Value,
    ) -> Result<(Planned, Vec<Processed>, usize), BackfillError> {
        let left_before = self.backfill.left();
        let (planned, processed) = self.backfill.run_scheduled(event, &begin).await?;
        Ok((planned, processed, self.backfill.left() - left_before))
    }

    /// Returns the numbers of requests sent to Dataverse and to Nylas.
    pub(crate) fn requests(&self) -> (u64, u64) {
        (self.dataverse.requests(), self.nylas.requests())
    }

    /// Returns the number of email rows in the emulated organisation; `None` for the live one,
    /// whose rows are not counted.
    pub(crate) fn activities(&self) -> Option<usize> {
        self.offline
            .as_ref()
            .map(|offline| offline.emulators.dataverse().rows("email").len())
    }

    /// Returns a readable name of a record: table and name in the emulated organisation, otherwise
    /// only the table.
    pub(crate) fn name(&self, record: impl Into<RecordReference>) -> String {
        let record = record.into();
        let (kind, column) = match record.table.as_str() {
            "systemuser" => ("user", "fullname"),
            "contact" | "lead" => (record.table.as_str(), "fullname"),
            "incident" => ("case", "title"),
            other => (other, "name"),
        };
        let offline = self.offline.as_ref();
        let row = offline.and_then(|o| o.emulators.dataverse().row(&record.table, record.id));
        let name = row
            .as_ref()
            .and_then(|row| row.get(column))
            .and_then(Value::as_str);
        name.map_or_else(|| kind.to_owned(), |name| format!("{kind} {name}"))
    }

    /// Stores the emulated organisation for the next run, if there is a state file.
    pub(crate) fn finish(&self) -> Result<(), HarnessError> {
        let Some((emulators, path)) = self
            .offline
            .as_ref()
            .and_then(|o| Some((&o.emulators, o.organisation_file.as_ref()?)))
        else {
            return Ok(());
        };
        // Written to a temporary file and renamed, so that a crash leaves either the old or the new
        // file.
        let unfinished = path.with_extension("json.new");
        std::fs::write(&unfinished, emulators.dataverse().export().to_string())
            .and_then(|()| std::fs::rename(&unfinished, path))
            .map_err(|error| HarnessError::State {
                path: path.clone(),
                problem: error.to_string(),
            })
    }
}

fn organisation_file(state: &Path) -> PathBuf {
    let mut name = OsString::from(state);
    name.push(".organisation.json");
    PathBuf::from(name)
}

fn offline_pipeline(
    emulators: &Emulators,
    ledger: &EmbeddedLedger,
    policy: &Policy,
) -> Result<Pipeline, HarnessError> {
    let http = http::client()?;
    let organisation = Url::parse(&emulators.dataverse().url())?;
    let nylas_key = SecretSource::Given(SecretString::from(emulators.nylas().api_key()));
    let nylas = NylasClient::new(
        http.clone(),
        &Url::parse(&emulators.nylas().url())?,
        nylas_key,
    );
    let entra = EntraClient::new(
        http.clone(),
        &Url::parse(&emulators.entra().authority())?,
        &emulators.entra().tenant_id(),
        emulators.entra().client_id(),
        Credential::Secret(emulators.entra().client_secret().into()),
        &organisation,
    );
    Ok(Pipeline {
        ledger: ledger.ledger.clone(),
        // The emulator has only the mailboxes of the events.
        mailboxes: MailboxDirectory::new(nylas.clone(), AllowList::All),
        nylas,
        dataverse: DataverseClient::new(http, &organisation),
        application_users: ApplicationUsers::new(
            Limits::boundless(),
            TokenSource::new(Origin::Entra(entra)),
            Vec::new(),
        ),
        policy: PolicySource::given(policy.clone()),
        write_mode: WriteMode::default(),
        created_on: Backdating::default(),
        people_limit: ResolvedPeopleLimit::default(),
    })
}

/// One row of the demo organisation.
#[derive(Deserialize)]
struct DemoRow {
    table: String,
    row: Value,
}

/// Fills the organisation from the state file of the last run, or with the demo organisation if
/// there is none.
fn fill_organisation(emulators: &Emulators, file: Option<&Path>) -> Result<(), HarnessError> {
    if let Some(path) = file.filter(|path| path.exists()) {
        let problem = |problem: String| HarnessError::State {
            path: path.to_owned(),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        let state = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
        return Ok(emulators.dataverse().import(state)?);
    }
    let rows: Vec<DemoRow> = serde_json::from_str(DEMO_ORGANISATION).map_err(HarnessError::Demo)?;
    for DemoRow { table, row } in rows {
        emulators.dataverse().insert(&table, row)?;
    }
    Ok(())
}

/// Adds a mailbox with its messages, and a user, for each grant in the events.
fn fill_mailboxes(emulators: &Emulators, events: &[SavedEvent]) -> Result<(), HarnessError> {
    let users = emulators.dataverse().rows("systemuser");
    for mailbox in mailboxes::from_events(events) {
        emulators.nylas().add_grant(emulators::Grant {
            id: mailbox.grant_id.clone(),
            email: mailbox.address.clone(),
            provider: mailbox.provider,
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        for message in mailbox.messages {
            let text = |object: &Value| object.get("id").and_then(Value::as_str).map(str::to_owned);
            let attachments = message
                .get("attachments")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let message_id = text(&message).unwrap_or_default();
            emulators.nylas().add_message(&mailbox.grant_id, message);
            for attachment in attachments
                .into_iter()
                .filter(|attachment| text(attachment).is_some())
            {
                emulators.nylas().add_attachment(
                    &mailbox.grant_id,
                    &message_id,
                    attachment,
                    PLACEHOLDER.to_vec(),
                );
            }
        }
        let address = Value::from(mailbox.address.clone());
        if !users
            .iter()
            .any(|user| user.get("internalemailaddress") == Some(&address))
        {
            let name = mailbox.address.split('@').next().unwrap_or_default();
            emulators.dataverse().insert(
                "systemuser",
                json!({"internalemailaddress": address, "fullname": name}),
            )?;
        }
    }
    Ok(())
}

fn begin() -> Invocation {
    Invocation::begin(Utc::now() + INVOCATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_organisation_can_be_read() {
        let rows: Vec<DemoRow> = serde_json::from_str(DEMO_ORGANISATION).unwrap();
        assert!(rows.len() >= 4);
        assert!(
            rows.iter()
                .all(|entry| !entry.table.is_empty() && entry.row.is_object())
        );
    }
}
