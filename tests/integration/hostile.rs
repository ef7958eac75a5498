//! Tests messages that try to make the sync fail. Each case of `tests/fixtures/hostile` reaches the
//! final state in the table there, the other messages of its batch are not affected, and Dataverse
//! receives nothing that it drops, rejects or misinterprets.
//!
//! | Question | File |
//! | --- | --- |
//! | Which cases exist, and how are the small files expanded? | `corpus.rs` |
//! | How does a mailbox hold a message that is not strictly valid JSON? | `mailbox.rs` |
//! | What must a stored row look like? | `rows.rs` |
//! | What does the receiver answer to a notification with such a message? | `webhook.rs` |

mod corpus;
mod mailbox;
mod rows;
mod webhook;

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::pipeline::{Outcome, Processed};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use self::corpus::{Case, corpus};
use self::mailbox::HostileMailbox;
use crate::test_organisation::{ADA, TestOrganisation, created, key, nylas_message, written};

/// Starts a pipeline. Ada's mailbox holds every case, and the messages that the tests add.
async fn world_with(cases: &[Case], mode: WriteMode) -> TestOrganisation {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let mailbox = HostileMailbox::before(&organisation.emulators, cases).await;
    organisation.pipeline.nylas = mailbox.client(&organisation.emulators);
    organisation
}

fn neighbour(id: &str) -> Value {
    nylas_message(
        id,
        &json!({"subject": format!("Neighbour {id}"), "body": format!("<p>The body of {id}</p>")}),
    )
}

/// Asserts that the neighbouring message was written exactly as it would be alone in its batch.
fn assert_untouched(organisation: &TestOrganisation, id: &str, outcome: &Outcome, beside: &str) {
    let (row, note) = written(outcome);
    assert_eq!(note, None, "{id} beside {beside}");
    let email = organisation
        .emulators
        .dataverse()
        .row("email", row)
        .unwrap();
    for (column, expected) in [
        ("subject", json!(format!("Neighbour {id}"))),
        ("description", json!(format!("<p>The body of {id}</p>"))),
        ("sender", json!("carol@kites.example")),
        ("torecipients", json!("ada@ours.example")),
        ("messageid", json!(format!("<{id}@kites.example>"))),
        ("statecode", json!(1)),
        ("statuscode", json!(4)),
        ("actualend", json!("2026-11-20T04:46:40Z")),
    ] {
        assert_eq!(email[column], expected, "{column} of {id} beside {beside}");
    }
    let parties = organisation.emulators.dataverse().parties(row);
    let sent = parties
        .iter()
        .filter(|party| party["participationtypemask"].as_i64() <= Some(4));
    assert_eq!(sent.count(), 2, "{id} beside {beside}");
    let files = organisation.emulators.dataverse().attachments(row);
    assert_eq!(files, [json!(null); 0], "{id} beside {beside}");
}

fn fate_of<'h>(processed: &'h [Processed], id: &str) -> &'h Outcome {
    let key = key(ADA, id);
    let done = processed.iter().find(|done| done.key == key);
    &done
        .expect("each message of the batch has an outcome")
        .outcome
}

/// Returns the final outcome and its name in the table. A message that waits is delivered once
/// more, for the last time.
async fn end_of(
    organisation: &mut TestOrganisation,
    case: &Case,
    outcome: &Outcome,
) -> (Outcome, String) {
    let outcome = if let Outcome::Waiting { delay, .. } = outcome {
        organisation.later(chrono::TimeDelta::from_std(*delay).unwrap());
        organisation
            .has_failed(ADA, &case.id, RECEIVE_LIMIT - 2)
            .await;
        organisation.deliver_one(ADA, &case.id).await
    } else {
        outcome.clone()
    };
    let shown = match &outcome {
        Outcome::Written { note: None, .. } => "written".to_owned(),
        Outcome::Written {
            note: Some(note), ..
        } => format!("written, {note}"),
        Outcome::Skipped { rule } => format!("skipped: {rule}"),
        Outcome::Waiting { reason, .. } => format!("waiting: {reason}"),
        Outcome::Dead {
            attempts_exhausted: true,
            ..
        } => "dead".to_owned(),
        Outcome::Dead { reason, .. } => format!("refused: {reason}"),
    };
    (outcome, shown)
}

/// The rows that no message may change.
struct Bystanders(Vec<Vec<Value>>);

impl Bystanders {
    const TABLES: [&str; 4] = ["systemuser", "contact", "account", "lead"];

    fn of(organisation: &TestOrganisation) -> Self {
        let rows = |table| organisation.emulators.dataverse().rows(table);
        Self(Self::TABLES.map(rows).to_vec())
    }

    fn assert_unchanged(&self, organisation: &TestOrganisation, emails: usize) {
        for (table, before) in Self::TABLES.iter().zip(&self.0) {
            assert_eq!(
                &organisation.emulators.dataverse().rows(table),
                before,
                "{table}"
            );
        }
        assert_eq!(
            organisation.emails().len(),
            emails,
            "one row for each written message"
        );
    }
}

in_both_write_modes!(each_hostile_message_reaches_its_outcome_without_affecting_its_batch);

async fn each_hostile_message_reaches_its_outcome_without_affecting_its_batch(mode: WriteMode) {
    let cases = corpus();
    let mut organisation = world_with(&cases, mode).await;
    let bystanders = Bystanders::of(&organisation);
    let mut emails = 0;
    let mut wrong = Vec::new();
    for case in &cases {
        let (before, after) = (
            format!("before-{}", case.name),
            format!("after-{}", case.name),
        );
        for id in [&before, &after] {
            organisation.put(ADA, neighbour(id));
        }
        let ids = [before.as_str(), &case.id, &after];
        let batch = ids.iter().map(|id| created(ADA, id)).collect();
        let processed = organisation.run(batch).await;
        for id in [&before, &after] {
            assert_untouched(&organisation, id, fate_of(&processed, id), &case.name);
        }
        emails += 2;
        let (outcome, shown) = end_of(&mut organisation, case, fate_of(&processed, &case.id)).await;
        if let Outcome::Written { activity_id, .. } = outcome {
            emails += 1;
            rows::assert_sound(&organisation.emulators, activity_id.uuid(), case);
        }
        if shown != case.becomes {
            wrong.push(format!("{}: {shown}, not {}", case.name, case.becomes));
        }
    }
    assert_eq!(wrong, [""; 0]);
    bystanders.assert_unchanged(&organisation, emails);
}

#[tokio::test]
async fn hostile_messages_in_shuffled_batches_have_the_same_outcomes_as_alone() {
    let seed = 20_261_123;
    println!("seed {seed}");
    let mut cases = corpus();
    cases.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut organisation = world_with(&cases, WriteMode::ChangeSet).await;
    let bystanders = Bystanders::of(&organisation);
    let mut emails = 0;
    for some in cases.chunks(10) {
        let batch = some.iter().map(|case| created(ADA, &case.id)).collect();
        let processed = organisation.run(batch).await;
        assert_eq!(processed.len(), some.len(), "each message has one outcome");
        for case in some {
            let (outcome, shown) =
                end_of(&mut organisation, case, fate_of(&processed, &case.id)).await;
            assert_eq!(shown, case.becomes, "{}, seed {seed}", case.name);
            if let Outcome::Written { activity_id, .. } = outcome {
                emails += 1;
                rows::assert_sound(&organisation.emulators, activity_id.uuid(), case);
            }
        }
    }
    bystanders.assert_unchanged(&organisation, emails);
}
