//! The environment of the processes: the emulators, and the settings that each process gets.

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::operation::change_message_visibility::ChangeMessageVisibilityError;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use emulators::{Emulators, Privilege, Setting};
use local_aws::dynamo;
use local_aws::moto::Moto;
use mailverse::ledger::table;
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::corpus::LONGEST_SUBJECT;
use crate::fault_proxy::{FaultProxy, Seat, Shared};
use crate::plan::{Mode, Service};
use crate::queue::{Queue, VISIBILITY};

pub(crate) const TABLE: &str = "ledger";
/// A client that may read the lengths of columns shortens longer texts. Here it must not, so that
/// Dataverse rejects them.
pub(crate) const WITHHELD: [(Privilege, &str); 1] = [(Privilege::Read, "attribute")];
/// The longest visibility timeout of SQS, in seconds.
const LONGEST_VISIBILITY: u32 = 43_200;

pub(crate) const WEBHOOK_SECRET: &str = "zq7-webhook-secret-90c1";

/// The environment of the processes.
pub(crate) struct Cloud {
    pub(crate) emulators: Emulators,
    pub(crate) queue: Queue,
    /// The URL of the backfill queue.
    tasks: String,
    /// Receipts of tasks that were not finished.
    undone: Mutex<Vec<String>>,
    pub(crate) ledger: aws_sdk_dynamodb::Client,
    pub(crate) shared: Arc<Shared>,
    secrets: aws_sdk_secretsmanager::Client,
    dynamo: String,
    moto: Moto,
}

/// The connections of one slot to all services.
pub(crate) struct Lines {
    ledger: Connection,
    dataverse: Connection,
    nylas: Connection,
    queue: Connection,
}

impl Cloud {
    pub(crate) async fn start(shared: Arc<Shared>) -> Self {
        let emulators = Emulators::start().await.unwrap();
        let dataverse = emulators.dataverse();
        dataverse
            .set_max_length("email", "subject", LONGEST_SUBJECT)
            .unwrap();
        dataverse.set_setting(Setting::Withheld(WITHHELD.to_vec()));
        // Here the faults decide about throttling, not the speed of the machine.
        dataverse.set_setting(Setting::RequestsPerFiveMinutes(usize::MAX));
        let moto = Moto::start().await;
        let endpoint = dynamo::start().await;
        let ledger = dynamo::client(&endpoint);
        table::create(&ledger, TABLE).await.unwrap();
        let (sqs, secrets) = (moto.sqs(), moto.secrets());
        let create = async |name: &str, attributes: &[(QueueAttributeName, String)]| {
            let mut call = sqs.create_queue().queue_name(name);
            for (attribute, value) in attributes {
                call = call.attributes(attribute.clone(), value);
            }
            call.send().await.unwrap().queue_url.unwrap()
        };
        let dead_letters = create("dead", &[]).await;
        let redrive = json!({
            "deadLetterTargetArn": "arn:aws:sqs:eu-north-1:123456789012:dead",
            "maxReceiveCount": mailverse::clients::retry::RECEIVE_LIMIT.to_string(),
        });
        let attributes = [
            (
                QueueAttributeName::VisibilityTimeout,
                VISIBILITY.as_secs().to_string(),
            ),
            (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        ];
        let url = create("sync", &attributes).await;
        // Tasks do not reappear by themselves during a run: the harness decides when.
        let hidden = (
            QueueAttributeName::VisibilityTimeout,
            LONGEST_VISIBILITY.to_string(),
        );
        let tasks = create("backfill", &[hidden]).await;
        let values = [
            ("webhook", Some(WEBHOOK_SECRET.to_owned())),
            ("nylas", Some(emulators.nylas().api_key())),
            (
                "entra",
                Some(json!({"client_secret": emulators.entra().client_secret()}).to_string()),
            ),
            ("token", None),
        ];
        for (name, value) in values {
            let call = secrets.create_secret().name(name).set_secret_string(value);
            call.send().await.unwrap();
        }
        Self {
            queue: Queue {
                client: sqs,
                url,
                dead_letters,
                shared: Arc::clone(&shared),
            },
            tasks,
            undone: Mutex::default(),
            emulators,
            ledger,
            shared,
            secrets,
            dynamo: endpoint,
            moto,
        }
    }

    /// Opens the connections of a slot to all services.
    pub(crate) async fn lines(&self, seat: &Arc<Seat>) -> Lines {
        let fault_proxy = |service| FaultProxy::new(service, seat, &self.shared);
        Lines {
            ledger: Connection::to(&self.dynamo, fault_proxy(Service::Ledger)).await,
            dataverse: Connection::to(
                &self.emulators.dataverse().url(),
                fault_proxy(Service::Dataverse),
            )
            .await,
            nylas: Connection::to(&self.emulators.nylas().url(), fault_proxy(Service::Nylas)).await,
            queue: Connection::to(&self.moto.endpoint, fault_proxy(Service::Queue)).await,
        }
    }

    /// Returns the settings of the function that uses these connections, as the template sets them,
    /// with the most detailed log level.
    pub(crate) fn settings(&self, mode: Mode, lines: &Lines) -> Vec<(&'static str, String)> {
        let mut settings = self.aws_settings();
        settings.extend([
            ("AWS_ENDPOINT_URL_SQS", lines.queue.url.clone()),
            ("AWS_ENDPOINT_URL_DYNAMODB", lines.ledger.url.clone()),
            ("SYNC_QUEUE_URL", self.queue.url.clone()),
        ]);
        if mode == Mode::Receiver {
            settings.push(("WEBHOOK_SECRET_ID", "webhook".to_owned()));
            return settings;
        }
        settings.extend([
            ("DATAVERSE_URL", lines.dataverse.url.clone()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
            ("NYLAS_API_URL", lines.nylas.url.clone()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
            ("MAILBOXES", "all".to_owned()),
            ("LEDGER_TABLE", TABLE.to_owned()),
        ]);
        if mode == Mode::Backfill {
            settings.push(("BACKFILL_QUEUE_URL", self.tasks.clone()));
        }
        if mode == Mode::Stepwise {
            settings.push(("WRITE_MODE", "stepwise".to_owned()));
        }
        settings
    }

    /// Returns the settings of token-refresher, which uses no connections of the harness.
    pub(crate) fn refresher_settings(&self) -> Vec<(&'static str, String)> {
        let entra = self.emulators.entra();
        let mut settings = self.aws_settings();
        settings.extend([
            ("DATAVERSE_URL", self.emulators.dataverse().url()),
            ("ENTRA_AUTHORITY", entra.authority()),
            ("ENTRA_TENANT_ID", entra.tenant_id()),
            ("ENTRA_CLIENT_ID", entra.client_id()),
            ("ENTRA_SECRET_ID", "entra".to_owned()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
        ]);
        settings
    }

    fn aws_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_REGION", "eu-north-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            (
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                self.moto.endpoint.clone(),
            ),
            ("RUST_LOG", "trace".to_owned()),
        ]
    }

    /// Returns the current access token.
    pub(crate) async fn token(&self) -> Option<String> {
        let call = self
            .secrets
            .get_secret_value()
            .secret_id("token")
            .version_stage("AWSCURRENT");
        let text = call.send().await.ok()?.secret_string?;
        let token: Value = serde_json::from_str(&text).ok()?;
        token["access_token"].as_str().map(str::to_owned)
    }

    /// Receives a task of the backfill queue.
    pub(crate) async fn task(&self) -> Option<Message> {
        let _alone = self.shared.queue_gate.lock().await;
        let call = self.queue.client.receive_message().queue_url(&self.tasks);
        let call = call.message_system_attribute_names(MessageSystemAttributeName::All);
        call.send().await.unwrap().messages?.pop()
    }

    /// Deletes a task that was finished.
    pub(crate) async fn task_done(&self, task: &Message) {
        let _alone = self.shared.queue_gate.lock().await;
        let call = self.queue.client.delete_message().queue_url(&self.tasks);
        let call = call.receipt_handle(task.receipt_handle().unwrap());
        call.send().await.unwrap();
    }

    /// Records that a task was not finished. It stays hidden until [`Self::tasks_come_back`].
    pub(crate) fn task_undone(&self, task: &Message) {
        let receipt = task.receipt_handle().unwrap().to_owned();
        self.undone.lock().unwrap().push(receipt);
    }

    /// Makes unfinished tasks visible again. Returns how many.
    pub(crate) async fn tasks_come_back(&self) -> usize {
        let undone = std::mem::take(&mut *self.undone.lock().unwrap());
        let _alone = self.shared.queue_gate.lock().await;
        for receipt in &undone {
            let call = self.queue.client.change_message_visibility();
            let call = call.queue_url(&self.tasks).receipt_handle(receipt);
            let back = call.visibility_timeout(0).send().await;
            // The backfill itself sets when a task is delivered again. A task that was due by the
            // machine's clock may be finished by now.
            let is_gone = back.as_ref().is_err_and(|error| {
                error
                    .as_service_error()
                    .is_some_and(ChangeMessageVisibilityError::is_receipt_handle_is_invalid)
            });
            assert!(back.is_ok() || is_gone, "{back:?}");
        }
        undone.len()
    }

    /// Removes the lease of every mailbox: between two scheduled runs, enough time passes for it to
    /// expire.
    pub(crate) async fn free_mailboxes(&self) {
        for item in self.items().await {
            if item["sk"] == AttributeValue::S("backfill".to_owned()) {
                let call = self.ledger.update_item().table_name(TABLE);
                let call = call
                    .key("pk", item["pk"].clone())
                    .key("sk", item["sk"].clone());
                let call = call.update_expression("REMOVE lease_task, lease_token, lease_until_ms");
                call.send().await.unwrap();
            }
        }
    }

    /// Returns all items of the ledger.
    pub(crate) async fn items(&self) -> Vec<std::collections::HashMap<String, AttributeValue>> {
        let pages = self.ledger.scan().table_name(TABLE).into_paginator();
        pages
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .unwrap()
    }
}
