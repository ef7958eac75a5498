//! A small organisation, its mailboxes, and the pipeline between them, in the test's process.
//!
//! | Who | Where |
//! | --- | --- |
//! | Ada (`ada@ours.example`, alias `sales@ours.example`) | mailbox [`ADA`] on Google, enabled user |
//! | Ben (`ben@ours.example`) | mailbox [`BEN`] on Microsoft, enabled user |
//! | Carol (`carol@kites.example`) | contact of the company Kites |
//! | Kites (`info@kites.example`) | account |
//! | Lea (`lea@prospects.example`) | lead |
//! | every address at `partner.example` | internal by configuration |
//!
//! When a world is dropped, it checks what must hold in every test: Dataverse silently dropped
//! nothing that was sent to it, no message has two rows, and the log holds no content of a message.

pub(crate) mod hundred;
pub(crate) mod log;
mod messages;
mod outcomes;
mod people;
mod rows;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use aws_sdk_dynamodb::Client;
use backfill::Backfill;
use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Emulators, Fault};
use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::clients::aws::secrets::SecretSource;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::entra::client::{Credential, EntraClient};
use mailverse::clients::entra::{Origin, TokenSource};
use mailverse::clients::nylas::NylasClient;
use mailverse::ledger::messages::{Ledger, StoredOutcome};
use mailverse::ledger::{ClaimRequest, ClaimToken, Entry, table};
use mailverse::mailboxes::{AllowList, MailboxDirectory};
use mailverse::pipeline::application_users::ApplicationUsers;
use mailverse::pipeline::created_on::Backdating;
use mailverse::pipeline::people_limit::ResolvedPeopleLimit;
use mailverse::pipeline::{Delivery, Invocation, Outcome, Pipeline, Processed};
use mailverse::policy::Policy;
use mailverse::policy::cache::PolicySource;
use mailverse::rate_limit::Limits;
use serde_json::{Value, json};
use uuid::Uuid;

use self::log::Log;
pub(crate) use self::messages::{
    created, key, nylas_message, people, with_a_mail, with_a_mail_in, work,
};
pub(crate) use self::outcomes::{assert_skipped, dead, status, throttled, waiting, written};
use self::people::People;
pub(crate) use self::rows::{PartyView, bound, id_of, to_row, unbound};
use crate::dynamo;
use crate::tripwire::Tripwire;

/// The grant of Ada's mailbox.
pub(crate) const ADA: &str = "grant-ada";
/// The grant of Ben's mailbox.
pub(crate) const BEN: &str = "grant-ben";

/// Text in the request that creates an email, alone or in a batch.
pub(crate) const CREATE: &str = "POST /api/data/v9.2/emails HTTP";
/// Text in the request that completes or changes an email.
pub(crate) const UPDATE: &str = "PATCH /api/data/v9.2/emails(";
/// Text in the request that adds an attachment.
pub(crate) const ATTACH: &str = "POST /api/data/v9.2/activitymimeattachments HTTP";
/// Text in the request that looks up people and messages.
pub(crate) const LOOK_UP: &str = "GET /api/data/v9.2/systemusers?";

/// The services, the organisation and the pipeline of one test.
pub(crate) struct TestOrganisation {
    pub(crate) emulators: Emulators,
    pub(crate) people: People,
    pub(crate) pipeline: Pipeline,
    /// The mailboxes that take part.
    allowed: AllowList,
    /// The time of the next invocation. It passes only if a test advances it.
    pub(crate) now: DateTime<Utc>,
    /// The time limit of an invocation.
    pub(crate) invocation: TimeDelta,
    /// What the test's thread has logged since the start.
    pub(crate) log: Log,
    /// The texts of the messages that [`Self::put`] added; they must not be logged.
    content: Mutex<HashSet<String>>,
    to_dataverse: Tripwire,
    to_nylas: Tripwire,
    database: Client,
    ledgers: u32,
    runs: u128,
}

impl TestOrganisation {
    /// Starts a world with the default write mode.
    pub(crate) async fn start() -> Self {
        Self::start_in(WriteMode::default()).await
    }

    /// Starts a world whose pipeline uses this write mode.
    pub(crate) async fn start_in(mode: WriteMode) -> Self {
        let emulators = Emulators::start().await.unwrap();
        let people = people::found(&emulators);
        let to_dataverse = Tripwire::before(&emulators.dataverse().url()).await;
        let to_nylas = Tripwire::before(&emulators.nylas().url()).await;
        let database = dynamo::client(&dynamo::start().await);
        let ledger = ledger(&database, 0).await;
        let allowed = AllowList::All;
        let pipeline = connect(
            &emulators,
            &to_dataverse,
            &to_nylas,
            ledger,
            mode,
            allowed.clone(),
        );
        Self {
            emulators,
            people,
            pipeline,
            allowed,
            now: DateTime::from_timestamp(1_795_154_400, 0).unwrap(),
            invocation: TimeDelta::hours(1),
            log: Log::start(),
            content: Mutex::default(),
            to_dataverse,
            to_nylas,
            database,
            ledgers: 0,
            runs: 0,
        }
    }

    /// Returns a second pipeline on the same ledger, like that of another worker.
    pub(crate) async fn another_pipeline(&self) -> Pipeline {
        let ledger = ledger(&self.database, self.ledgers).await;
        let mode = self.pipeline.write_mode;
        let policy = match &self.pipeline.policy {
            PolicySource::Given(policy) => PolicySource::Given(Arc::clone(policy)),
            PolicySource::Ledger(_) => PolicySource::ledger(),
        };
        Pipeline {
            policy,
            ..connect(
                &self.emulators,
                &self.to_dataverse,
                &self.to_nylas,
                ledger,
                mode,
                self.allowed.clone(),
            )
        }
    }

    /// Makes only the mailboxes that `setting` names take part, as if the process started now and
    /// read the setting.
    pub(crate) fn admit(&mut self, setting: &str) {
        self.allowed = setting.parse().unwrap();
        let nylas = self.pipeline.nylas.clone();
        self.pipeline.mailboxes = MailboxDirectory::new(nylas, self.allowed.clone());
    }

    /// Sets the policy: the default of the tests with these changes.
    pub(crate) fn set(&mut self, changes: &Value) {
        self.pipeline.policy = PolicySource::given(policy(changes));
    }

    /// Makes the pipeline observe this rate limit.
    pub(crate) fn keep_to(&mut self, limits: Limits) {
        self.pipeline.application_users =
            ApplicationUsers::new(limits, tokens(&self.emulators), Vec::new());
    }

    /// Replaces the ledger by an empty one, as if the process had died before it settled anything.
    pub(crate) async fn lose_ledger(&mut self) {
        self.ledgers += 1;
        self.pipeline.ledger = ledger(&self.database, self.ledgers).await;
    }

    /// Removes the ledger's table.
    pub(crate) fn drop_ledger(&self) -> impl Future<Output = ()> + Send + 'static {
        let call = self
            .database
            .delete_table()
            .table_name(ledger_name(self.ledgers));
        async move {
            call.send().await.unwrap();
        }
    }

    /// Advances the time.
    pub(crate) fn later(&mut self, by: TimeDelta) {
        self.now += by;
    }

    /// Advances the time past every pause that Dataverse asks for in these tests.
    pub(crate) fn pause_over(&mut self) {
        self.later(TimeDelta::minutes(5));
    }

    /// Puts a message into a mailbox.
    pub(crate) fn put(&self, grant: &str, message: Value) {
        self.content.lock().unwrap().extend(content(&message));
        self.emulators.nylas().add_message(grant, message);
    }

    /// Makes Dataverse fail the next request that contains `text`.
    pub(crate) fn fail_dataverse_at(&self, text: &str, fault: Fault) {
        let dataverse = self.emulators.dataverse().clone();
        self.before_dataverse_gets(text, async move { dataverse.fail_next(fault) });
    }

    /// Runs `action` before the next request that contains `text` reaches Dataverse.
    pub(crate) fn before_dataverse_gets(
        &self,
        text: &str,
        action: impl Future<Output = ()> + Send + 'static,
    ) {
        self.to_dataverse.at(text, action);
    }

    /// Runs `action` before the next request that contains `text` reaches Nylas.
    pub(crate) fn before_nylas_gets(
        &self,
        text: &str,
        action: impl Future<Output = ()> + Send + 'static,
    ) {
        self.to_nylas.at(text, action);
    }

    /// Makes Nylas fail the next request that contains `text`.
    pub(crate) fn fail_nylas_at(&self, text: &str, fault: Fault) {
        let nylas = self.emulators.nylas().clone();
        self.before_nylas_gets(text, async move { nylas.fail_next(fault) });
    }

    /// Stores in the ledger that this many attempts of a message have failed.
    pub(crate) async fn has_failed(&mut self, grant: &str, id: &str, times: u32) {
        for _ in 0..times {
            let Invocation { token, now, .. } = self.begin();
            let (key, ledger) = (key(grant, id), &self.pipeline.ledger);
            let claim = ledger.claim(&key, &ClaimRequest::new(token, now)).await;
            assert!(claim.unwrap().is_won());
            let failure = StoredOutcome::Released {
                retry_at: now,
                reason: "an earlier try failed".to_owned(),
                counted: true,
            };
            ledger.settle(&key, token, now, &failure).await.unwrap();
        }
    }

    /// Returns time and claim token of the next invocation.
    pub(crate) fn begin(&mut self) -> Invocation {
        self.runs += 1;
        Invocation {
            token: ClaimToken::new(Uuid::from_u128(self.runs)),
            now: self.now,
            begun: Instant::now(),
            clock: Instant::now,
            deadline: self.now + self.invocation,
            application_user: 0,
            jitter_percent: 0,
        }
    }

    /// Returns what begins the steps of one invocation whose time passes quickly: once Nylas has
    /// answered `pages` pages of messages, `left` is left of it.
    pub(crate) fn begin_until_page(
        &mut self,
        pages: u64,
        left: TimeDelta,
    ) -> impl Fn() -> Invocation + use<> {
        let nylas = self.emulators.nylas().clone();
        let until = nylas.pages() + pages;
        let invocation = Invocation {
            begun: stopped_clock(),
            clock: stopped_clock,
            ..self.begin()
        };
        move || Invocation {
            now: if nylas.pages() < until {
                invocation.now
            } else {
                invocation.deadline - left
            },
            ..invocation
        }
    }

    /// Runs the pipeline once on these requests.
    pub(crate) async fn run(&mut self, work: Vec<Delivery>) -> Vec<Processed> {
        let run = self.begin();
        self.pipeline.run(work, run).await
    }

    /// Runs the pipeline once on these new messages. Returns their outcomes in the same order.
    pub(crate) async fn deliver(&mut self, messages: &[(&str, &str)]) -> Vec<Outcome> {
        let work = messages
            .iter()
            .map(|(grant, id)| created(grant, id))
            .collect();
        let processed = self.run(work).await;
        assert_eq!(
            processed.len(),
            messages.len(),
            "each message has one outcome"
        );
        let outcome = |(grant, id): &(&str, &str)| {
            let done = processed.iter().find(|done| done.key == key(grant, id));
            done.expect("each message of the batch has an outcome")
                .outcome
                .clone()
        };
        messages.iter().map(outcome).collect()
    }

    /// Runs the pipeline once on one new message.
    pub(crate) async fn deliver_one(&mut self, grant: &str, id: &str) -> Outcome {
        self.deliver(&[(grant, id)]).await.remove(0)
    }

    /// Runs the schedule: a separate backfill process that shares the ledger lists every mailbox.
    pub(crate) async fn list_mailboxes(&mut self) {
        let (sync, tasks) = (MemoryQueue::default(), MemoryQueue::default());
        let backfill = Backfill::new(self.another_pipeline().await, sync, tasks);
        let run = self.begin();
        let event = json!({"source": "aws.scheduler", "time": self.now.to_rfc3339()});
        let (planned, _) = backfill.run_scheduled(&event, &|| run).await.unwrap();
        assert!(planned.mailboxes > 0 && backfill.left() == 0);
    }

    /// Makes another application user set the regarding of an email to Kites.
    pub(crate) fn somebody_changes(
        &self,
        email: Uuid,
    ) -> impl Future<Output = ()> + Send + 'static {
        const CLIENT: &str = "11111111-2222-4333-8444-555555555555";
        self.insert(
            "systemuser",
            json!({"lastname": "Somebody", "applicationid": CLIENT}),
        );
        let kites = format!("/accounts({})", self.people.kites);
        let body = json!({"regardingobjectid_account_email@odata.bind": kites});
        let url = self.emulators.dataverse().url();
        let token = self.emulators.entra().issue_token_for(CLIENT, &url, 600);
        async move { patch_email(&url, email, &token, &body).await }
    }

    /// Completes the email as received, as another client does.
    pub(crate) async fn complete(&self, email: Uuid) {
        let url = self.emulators.dataverse().url();
        let token = self.emulators.entra().issue_token(&url, 600);
        let body = json!({"statecode": 1, "statuscode": 4});
        patch_email(&url, email, &token, &body).await;
    }

    /// Returns the ledger's entry of a message. `None` if it was never claimed.
    pub(crate) async fn entry(&self, grant: &str, id: &str) -> Option<Entry> {
        self.pipeline.ledger.entry(&key(grant, id)).await.unwrap()
    }

    /// Returns all emails in Dataverse.
    pub(crate) fn emails(&self) -> Vec<Value> {
        self.emulators.dataverse().rows("email")
    }

    /// Returns the only email in Dataverse.
    pub(crate) fn email(&self) -> Value {
        let mut emails = self.emails();
        assert_eq!(emails.len(), 1, "expected one row: {emails:#?}");
        emails.remove(0)
    }

    /// Returns the parties of the only email, without those that Dataverse adds.
    pub(crate) fn parties(&self) -> Vec<PartyView> {
        let parties = self.emulators.dataverse().parties(id_of(&self.email()));
        let sent = parties
            .iter()
            .filter(|party| party["participationtypemask"].as_i64() <= Some(4));
        sent.map(rows::view).collect()
    }

    /// Returns the attachments of the only email.
    pub(crate) fn attachments(&self) -> Vec<Value> {
        self.emulators.dataverse().attachments(id_of(&self.email()))
    }

    /// Inserts a row into Dataverse.
    pub(crate) fn insert(&self, table: &str, row: Value) -> Uuid {
        self.emulators.dataverse().insert(table, row).unwrap()
    }
}

impl Drop for TestOrganisation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(
            self.emulators.dataverse().dropped(),
            [],
            "Dataverse silently dropped what was sent"
        );
        for text in self.content.lock().unwrap().iter() {
            assert!(!self.log.holds(text), "the log holds {text}");
        }
        let mut seen = HashSet::new();
        for email in self.emails() {
            // The sender counts too: another sender with the same Message-ID wrote another message.
            if let Some(id) = email["messageid"].as_str() {
                let nylas_message = (id.to_owned(), email["sender"].to_string());
                assert!(seen.insert(nylas_message), "two rows for the message {id}");
            }
        }
        let left = [self.to_dataverse.left(), self.to_nylas.left()].concat();
        assert_eq!(
            left, [""; 0],
            "requests that a test waited for were never sent"
        );
    }
}

/// Returns the policy of the tests: the documented defaults, with `changes` to the settings of the
/// organisation.
pub(crate) fn policy(changes: &Value) -> Policy {
    let mut defaults = serde_json::json!({"internal_domains": ["partner.example"]});
    let settings = defaults.as_object_mut().unwrap();
    settings.extend(changes.as_object().unwrap().clone());
    Policy::parse(&serde_json::json!({"defaults": defaults}).to_string()).unwrap()
}

/// Changes an email with one request, as another client does.
async fn patch_email(dataverse: &str, email: Uuid, token: &str, body: &Value) {
    let call = reqwest::Client::new()
        .patch(format!("{dataverse}/api/data/v9.2/emails({email})"))
        .bearer_auth(token)
        .header("OData-Version", "4.0")
        .header("OData-MaxVersion", "4.0")
        .json(body);
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
}

/// Returns the texts of a message that no log may hold: subject, body and addresses. A text that is
/// too short is left out, because it may occur in a log by chance.
fn content(message: &Value) -> impl Iterator<Item = String> {
    const SHORTEST: usize = 12;
    let texts = ["subject", "body", "snippet"].map(|field| &message[field]);
    let people = ["from", "to", "cc", "bcc"].map(|field| message[field].as_array());
    let addresses = people.into_iter().flatten().flatten();
    let texts = texts
        .into_iter()
        .chain(addresses.map(|person| &person["email"]));
    texts
        .filter_map(Value::as_str)
        .filter(|text| text.len() >= SHORTEST && **text != message["id"])
        .map(str::to_owned)
        .collect::<Vec<_>>()
        .into_iter()
}

/// A monotonic clock that does not advance.
fn stopped_clock() -> Instant {
    static STOPPED: OnceLock<Instant> = OnceLock::new();
    *STOPPED.get_or_init(Instant::now)
}

fn ledger_name(number: u32) -> String {
    format!("ledger-{number}")
}

async fn ledger(database: &Client, number: u32) -> Ledger {
    let name = ledger_name(number);
    table::create(database, &name).await.unwrap();
    Ledger::new(database.clone(), name)
}

fn connect(
    emulators: &Emulators,
    to_dataverse: &Tripwire,
    to_nylas: &Tripwire,
    ledger: Ledger,
    write_mode: WriteMode,
    allowed: AllowList,
) -> Pipeline {
    let http = mailverse::clients::http::client().unwrap();
    let url = |text: &str| text.parse().unwrap();
    let key = SecretSource::Given(emulators.nylas().api_key().into());
    let nylas = NylasClient::new(http.clone(), &url(to_nylas.url()), key);
    Pipeline {
        ledger,
        mailboxes: MailboxDirectory::new(nylas.clone(), allowed),
        nylas,
        dataverse: DataverseClient::new(http, &url(to_dataverse.url())),
        application_users: ApplicationUsers::new(Limits::default(), tokens(emulators), Vec::new()),
        policy: PolicySource::given(policy(&serde_json::json!({}))),
        write_mode,
        created_on: Backdating::default(),
        people_limit: ResolvedPeopleLimit::default(),
    }
}

fn tokens(emulators: &Emulators) -> TokenSource {
    let http = mailverse::clients::http::client().unwrap();
    let url = |text: &str| text.parse().unwrap();
    let entra = EntraClient::new(
        http,
        &url(&emulators.entra().authority()),
        &emulators.entra().tenant_id(),
        emulators.entra().client_id(),
        Credential::Secret(emulators.entra().client_secret().into()),
        &url(&emulators.dataverse().url()),
    );
    TokenSource::new(Origin::Entra(entra))
}

#[tokio::test]
#[should_panic(expected = "the log holds Kites for spring")]
async fn a_test_fails_if_a_subject_is_logged() {
    let organisation = with_a_mail().await;
    tracing::warn!(
        subject = "Kites for spring",
        "a line that should not be logged"
    );
    drop(organisation);
}
