//! The emulator with its limits, the people, the mailboxes, the ledger and the queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use emulators::{Emulators, Grant, Setting};
use local_aws::dynamo;
use mailverse::clients::aws::secrets::SecretSource;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::entra::client::{Credential, EntraClient};
use mailverse::clients::entra::{Origin, TokenSource};
use mailverse::clients::nylas::NylasClient;
use mailverse::ledger::messages::Ledger;
use mailverse::ledger::table;
use mailverse::mailboxes::{AllowList, MailboxDirectory};
use mailverse::model::ids::MessageKey;
use mailverse::pipeline::Pipeline;
use mailverse::pipeline::application_users::ApplicationUsers;
use mailverse::pipeline::created_on::Backdating;
use mailverse::pipeline::people_limit::ResolvedPeopleLimit;
use mailverse::policy::Policy;
use mailverse::policy::cache::PolicySource;
use serde_json::{Value, json};

use crate::queue::Queue;

/// The window of the limits.
const WINDOW: Duration = Duration::from_secs(10);
/// The first part of a phase is not measured: processes make their initial requests, batches find
/// their size, and the window fills.
pub(crate) const WARM_UP: Duration = Duration::from_secs(8);
/// The execution time that the limits allow in the window, in milliseconds: scaled from 300
/// seconds.
const EXECUTION_MS: u64 = 40_000;
/// The execution time of an operation, in milliseconds.
const OPERATION_MS: u64 = 40;
/// The limits in the form of the functions' setting.
const BUDGET: &str = "200,40,10";
/// The mailbox with live mail.
pub(crate) const LIVE: &str = "grant-live";
/// The number of mailboxes for the backfill.
pub(crate) const MAILBOXES: usize = 9;
/// The number of messages in each of them.
const IN_EACH: usize = 900;
/// The number of senders.
const PEOPLE: usize = 40;

/// Returns the operations per second that the limits allow.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub(crate) fn allowed() -> f64 {
    EXECUTION_MS as f64 / OPERATION_MS as f64 / WINDOW.as_secs_f64()
}

/// The environment that the phases share.
pub(crate) struct Company {
    pub(crate) emulators: Emulators,
    /// The sync queue.
    pub(crate) queue: Queue,
    /// The backfill queue.
    pub(crate) tasks: Queue,
    ledger: Ledger,
    arrived: AtomicU64,
}

impl Company {
    pub(crate) async fn found() -> Self {
        let emulators = Emulators::start().await.unwrap();
        let dataverse = emulators.dataverse();
        for person in 0..PEOPLE {
            let row = json!({"lastname": "Known", "emailaddress1": address(person)});
            dataverse.insert("contact", row).unwrap();
        }
        let history = (0..MAILBOXES).map(mailbox);
        for (n, grant) in history.chain([LIVE.to_owned()]).enumerate() {
            let email = format!("user{n}@ours.example");
            let row =
                json!({"lastname": "User", "internalemailaddress": email, "isdisabled": false});
            dataverse.insert("systemuser", row).unwrap();
            emulators.nylas().add_grant(Grant {
                id: grant.clone(),
                email: email.clone(),
                provider: "google".to_owned(),
                aliases: Vec::new(),
                status: "valid".to_owned(),
            });
            for number in (0..IN_EACH).filter(|_| grant != LIVE) {
                let nylas_message =
                    nylas_message(&format!("h{n}-{number}"), number % PEOPLE, &email);
                emulators.nylas().add_message(&grant, nylas_message);
            }
        }
        for setting in [
            Setting::ProtectionWindowSeconds(10),
            Setting::RequestsPerFiveMinutes(200),
            Setting::ExecutionMilliseconds(EXECUTION_MS),
            Setting::OperationMilliseconds(OPERATION_MS),
            Setting::NetworkMilliseconds(30),
        ] {
            dataverse.set_setting(setting);
        }
        let database = dynamo::client(&dynamo::start().await);
        table::create(&database, "ledger").await.unwrap();
        Self {
            emulators,
            queue: Queue::default(),
            tasks: Queue::default(),
            ledger: Ledger::new(database, "ledger".to_owned()),
            arrived: AtomicU64::new(0),
        }
    }

    /// Creates a pipeline like that of a separate process.
    pub(crate) fn pipeline(&self) -> Pipeline {
        let emulators = &self.emulators;
        let http = mailverse::clients::http::client().unwrap();
        let url = |text: String| text.parse().unwrap();
        let key = SecretSource::Given(emulators.nylas().api_key().into());
        let nylas = NylasClient::new(http.clone(), &url(emulators.nylas().url()), key);
        let entra = EntraClient::new(
            http.clone(),
            &url(emulators.entra().authority()),
            &emulators.entra().tenant_id(),
            emulators.entra().client_id(),
            Credential::Secret(emulators.entra().client_secret().into()),
            &url(emulators.dataverse().url()),
        );
        let tokens = TokenSource::new(Origin::Entra(entra));
        Pipeline {
            ledger: self.ledger.clone(),
            mailboxes: MailboxDirectory::new(nylas.clone(), AllowList::All),
            nylas,
            dataverse: DataverseClient::new(http, &url(emulators.dataverse().url())),
            application_users: ApplicationUsers::new(BUDGET.parse().unwrap(), tokens, Vec::new()),
            policy: PolicySource::given(Policy::default()),
            write_mode: WriteMode::default(),
            created_on: Backdating::default(),
            people_limit: ResolvedPeopleLimit::default(),
        }
    }

    /// Puts a new message into the live mailbox. Returns its id.
    pub(crate) fn put_new_mail(&self) -> String {
        let number = self.arrived.fetch_add(1, Ordering::Relaxed);
        let id = format!("live-{number}");
        let person = usize::try_from(number).unwrap() % PEOPLE;
        let to = format!("user{MAILBOXES}@ours.example");
        self.emulators
            .nylas()
            .add_message(LIVE, nylas_message(&id, person, &to));
        id
    }

    /// Returns the number of operations that Dataverse has executed.
    pub(crate) fn operations(&self) -> u64 {
        self.emulators.dataverse().requests().operations
    }

    /// Runs workers until the queue is empty.
    pub(crate) async fn drain(&self) {
        let workers = crate::live::workers(self);
        while !self.queue.is_empty() {
            pass(Duration::from_millis(100)).await;
        }
        drop(workers);
    }

    /// Counts the messages in each state, of those that were started.
    pub(crate) async fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        let live =
            (0..self.arrived.load(Ordering::Relaxed)).map(|n| key(LIVE, &format!("live-{n}")));
        let history = (0..MAILBOXES).flat_map(|n| {
            (0..IN_EACH).map(move |number| key(&mailbox(n), &format!("h{n}-{number}")))
        });
        for key in live.chain(history) {
            // The backfill does not finish here; messages that it did not reach do not count.
            if let Some(entry) = self.ledger.entry(&key).await.unwrap() {
                *states.entry(entry.state.as_str()).or_default() += 1;
            }
        }
        states
    }
}

/// Returns the mailbox with this number, for the backfill.
pub(crate) fn mailbox(number: usize) -> String {
    format!("grant-{number}")
}

fn key(grant: &str, id: &str) -> MessageKey {
    MessageKey {
        grant_id: grant.parse().unwrap(),
        message_id: id.parse().unwrap(),
    }
}

fn address(person: usize) -> String {
    format!("person{person}@customer{}.example", person / 2)
}

fn nylas_message(id: &str, person: usize, to: &str) -> Value {
    json!({
        "id": id, "subject": "Kites for spring", "body": "<p>Two red ones, please.</p>", "date": 1_795_150_000,
        "from": [{"name": "Known", "email": address(person)}], "to": [{"email": to}],
        "cc": [{"email": address((person + 1) % PEOPLE)}], "folders": [],
        "headers": [{"name": "Message-ID", "value": format!("<{id}@customer.example>")}],
    })
}

/// Waits in real time, because real time is measured.
pub(crate) async fn pass(time: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark plays the passing of time; no handler of the product waits here"
    )]
    tokio::time::sleep(time).await;
}
