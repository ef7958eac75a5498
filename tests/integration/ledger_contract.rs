//! The contract of the ledger, which it must keep on every DynamoDB endpoint.
//!
//! Each contract test takes a [`Bench`], which needs only a client. The same tests therefore run on
//! every endpoint for which [`contract!`] can make a client: the embedded DynamoDB, and DynamoDB
//! Local with `make ledger-local`.

mod attention;
mod backfill_runs;
mod backfill_walk;
mod claims;
mod connection;
mod decisions;
mod mailboxes;
mod outages;
mod pauses;
mod policy_document;
mod refusals;
mod reservations;
mod settlements;
mod walk;

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::messages::{Ledger, LedgerError, StoredOutcome};
use mailverse::ledger::{Claim, ClaimRequest, ClaimToken, Entry, table};
use mailverse::model::ids::{ActivityId, MessageKey};
use uuid::Uuid;

/// A ledger in an empty table that no other test uses.
struct Bench {
    client: Client,
    table: String,
    ledger: Ledger,
}

impl Bench {
    /// Creates a table named after the test, because tests may share an endpoint.
    async fn on(client: Client, sentence: &str) -> Self {
        let table = sentence.to_owned();
        table::create(&client, &table).await.unwrap();
        let ledger = Ledger::new(client.clone(), table.clone());
        Self {
            client,
            table,
            ledger,
        }
    }

    async fn claim(&self, worker: ClaimToken, now: DateTime<Utc>) -> Claim {
        self.ledger
            .claim(&key(), &ClaimRequest::new(worker, now))
            .await
            .unwrap()
    }

    async fn revisit(&self, worker: ClaimToken, now: DateTime<Utc>) -> Claim {
        self.ledger
            .claim(&key(), &revisited(worker, now))
            .await
            .unwrap()
    }

    async fn settle(
        &self,
        worker: ClaimToken,
        stored_outcome: &StoredOutcome,
    ) -> Result<(), LedgerError> {
        self.ledger
            .settle(&key(), worker, now(), stored_outcome)
            .await
    }

    /// Claims the message and settles it.
    async fn settled(&self, stored_outcome: &StoredOutcome) {
        assert!(self.claim(worker(90), now()).await.is_won());
        self.settle(worker(90), stored_outcome).await.unwrap();
    }

    async fn entry(&self) -> Entry {
        self.ledger
            .entry(&key())
            .await
            .unwrap()
            .expect("the message has an item")
    }

    /// Returns the item as it is stored in the table.
    async fn item(&self) -> HashMap<String, AttributeValue> {
        let found = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key()));
        found
            .send()
            .await
            .unwrap()
            .item
            .expect("the message has an item")
    }
}

fn item_key() -> HashMap<String, AttributeValue> {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    HashMap::from([
        ("pk".to_owned(), text("mailbox#grant-1")),
        ("sk".to_owned(), text("message#message-1")),
    ])
}

fn key() -> MessageKey {
    key_of("grant-1", "message-1")
}

fn key_of(grant: &str, message: &str) -> MessageKey {
    MessageKey {
        grant_id: grant.parse().unwrap(),
        message_id: message.parse().unwrap(),
    }
}

fn worker(n: u128) -> ClaimToken {
    ClaimToken::new(Uuid::from_u128(n))
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_154_400, 0).unwrap()
}

fn revisited(worker: ClaimToken, now: DateTime<Utc>) -> ClaimRequest {
    ClaimRequest {
        revisit: true,
        ..ClaimRequest::new(worker, now)
    }
}

fn last(worker: ClaimToken, now: DateTime<Utc>) -> ClaimRequest {
    ClaimRequest {
        last_delivery: true,
        ..ClaimRequest::new(worker, now)
    }
}

fn activity() -> ActivityId {
    ActivityId::new(Uuid::from_u128(7))
}

fn written() -> StoredOutcome {
    StoredOutcome::Written {
        activity_id: activity(),
        note: Some("left out: date".to_owned()),
    }
}

fn skipped() -> StoredOutcome {
    StoredOutcome::Skipped {
        rule: "spam".to_owned(),
    }
}

fn internal() -> StoredOutcome {
    StoredOutcome::Skipped {
        rule: "internal_only".to_owned(),
    }
}

fn dead() -> StoredOutcome {
    StoredOutcome::Dead {
        reason: "0x80044331".to_owned(),
        claimable: false,
    }
}

fn given_up() -> StoredOutcome {
    StoredOutcome::Dead {
        reason: "gave up after 10 failures".to_owned(),
        claimable: true,
    }
}

fn released() -> StoredOutcome {
    StoredOutcome::Released {
        retry_at: now() + TimeDelta::seconds(30),
        reason: "dataverse throttled the call".to_owned(),
        counted: true,
    }
}

fn postponed() -> StoredOutcome {
    StoredOutcome::Released {
        retry_at: now() + TimeDelta::seconds(30),
        reason: "dataverse throttled the call".to_owned(),
        counted: false,
    }
}

fn requeued(counted: bool) -> StoredOutcome {
    StoredOutcome::Requeued {
        reason: "dataverse throttled the call".to_owned(),
        counted,
    }
}

/// Returns the URL of the DynamoDB Local that `make ledger-local` started.
fn local() -> String {
    mailverse::env::process("DYNAMODB_LOCAL_URL")
        .expect("DYNAMODB_LOCAL_URL is set: run make ledger-local")
}

/// Makes each contract test a test on each kind of endpoint.
macro_rules! contract {
    ($($sentence:ident)*) => {
        mod embedded {
            use super::Bench;
            use crate::dynamo;

            $(
                #[tokio::test]
                async fn $sentence() {
                    let client = dynamo::client(&dynamo::start().await);
                    super::$sentence(Bench::on(client, stringify!($sentence)).await).await;
                }
            )*
        }

        mod dynamodb_local {
            use super::Bench;
            use crate::dynamo;

            $(
                #[tokio::test]
                #[ignore = "needs DynamoDB Local: make ledger-local"]
                async fn $sentence() {
                    let client = dynamo::client(&super::super::local());
                    super::$sentence(Bench::on(client, stringify!($sentence)).await).await;
                }
            )*
        }
    };
}
use contract;
