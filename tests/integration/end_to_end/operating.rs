//! Runs the compiled commands of an operator (`mailverse status`, `redrive`, `doctor`, `webhook`
//! and `token`) on the ledger and the queue that the functions use.

mod backfill;
mod doctor;
mod redrive;
mod status;
mod token;
mod webhook;

use chrono::{SubsecRound, TimeDelta, Utc};
use mailverse::ledger::messages::StoredOutcome;
use mailverse::ledger::{ClaimRequest, ClaimToken, Entry, State};
use mailverse::model::ids::{ActivityId, MessageKey};
use serde_json::Value;
use uuid::Uuid;

use super::cloud::{Cloud, GRANT, TABLE};
use super::command::{Seen, run};

const REFUSED: &str = "dataverse refused the row: 400 0x80044331, a text is longer than its column in this organisation";
const GAVE_UP: &str = "gave up after 10 failures: nylas refused the grant: 401";
const THROTTLED: &str = "dataverse throttled the call";

impl Seen {
    fn last_line(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    /// Asserts the exit status and the last line. A failure prints the whole output.
    fn assert_ended(&self, status: i32, last_line: &str) {
        assert_eq!(
            (self.status, self.last_line()),
            (Some(status), last_line),
            "{}{}",
            self.out,
            self.err
        );
    }
}

impl Cloud {
    fn operators_settings(&self) -> Vec<(&'static str, String)> {
        let own = vec![
            ("LEDGER_TABLE", TABLE.to_owned()),
            ("SYNC_QUEUE_URL", self.queue.clone()),
        ];
        [self.aws_settings(), own].concat()
    }

    pub(super) async fn command(&self, arguments: &[&str]) -> Seen {
        run(arguments, &self.operators_settings()).await
    }

    /// Stores a message that a worker claimed `ago` before now, and settled if `stored_outcome` is
    /// given.
    async fn message(&self, id: &str, ago: TimeDelta, stored_outcome: Option<StoredOutcome>) {
        // Whole seconds, the precision of the reports.
        let then = (Utc::now() - ago).trunc_subsecs(0);
        let (token, key, ledger) = (ClaimToken::new(Uuid::new_v4()), key(id), self.ledger());
        let request = ClaimRequest::new(token, then);
        let claim = ledger.claim(&key, &request).await;
        assert!(claim.unwrap().is_won(), "{id}");
        if let Some(stored_outcome) = stored_outcome {
            let settled = ledger.settle(&key, token, then, &stored_outcome).await;
            settled.unwrap();
        }
    }

    async fn entries<const N: usize>(&self, ids: [&str; N]) -> Vec<Option<Entry>> {
        let mut entries = Vec::new();
        for id in ids {
            entries.push(self.ledger().entry(&key(id)).await.unwrap());
        }
        entries
    }

    async fn state(&self, id: &str) -> State {
        let [entry] = &self.entries([id]).await[..] else {
            panic!("asked for one entry")
        };
        entry
            .as_ref()
            .expect("the message has an entry in the ledger")
            .state
    }

    /// Stores two dead messages, two that wait, a fresh one, and two that need no attention.
    async fn fill(&self) {
        let hours = TimeDelta::hours;
        self.message("refused", hours(3), Some(refused())).await;
        self.message("given-up", hours(5), Some(given_up())).await;
        self.message("throttled", hours(2), Some(released())).await;
        self.message("orphan", hours(30), None).await;
        self.message("fresh", TimeDelta::minutes(5), None).await;
        self.message("written", hours(9), Some(written())).await;
        self.message("skipped", hours(9), Some(skipped())).await;
    }
}

/// Returns the key of a message: of the test mailbox, or as given if `id` includes the grant id.
fn key(id: &str) -> MessageKey {
    let named = id.parse();
    named.unwrap_or_else(|_| format!("{GRANT}/{id}").parse().unwrap())
}

fn refused() -> StoredOutcome {
    StoredOutcome::Dead {
        reason: REFUSED.to_owned(),
        claimable: false,
    }
}

fn given_up() -> StoredOutcome {
    StoredOutcome::Dead {
        reason: GAVE_UP.to_owned(),
        claimable: true,
    }
}

fn released() -> StoredOutcome {
    StoredOutcome::Released {
        retry_at: Utc::now(),
        reason: THROTTLED.to_owned(),
        counted: false,
    }
}

fn written() -> StoredOutcome {
    StoredOutcome::Written {
        activity_id: ActivityId::new(Uuid::from_u128(1)),
        note: None,
    }
}

fn skipped() -> StoredOutcome {
    StoredOutcome::Skipped {
        rule: "internal_only".to_owned(),
    }
}

fn ids(report: &Value) -> Vec<&str> {
    let messages = report["messages"].as_array().unwrap().iter();
    messages
        .map(|message| message["message_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn status_and_redrive_report_that_nothing_needs_attention() {
    let cloud = Cloud::start(10).await;
    cloud
        .message("fresh", TimeDelta::minutes(59), Some(released()))
        .await;
    cloud
        .message("written", TimeDelta::hours(2), Some(written()))
        .await;
    let quiet =
        "Nothing needs attention: no message is dead or has been waiting for longer than 1h.";
    cloud.command(&["status"]).await.assert_ended(0, quiet);
    let report = cloud.command(&["status", "--json"]).await;
    assert_eq!((report.status, ids(&report.json()).len()), (Some(0), 0));
    let redriven = cloud.command(&["redrive", "--all"]).await;
    redriven.assert_ended(0, "Nothing to redrive: no message is dead.");
    assert_eq!(cloud.queue_length().await.0, "0");
}

#[tokio::test]
async fn a_message_in_its_last_attempt_is_not_reported_as_dead() {
    let cloud = Cloud::start(10).await;
    for (id, ago) in [("under-way", 0), ("died-at-it", 600)] {
        let request = ClaimRequest {
            last_delivery: true,
            ..ClaimRequest::new(
                ClaimToken::new(Uuid::new_v4()),
                Utc::now() - TimeDelta::seconds(ago),
            )
        };
        let claim = cloud.ledger().claim(&key(id), &request).await;
        assert!(claim.unwrap().is_won());
    }
    let report = cloud.command(&["status", "--json"]).await.json();
    assert_eq!(ids(&report), ["died-at-it"]);
    let seen = cloud.command(&["redrive", "--all", "--yes"]).await;
    seen.assert_ended(0, "1 of 1 message queued.");
}

#[tokio::test]
async fn status_and_redrive_name_bad_arguments_and_missing_settings() {
    let region = ("AWS_REGION", "eu-north-1".to_owned());
    let table = ("LEDGER_TABLE", TABLE.to_owned());
    let queue = ("SYNC_QUEUE_URL", "http://127.0.0.1:9/sync".to_owned());
    let redrive: &[&str] = &["redrive", "g/m", "--yes"];
    let named = [table.clone(), queue, region.clone()];
    for (arguments, settings, expected) in [
        (
            &["status"] as &[&str],
            &[] as &[_],
            "LEDGER_TABLE is missing",
        ),
        (
            redrive,
            &[],
            "LEDGER_TABLE is missing; SYNC_QUEUE_URL is missing",
        ),
        (&["status"], std::slice::from_ref(&table), "AWS_REGION"),
        (redrive, &named[..2], "AWS_REGION"),
        (&["status"], &[table.clone(), region], "no AWS credentials"),
        (redrive, &named, "no AWS credentials"),
        (&["redrive"], &named, "<MESSAGE>"),
        (&["redrive", "g/m", "--all"], &named, "--all"),
        (&["redrive", "g/m", "--reason", "x"], &named, "--reason"),
        (&["redrive", "m"], &named, "grant id, slash, message id"),
        (&["redrive", "g/"], &named, "the message id is empty"),
    ] {
        let seen = run(arguments, settings).await;
        assert_eq!(
            (seen.status, seen.out.as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        assert!(seen.err.contains(expected), "{arguments:?}: {}", seen.err);
    }
}

#[tokio::test]
async fn status_and_redrive_report_an_unreachable_aws_or_a_missing_table() {
    let cloud = Cloud::start(10).await;
    let mut elsewhere = cloud.operators_settings();
    elsewhere.push(("LEDGER_TABLE", "elsewhere".to_owned()));
    let mut nowhere = cloud.operators_settings();
    nowhere.push(("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9".to_owned()));
    for (settings, expected) in [
        (
            elsewhere,
            "ledger table elsewhere: the ledger is unavailable: 400 ResourceNotFoundException",
        ),
        (
            nowhere,
            "ledger table ledger: the ledger is unavailable: not reachable",
        ),
    ] {
        for (arguments, failed) in [
            (&["status"] as &[&str], "mailverse: failed to read the"),
            (
                &["redrive", "--all", "--yes"],
                "mailverse: failed to read or change the",
            ),
        ] {
            let seen = run(arguments, &settings).await;
            assert_eq!((seen.status, seen.out.as_str()), (Some(2), ""));
            let expected = format!("{failed} {expected}");
            assert!(seen.err.starts_with(&expected), "{}", seen.err);
        }
    }
}
