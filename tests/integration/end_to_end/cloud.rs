//! The environment of the functions: AWS, the three services, one mailbox and a company.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use emulators::{Emulators, Grant};
use mailverse::ledger::backfill_runs::{TaskKey, TaskState};
use mailverse::ledger::messages::Ledger;
use mailverse::ledger::table;
use serde_json::{Value, json};

use super::canary;
use super::events::{schedule, sqs_event};
use super::lambda::Function;
use super::moto::Moto;
use crate::dynamo;
use crate::tripwire::Tripwire;

pub(super) const GRANT: &str = "grant-1";
pub(super) const TABLE: &str = "ledger";
pub(super) const WEBHOOK_SECRET: &str = "canary-webhook-secret-90c1";

/// The environment of the functions.
pub(super) struct Cloud {
    pub(super) emulators: Emulators,
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) secrets: aws_sdk_secretsmanager::Client,
    pub(super) queue: String,
    pub(super) dead_letters: String,
    /// The URL of the backfill queue.
    pub(super) tasks: String,
    dynamo: String,
    /// The proxy between the functions and DynamoDB.
    pub(super) to_ledger: Tripwire,
    moto: Moto,
}

impl Cloud {
    /// Starts queues, an empty ledger, and the secrets as the template creates them: without
    /// values.
    pub(super) async fn start(receive_limit: u32) -> Self {
        let emulators = Emulators::start().await.unwrap();
        emulators.nylas().add_grant(Grant {
            id: GRANT.to_owned(),
            email: "ada@ours.example".to_owned(),
            provider: "google".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        for (table, row) in [
            (
                "systemuser",
                json!({"lastname": "Ada", "internalemailaddress": "ada@ours.example", "isdisabled": false}),
            ),
            (
                "contact",
                json!({"lastname": "C", "emailaddress1": canary::ADDRESS}),
            ),
        ] {
            emulators.dataverse().insert(table, row).unwrap();
        }
        let moto = Moto::start().await;
        let dynamo = dynamo::start().await;
        table::create(&dynamo::client(&dynamo), TABLE)
            .await
            .unwrap();
        let (sqs, secrets) = (moto.sqs(), moto.secrets());
        let dead_letters = create_queue(&sqs, "dead", &[]).await;
        let redrive = json!({
            "deadLetterTargetArn": "arn:aws:sqs:eu-north-1:123456789012:dead", "maxReceiveCount": receive_limit.to_string(),
        });
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, "300".to_owned()),
            (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        ];
        let queue = create_queue(&sqs, "sync", &attributes).await;
        create_queue(&sqs, "dead-tasks", &[]).await;
        let redrive = json!({
            "deadLetterTargetArn": "arn:aws:sqs:eu-north-1:123456789012:dead-tasks", "maxReceiveCount": "10",
        });
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, "960".to_owned()),
            (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        ];
        let tasks = create_queue(&sqs, "backfill", &attributes).await;
        for name in ["webhook", "entra", "token", "nylas"] {
            secrets.create_secret().name(name).send().await.unwrap();
        }
        Self {
            emulators,
            sqs,
            secrets,
            queue,
            dead_letters,
            tasks,
            to_ledger: Tripwire::before(&dynamo).await,
            dynamo,
            moto,
        }
    }

    /// Stores the values of the secrets that operators store. The token is stored by
    /// token-refresher.
    pub(super) async fn store_secrets(&self) {
        self.store("webhook", WEBHOOK_SECRET).await;
        self.store("nylas", &self.emulators.nylas().api_key()).await;
        let credential = json!({"client_secret": self.emulators.entra().client_secret()});
        self.store("entra", &credential.to_string()).await;
    }

    pub(super) async fn store(&self, secret: &str, value: &str) {
        let call = self
            .secrets
            .put_secret_value()
            .secret_id(secret)
            .secret_string(value);
        call.send().await.unwrap();
    }

    pub(super) async fn stored(&self, secret: &str) -> Option<String> {
        let found = self
            .secrets
            .get_secret_value()
            .secret_id(secret)
            .version_stage("AWSCURRENT")
            .send()
            .await;
        found.ok().and_then(|found| found.secret_string)
    }

    /// Returns texts that must not be printed.
    pub(super) async fn secret_texts(&self) -> Vec<String> {
        let mut texts = vec![
            WEBHOOK_SECRET.to_owned(),
            self.emulators.nylas().api_key(),
            self.emulators.entra().client_secret(),
        ];
        if let Some(token) = self.stored("token").await {
            let token: Value = serde_json::from_str(&token).unwrap();
            texts.push(token["access_token"].as_str().unwrap().to_owned());
        }
        texts
    }

    /// Starts a function with the settings of the template and with all its logs.
    pub(super) async fn function(&self, name: &'static str) -> Function {
        self.function_with(name, &[]).await
    }

    /// Starts a function like [`Self::function`], with further settings.
    pub(super) async fn function_with(
        &self,
        name: &'static str,
        further: &[(&'static str, String)],
    ) -> Function {
        let entra = self.emulators.entra();
        let own: Vec<(&str, String)> = match name {
            "webhook-receiver" => vec![
                ("WEBHOOK_SECRET_ID", "webhook".to_owned()),
                ("SYNC_QUEUE_URL", self.queue.clone()),
            ],
            "token-refresher" => vec![
                ("DATAVERSE_URL", self.emulators.dataverse().url()),
                ("ENTRA_AUTHORITY", entra.authority()),
                ("ENTRA_TENANT_ID", entra.tenant_id()),
                ("ENTRA_CLIENT_ID", entra.client_id()),
                ("ENTRA_SECRET_ID", "entra".to_owned()),
                ("TOKEN_SECRET_ID", "token".to_owned()),
            ],
            "sync-worker" => self.pipeline_settings(),
            "backfill" => {
                let queue = ("BACKFILL_QUEUE_URL", self.tasks.clone());
                [self.pipeline_settings(), vec![queue]].concat()
            }
            other => panic!("unknown function {other}"),
        };
        Function::start(name, &[&self.aws_settings(), &own[..], further].concat()).await
    }

    fn pipeline_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATAVERSE_URL", self.emulators.dataverse().url()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
            ("NYLAS_API_URL", self.emulators.nylas().url()),
            ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
            ("MAILBOXES", "ours.example".to_owned()),
            ("LEDGER_TABLE", TABLE.to_owned()),
            ("SYNC_QUEUE_URL", self.queue.clone()),
            // More than any test uses: otherwise it would depend on the speed of the machine
            // whether backfill has to wait for its turn.
            ("DATAVERSE_LIMITS", "1000000,1000000,1".to_owned()),
        ]
    }

    /// Returns the settings to reach AWS and to enable all logs of a function.
    pub(super) fn aws_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_REGION", "eu-north-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ENDPOINT_URL_SQS", self.moto.endpoint.clone()),
            (
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                self.moto.endpoint.clone(),
            ),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.to_ledger.url().to_owned()),
            ("RUST_LOG", "trace".to_owned()),
        ]
    }

    /// Runs token-refresher once, and returns what it printed.
    pub(super) async fn refresh_token(&self) -> String {
        let mut refresher = self.function("token-refresher").await;
        refresher.succeed(schedule("2026-11-20T06:00:00Z")).await;
        refresher.stop().await
    }

    /// Receives up to ten messages of a queue, as Lambda does.
    pub(super) async fn receive_from(&self, queue: &str) -> Vec<Message> {
        let call = self
            .sqs
            .receive_message()
            .queue_url(queue)
            .max_number_of_messages(10);
        let call = call.message_system_attribute_names(MessageSystemAttributeName::All);
        call.send().await.unwrap().messages.unwrap_or_default()
    }

    pub(super) async fn receive(&self) -> Vec<Message> {
        self.receive_from(&self.queue).await
    }

    /// Processes a batch as Lambda does: one invocation, then every message that was not reported
    /// as failed is deleted. Returns the ids of the failed ones.
    pub(super) async fn work(&self, worker: &mut Function, batch: &[Message]) -> Vec<String> {
        self.work_from(&self.queue, worker, batch).await
    }

    /// Processes a batch of another queue.
    pub(super) async fn work_from(
        &self,
        queue: &str,
        worker: &mut Function,
        batch: &[Message],
    ) -> Vec<String> {
        let response = worker.succeed(sqs_event(batch)).await;
        let failures = response["batchItemFailures"]
            .as_array()
            .expect("a partial batch response");
        let failed: Vec<String> = failures
            .iter()
            .map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned())
            .collect();
        for message in batch {
            if !failed.contains(&message.message_id().unwrap().to_owned()) {
                let call = self.sqs.delete_message().queue_url(queue);
                call.receipt_handle(message.receipt_handle().unwrap())
                    .send()
                    .await
                    .unwrap();
            }
        }
        failed
    }

    /// Processes the backfill queue as Lambda does, one task at a time, until no task is visible.
    /// Returns the number of invocations, and how many tasks went back to the queue.
    pub(super) async fn work_tasks(&self, backfill: &mut Function) -> (usize, usize) {
        let (mut invocations, mut back) = (0, 0);
        loop {
            let batch = self.receive_from(&self.tasks).await;
            if batch.is_empty() {
                return (invocations, back);
            }
            for task in batch {
                invocations += 1;
                let failed = self.work_from(&self.tasks, backfill, &[task]).await;
                back += failed.len();
            }
        }
    }

    /// Fires the schedule: the backfill plans tasks, and processes them.
    pub(super) async fn reconcile(&self, backfill: &mut Function, time: &str) -> Value {
        let planned = backfill.succeed(schedule(time)).await;
        assert_eq!(
            self.work_tasks(backfill).await.1,
            0,
            "no task should go back to the queue"
        );
        planned
    }

    /// Returns the coverage that a scheduled run reported for the mailbox.
    pub(super) async fn coverage(&self, planned: &Value) -> Value {
        let key = TaskKey {
            run_id: planned["run_id"].as_str().unwrap().parse().unwrap(),
            grant_id: GRANT.parse().unwrap(),
        };
        let progress = self.ledger().progress(&key).await.unwrap();
        assert_eq!(progress.state, TaskState::Done);
        json!(progress.coverage)
    }

    /// Makes a message visible again, as its visibility timeout would.
    pub(super) async fn make_visible(&self, message: &Message) {
        self.make_visible_in(&self.queue, message).await;
    }

    /// Makes a message of another queue visible again.
    pub(super) async fn make_visible_in(&self, queue: &str, message: &Message) {
        let call = self.sqs.change_message_visibility().queue_url(queue);
        let call = call
            .receipt_handle(message.receipt_handle().unwrap())
            .visibility_timeout(0);
        call.send().await.unwrap();
    }

    pub(super) async fn send(&self, body: &str) {
        self.sqs
            .send_message()
            .queue_url(&self.queue)
            .message_body(body)
            .send()
            .await
            .unwrap();
    }

    /// Returns the number of messages in the queue: visible and hidden.
    pub(super) async fn queue_length(&self) -> (String, String) {
        let (visible, hidden) = (
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        );
        let call = self.sqs.get_queue_attributes().queue_url(&self.queue);
        let call = call
            .attribute_names(visible.clone())
            .attribute_names(hidden.clone());
        let attributes = call.send().await.unwrap().attributes.unwrap();
        (attributes[&visible].clone(), attributes[&hidden].clone())
    }

    /// Returns the ledger, bypassing the proxy.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger::new(dynamo::client(&self.dynamo), TABLE.to_owned())
    }

    /// Returns the whole ledger as text.
    pub(super) async fn ledger_text(&self) -> String {
        let items = dynamo::client(&self.dynamo)
            .scan()
            .table_name(TABLE)
            .send()
            .await
            .unwrap();
        assert!(
            items.count > 0,
            "an empty ledger would pass any check for content"
        );
        format!("{:?}", items.items)
    }

    /// Returns all ledger items in a stable order.
    pub(super) async fn ledger_items(&self) -> Vec<BTreeMap<String, AttributeValue>> {
        let ledger = dynamo::client(&self.dynamo);
        let items = ledger.scan().table_name(TABLE).send().await.unwrap();
        let sorted = |item: HashMap<_, _>| item.into_iter().collect::<BTreeMap<_, _>>();
        let mut items: Vec<_> = items.items.unwrap().into_iter().map(sorted).collect();
        items.sort_by_key(|item| format!("{item:?}"));
        items
    }

    /// Ends the leases of all claims, as if their time had passed.
    pub(super) async fn end_leases(&self) {
        let ledger = dynamo::client(&self.dynamo);
        let items = ledger.scan().table_name(TABLE).send().await.unwrap();
        for mut item in items.items.unwrap() {
            let Some(lease) = item.get_mut("lease_until_ms") else {
                // The rate limit item of a Dataverse user, which has no lease.
                continue;
            };
            *lease = AttributeValue::N("0".to_owned());
            ledger
                .put_item()
                .table_name(TABLE)
                .set_item(Some(item))
                .send()
                .await
                .unwrap();
        }
    }

    /// Sets the time of the first claim of all messages to `hours_ago` hours ago.
    pub(super) async fn claimed_first(&self, hours_ago: i64) {
        let since = chrono::Utc::now() - chrono::TimeDelta::hours(hours_ago);
        let since = AttributeValue::N(since.timestamp_millis().to_string());
        let ledger = dynamo::client(&self.dynamo);
        let items = ledger.scan().table_name(TABLE).send().await.unwrap();
        for mut item in items.items.unwrap() {
            if item.contains_key("since_ms") {
                item.insert("since_ms".to_owned(), since.clone());
                let put = ledger.put_item().table_name(TABLE);
                put.set_item(Some(item)).send().await.unwrap();
            }
        }
    }

    /// Deletes the policy item.
    pub(super) async fn delete_policy(&self) {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        let client = dynamo::client(&self.dynamo);
        let call = client.delete_item().table_name(TABLE);
        let call = call.key("pk", key("policy")).key("sk", key("current"));
        call.send().await.unwrap();
    }

    /// Stores a pause that Dataverse asked for and that has not ended.
    pub(super) async fn begin_pause(&self) {
        let text = |value: &str| AttributeValue::S(value.to_owned());
        let client = dynamo::client(&self.dynamo);
        let item = client.put_item().table_name(TABLE);
        let item = item
            .item("pk", text("rate_limit"))
            .item("sk", text("dataverse"));
        let year_2500 = AttributeValue::N("16725225600000".to_owned());
        item.item("paused_until_ms", year_2500)
            .send()
            .await
            .unwrap();
    }

    /// Ends the time of every pause, as if it had passed.
    pub(super) async fn end_pause_times(&self) {
        let ledger = dynamo::client(&self.dynamo);
        let items = ledger.scan().table_name(TABLE).send().await.unwrap();
        for mut item in items.items.unwrap() {
            if let Some(until) = item.get_mut("paused_until_ms") {
                *until = AttributeValue::N("1".to_owned());
                let put = ledger.put_item().table_name(TABLE).set_item(Some(item));
                put.send().await.unwrap();
            }
        }
    }

    /// Deletes everything in the ledger.
    pub(super) async fn lose_ledger(&self) {
        let ledger = dynamo::client(&self.dynamo);
        let items = ledger.scan().table_name(TABLE).send().await.unwrap();
        for mut item in items.items.unwrap() {
            let mut call = ledger.delete_item().table_name(TABLE);
            for key in ["pk", "sk"] {
                call = call.key(key, item.remove(key).unwrap());
            }
            call.send().await.unwrap();
        }
    }

    /// Deletes an email in Dataverse, as a user would.
    pub(super) async fn delete_email(&self, id: &str) {
        let url = self.emulators.dataverse().url();
        let token = self.emulators.entra().issue_token(&url, 600);
        let call = reqwest::Client::new()
            .delete(format!("{url}/api/data/v9.2/emails({id})"))
            .bearer_auth(token)
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0");
        assert_eq!(call.send().await.unwrap().status(), 204);
    }

    /// Ends the pause that Dataverse asked for, as if its time had passed.
    pub(super) async fn end_pause(&self) {
        let key = |value: &str| AttributeValue::S(value.to_owned());
        dynamo::client(&self.dynamo)
            .delete_item()
            .table_name(TABLE)
            .key("pk", key("rate_limit"))
            .key("sk", key("dataverse"))
            .send()
            .await
            .unwrap();
    }

    /// Returns the emails in Dataverse, after checking that none of the columns that were sent was
    /// dropped.
    pub(super) fn emails(&self) -> Vec<Value> {
        assert_eq!(self.emulators.dataverse().dropped(), []);
        self.emulators.dataverse().rows("email")
    }

    /// Puts the test message into the mailbox. Returns the notification about it.
    pub(super) fn put_mail(&self, id: &str) -> Value {
        let object = json!({
            "id": id, "grant_id": GRANT, "object": "message", "subject": canary::SUBJECT, "body": format!("<p>{}</p>", canary::BODY),
            "from": [{"name": canary::NAME, "email": canary::ADDRESS}], "to": [{"name": canary::NAME, "email": "ada@ours.example"}],
            "date": 1_795_150_000, "folders": ["INBOX"], "snippet": canary::BODY,
            "headers": [{"name": "Message-ID", "value": format!("<{id}@kites.example>")}],
        });
        self.emulators.nylas().add_message(GRANT, object.clone());
        json!({
            "specversion": "1.0", "type": "message.created", "source": "/google/emails/realtime", "id": format!("notification-{id}"),
            "time": chrono::Utc::now().timestamp(), "webhook_delivery_attempt": 1, "data": {"application_id": "app", "object": object},
        })
    }
}

async fn create_queue(
    sqs: &aws_sdk_sqs::Client,
    name: &str,
    attributes: &[(QueueAttributeName, String)],
) -> String {
    let mut call = sqs.create_queue().queue_name(name);
    for (attribute, value) in attributes {
        call = call.attributes(attribute.clone(), value);
    }
    call.send().await.unwrap().queue_url.unwrap()
}
