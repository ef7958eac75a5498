//! The services around the functions, and the messages.

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Emulators, FaultPlan, Grant, Setting};
use local_aws::dynamo;
use local_aws::events::schedule;
use local_aws::lambda::Function;
use local_aws::moto::Moto;
use mailverse::ledger::table;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::Shape;

pub(crate) const TABLE: &str = "ledger";
pub(crate) const MAILBOXES: usize = 5;

/// How far back the messages reach.
pub(crate) const HISTORY: TimeDelta = TimeDelta::days(548);

/// How many of a thousand requests to Nylas get an error, and how many a broken connection.
const ERRORS: u16 = 6;
const RESETS: u16 = 4;

/// The services around the functions.
pub(crate) struct TestOrganisation {
    pub(crate) emulators: Emulators,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) ledger: aws_sdk_dynamodb::Client,
    pub(crate) sync: String,
    pub(crate) tasks: String,
    pub(crate) dead: String,
    dynamo: String,
    moto: Moto,
}

impl TestOrganisation {
    pub(crate) async fn start(shape: &Shape) -> Self {
        let emulators = Emulators::start().await.unwrap();
        // Throttling is tested elsewhere; this harness counts requests.
        emulators
            .dataverse()
            .set_setting(Setting::RequestsPerFiveMinutes(usize::MAX));
        let moto = Moto::start().await;
        let dynamo = dynamo::start().await;
        let ledger = dynamo::client(&dynamo);
        table::create(&ledger, TABLE).await.unwrap();
        let (sqs, secrets) = (moto.sqs(), moto.secrets());
        let create = async |name: &str, attributes: &[(QueueAttributeName, String)]| {
            let mut call = sqs.create_queue().queue_name(name);
            for (attribute, value) in attributes {
                call = call.attributes(attribute.clone(), value);
            }
            call.send().await.unwrap().queue_url.unwrap()
        };
        let dead = create("dead", &[]).await;
        let redrive = json!({
            "deadLetterTargetArn": "arn:aws:sqs:eu-north-1:123456789012:dead",
            "maxReceiveCount": mailverse::clients::retry::RECEIVE_LIMIT.to_string(),
        });
        let attributes = [
            (QueueAttributeName::VisibilityTimeout, "960".to_owned()),
            (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        ];
        let sync = create("sync", &attributes).await;
        let tasks = create("backfill", &attributes).await;
        for (name, value) in [
            ("nylas", Some(emulators.nylas().api_key())),
            (
                "entra",
                Some(json!({"client_secret": emulators.entra().client_secret()}).to_string()),
            ),
            ("token", None),
        ] {
            let call = secrets.create_secret().name(name).set_secret_string(value);
            call.send().await.unwrap();
        }
        let organisation = Self {
            emulators,
            sqs,
            ledger,
            sync,
            tasks,
            dead,
            dynamo,
            moto,
        };
        organisation.fill(shape);
        let mut refresher = organisation.function("token-refresher").await;
        refresher.succeed(schedule(&Utc::now().to_rfc3339())).await;
        refresher.stop().await;
        organisation.emulators.nylas().set_fault_plan(FaultPlan {
            seed: shape.seed,
            server_error: ERRORS,
            reset_before: RESETS,
            ..FaultPlan::default()
        });
        organisation
    }

    /// Creates five mailboxes of colleagues who correspond with fifty people. Every tenth message
    /// is spam, and some are in two mailboxes.
    fn fill(&self, shape: &Shape) {
        let mut rng = StdRng::seed_from_u64(shape.seed);
        let (nylas, dataverse) = (self.emulators.nylas(), self.emulators.dataverse());
        let user = |n: usize| format!("user{n}@ours.example");
        let person = |n: usize| format!("person{n}@kites.example");
        for n in 0..MAILBOXES {
            nylas.add_grant(Grant {
                id: format!("grant-{n}"),
                email: user(n),
                provider: if n % 2 == 0 { "google" } else { "microsoft" }.to_owned(),
                aliases: Vec::new(),
                status: "valid".to_owned(),
            });
            let row = json!({"lastname": format!("User {n}"), "internalemailaddress": user(n), "isdisabled": false});
            dataverse.insert("systemuser", row).unwrap();
        }
        for n in 0..50 {
            let row = json!({"lastname": format!("Person {n}"), "emailaddress1": person(n)});
            dataverse.insert("contact", row).unwrap();
        }
        let now = Utc::now();
        let body = "<p>All about kites and the wind that carries them.</p>".repeat(40);
        for n in 0..MAILBOXES {
            let grant = format!("grant-{n}");
            let folder = |attribute| nylas.folder_id(&grant, attribute).unwrap();
            let (inbox, junk) = (folder("\\Inbox"), folder("\\Junk"));
            for number in 0..shape.messages {
                let age = rng.random_range(3_600..HISTORY.num_seconds() - 86_400);
                let spam = rng.random_range(0..10) == 0;
                // Every twentieth message of a mailbox is in the next mailbox too.
                let shared = number % 20 == 0;
                let message_id = if shared {
                    format!("<shared-{}-{number}@kites.example>", n / 2)
                } else {
                    format!("<{n}-{number}@kites.example>")
                };
                let from = if shared { 7 } else { rng.random_range(0..50) };
                nylas.add_message(
                    &grant,
                    json!({
                        "id": format!("m{number:05}"), "subject": format!("Kites {number}"), "body": body, "snippet": "All about kites",
                        "from": [{"email": person(from)}], "to": [{"email": user(n)}], "folders": [if spam { &junk } else { &inbox }],
                        "date": (now - TimeDelta::seconds(age)).timestamp(), "headers": [{"name": "Message-ID", "value": message_id}],
                    }),
                );
            }
        }
    }

    /// Starts a function with the settings from the template.
    pub(crate) async fn function(&self, name: &'static str) -> Function {
        let entra = self.emulators.entra();
        let mut settings = vec![
            ("AWS_REGION", "eu-north-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ENDPOINT_URL_SQS", self.moto.endpoint.clone()),
            (
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                self.moto.endpoint.clone(),
            ),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamo.clone()),
            ("DATAVERSE_URL", self.emulators.dataverse().url()),
            ("TOKEN_SECRET_ID", "token".to_owned()),
        ];
        if name == "token-refresher" {
            settings.extend([
                ("ENTRA_AUTHORITY", entra.authority()),
                ("ENTRA_TENANT_ID", entra.tenant_id()),
                ("ENTRA_CLIENT_ID", entra.client_id()),
                ("ENTRA_SECRET_ID", "entra".to_owned()),
            ]);
        } else {
            settings.extend([
                ("NYLAS_API_URL", self.emulators.nylas().url()),
                ("NYLAS_API_KEY_SECRET_ID", "nylas".to_owned()),
                ("MAILBOXES", "all".to_owned()),
                ("LEDGER_TABLE", TABLE.to_owned()),
                ("SYNC_QUEUE_URL", self.sync.clone()),
                ("BACKFILL_QUEUE_URL", self.tasks.clone()),
            ]);
        }
        Function::start(name, &settings).await
    }

    /// Receives a message of a queue, as Lambda does.
    pub(crate) async fn receive(&self, queue: &str) -> Option<Message> {
        let call = self.sqs.receive_message().queue_url(queue);
        let call = call.message_system_attribute_names(MessageSystemAttributeName::All);
        call.send().await.unwrap().messages?.pop()
    }

    pub(crate) async fn delete(&self, queue: &str, message: &Message) {
        let call = self.sqs.delete_message().queue_url(queue);
        let call = call.receipt_handle(message.receipt_handle().unwrap());
        call.send().await.unwrap();
    }

    /// Makes a hidden message visible.
    pub(crate) async fn bring_back(&self, queue: &str, message: &Message) {
        let call = self.sqs.change_message_visibility().queue_url(queue);
        let call = call
            .receipt_handle(message.receipt_handle().unwrap())
            .visibility_timeout(0);
        call.send().await.unwrap();
    }

    /// Returns the number of messages that cannot be received yet because they were sent with a
    /// delay.
    pub(crate) async fn delayed(&self, queue: &str) -> usize {
        let delayed = QueueAttributeName::ApproximateNumberOfMessagesDelayed;
        let call = self.sqs.get_queue_attributes().queue_url(queue);
        let attributes = call.attribute_names(delayed.clone()).send().await.unwrap();
        attributes.attributes.unwrap()[&delayed].parse().unwrap()
    }

    pub(crate) async fn items(&self) -> Vec<std::collections::HashMap<String, AttributeValue>> {
        let pages = self.ledger.scan().table_name(TABLE).into_paginator();
        pages
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .unwrap()
    }

    /// Ends every lease of a mailbox and of its messages. No worker may be processing it.
    pub(crate) async fn end_leases(&self, grant: &str) {
        for item in self.items().await {
            if item["pk"] == AttributeValue::S(format!("mailbox#{grant}"))
                && item.contains_key("lease_until_ms")
            {
                let call = self.ledger.update_item().table_name(TABLE);
                let call = call
                    .key("pk", item["pk"].clone())
                    .key("sk", item["sk"].clone());
                let call = call
                    .update_expression("SET lease_until_ms = :past")
                    .expression_attribute_values(":past", AttributeValue::N("0".to_owned()));
                call.send().await.unwrap();
            }
        }
    }

    /// Removes the cursor of every task, and how far it has come.
    pub(crate) async fn forget_cursors(&self) {
        for item in self.items().await {
            if item.contains_key("cursor") {
                let call = self.ledger.update_item().table_name(TABLE);
                let call = call
                    .key("pk", item["pk"].clone())
                    .key("sk", item["sk"].clone());
                let call = call
                    .update_expression("REMOVE #cursor, reached")
                    .expression_attribute_names("#cursor", "cursor");
                call.send().await.unwrap();
            }
        }
    }

    /// Returns an operator's request, which a function answers.
    pub(crate) fn request(now: DateTime<Utc>) -> Value {
        json!({"mailboxes": "all", "received_after": (now - HISTORY).to_rfc3339()})
    }
}
