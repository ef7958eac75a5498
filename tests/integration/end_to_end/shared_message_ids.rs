//! Tests how the compiled functions write messages that share Message-ID and sender, and messages
//! whose Message-ID is on another client's row: in both write modes, and whether or not the
//! organisation allows two emails with one `messageid`.

use emulators::{Grant, Setting};
use serde_json::{Value, json};

use super::cloud::{Cloud, GRANT};
use super::lambda::Function;
use crate::test_organisation::CREATE;
use crate::tripwire::Tripwire;

const OTHER: &str = "grant-2";
const SENDER: &str = "billing@kites.example";
const MESSAGE_ID: &str = "<invoice@kites.example>";
const JANUARY: i64 = 1_767_258_000;
const FEBRUARY: i64 = 1_770_000_000;
const NOTE: &str = "left out: message_id_reused";

/// The conditions of a test: the write mode, and whether `messageid` is unique in Dataverse.
#[derive(Debug, Clone, Copy)]
struct Way {
    mode: &'static str,
    unique: bool,
}

/// Runs each test under all four conditions.
macro_rules! in_every_way {
    ($($test:ident),+ $(,)?) => {
        mod change_set_unique { $(#[tokio::test] async fn $test() { super::$test(super::Way { mode: "changeset", unique: true }).await; })+ }
        mod change_set_not_unique { $(#[tokio::test] async fn $test() { super::$test(super::Way { mode: "changeset", unique: false }).await; })+ }
        mod stepwise_unique { $(#[tokio::test] async fn $test() { super::$test(super::Way { mode: "stepwise", unique: true }).await; })+ }
        mod stepwise_not_unique { $(#[tokio::test] async fn $test() { super::$test(super::Way { mode: "stepwise", unique: false }).await; })+ }
    };
}

in_every_way!(
    copies_of_a_second_message_with_a_reused_message_id_share_their_own_row,
    messages_with_the_same_message_id_in_one_batch_get_separate_rows,
    moved_copies_and_mailing_list_copies_share_the_row,
    messages_that_differ_only_in_their_files_get_separate_rows,
    an_earlier_external_row_of_the_same_message_is_adopted,
    an_external_row_of_a_different_message_is_not_changed,
    a_second_message_is_written_although_another_worker_used_its_message_id_first,
);

struct Story {
    cloud: Cloud,
    worker: Function,
    to_dataverse: Tripwire,
}

impl Story {
    async fn begin(way: Way) -> Self {
        let cloud = Cloud::start(10).await;
        cloud.store_secrets().await;
        cloud.refresh_token().await;
        let (emulators, dataverse) = (&cloud.emulators, cloud.emulators.dataverse());
        dataverse.set_setting(Setting::UniqueMessageIds(way.unique));
        emulators.nylas().add_grant(Grant {
            id: OTHER.to_owned(),
            email: "bob@ours.example".to_owned(),
            provider: "microsoft".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        let contact = json!({"lastname": "Billing", "emailaddress1": SENDER});
        dataverse.insert("contact", contact).unwrap();
        let to_dataverse = Tripwire::before(&dataverse.url()).await;
        let settings = [
            ("WRITE_MODE", way.mode.to_owned()),
            ("DATAVERSE_URL", to_dataverse.url().to_owned()),
        ];
        let worker = cloud.function_with("sync-worker", &settings).await;
        Self {
            cloud,
            worker,
            to_dataverse,
        }
    }

    fn put(&self, grant: &str, id: &str, date: i64, subject: &str, body: &str) {
        let message = json!({
            "id": id, "grant_id": grant, "object": "message", "subject": subject, "body": body, "date": date,
            "from": [{"name": "Billing", "email": SENDER}], "to": [{"email": "ada@ours.example"}, {"email": "bob@ours.example"}],
            "folders": [], "headers": [{"name": "Message-ID", "value": MESSAGE_ID}],
        });
        self.cloud.emulators.nylas().add_message(grant, message);
    }

    /// Puts the first message with the Message-ID into a mailbox.
    fn put_january(&self, grant: &str, id: &str) {
        self.put(grant, id, JANUARY, "Invoice 1001", "<p>Please pay 40.</p>");
    }

    /// Puts the second message with the same Message-ID into a mailbox.
    fn put_february(&self, grant: &str, id: &str) {
        self.put(grant, id, FEBRUARY, "Invoice 1002", "<p>Please pay 50.</p>");
    }

    /// Queues these messages and lets the worker process them as one batch.
    async fn work(&mut self, messages: &[(&str, &str)]) {
        for (grant, id) in messages {
            let request =
                json!({"version": 1, "grant_id": grant, "message_id": id, "trigger": "created"});
            self.cloud.send(&request.to_string()).await;
        }
        let batch = self.cloud.receive().await;
        assert_eq!(batch.len(), messages.len());
        assert_eq!(self.cloud.work(&mut self.worker, &batch).await, [""; 0]);
    }

    /// Returns subject and Message-ID of each row, and asserts that each row is completed.
    fn rows(&self) -> Vec<(String, Option<String>)> {
        let emails = self.cloud.emails();
        let rows = emails.iter().map(|row| {
            assert_eq!(row["statecode"], 1, "{row:#}");
            let subject = row["subject"].as_str().unwrap().to_owned();
            (subject, row["messageid"].as_str().map(str::to_owned))
        });
        rows.collect()
    }

    fn row_of(&self, subject: &str) -> String {
        let emails = self.cloud.emails();
        let mut rows = emails.iter().filter(|row| row["subject"] == subject);
        let row = rows.next().expect("a row has this subject");
        assert!(rows.next().is_none(), "only one row has this subject");
        row["activityid"].as_str().unwrap().to_owned()
    }

    /// Returns the row that holds the message according to the ledger, and the note stored with it.
    async fn settled(&self, grant: &str, id: &str) -> (String, Option<String>) {
        let key = mailverse::model::ids::MessageKey {
            grant_id: grant.parse().unwrap(),
            message_id: id.parse().unwrap(),
        };
        let kept = self
            .cloud
            .ledger()
            .stored_message(&key)
            .await
            .unwrap()
            .unwrap();
        (
            kept.entry.activity_id.unwrap().to_string(),
            kept.entry.reason,
        )
    }

    /// Returns the message's items in the ledger, with the decision record, as text.
    async fn decision(&self, id: &str) -> String {
        let items = self.cloud.ledger_items().await;
        let of_message = items.iter().map(|item| format!("{item:?}"));
        of_message.filter(|text| text.contains(id)).collect()
    }

    fn external_row(&self, columns: &Value) -> String {
        let dataverse = self.cloud.emulators.dataverse();
        let row = dataverse.track_by_server_side_sync(MESSAGE_ID, SENDER, columns);
        row.unwrap().to_string()
    }
}

fn both() -> Vec<(String, Option<String>)> {
    vec![
        ("Invoice 1001".to_owned(), Some(MESSAGE_ID.to_owned())),
        ("Invoice 1002".to_owned(), None),
    ]
}

async fn copies_of_a_second_message_with_a_reused_message_id_share_their_own_row(way: Way) {
    let mut story = Story::begin(way).await;
    story.put_january(GRANT, "jan-a");
    story.put_february(GRANT, "feb-a");
    story.put_february(OTHER, "feb-b");
    story.work(&[(GRANT, "jan-a")]).await;
    story.work(&[(GRANT, "feb-a")]).await;
    assert_eq!(story.rows(), both());
    let february = story.row_of("Invoice 1002");
    let noted = (february.clone(), Some(NOTE.to_owned()));
    assert_eq!(story.settled(GRANT, "feb-a").await, noted);
    assert!(story.decision("feb-a").await.contains("message_id_reused"));
    assert!(!story.decision("jan-a").await.contains("message_id_reused"));
    // The copy in the other mailbox shares the row.
    story.work(&[(OTHER, "feb-b")]).await;
    assert_eq!(story.settled(OTHER, "feb-b").await.0, february);
    // A message that is delivered again after the ledger was lost finds its own row, even after the
    // first message's row was deleted.
    let january = story.row_of("Invoice 1001");
    for gone in [false, true] {
        if gone {
            story.cloud.delete_email(&january).await;
        }
        story.cloud.lose_ledger().await;
        story.work(&[(GRANT, "feb-a"), (OTHER, "feb-b")]).await;
        let there = (february.clone(), Some("already existed".to_owned()));
        assert_eq!(story.settled(GRANT, "feb-a").await, there);
        assert_eq!(story.settled(OTHER, "feb-b").await, there);
        assert_eq!(story.rows().len(), if gone { 1 } else { 2 });
    }
}

async fn messages_with_the_same_message_id_in_one_batch_get_separate_rows(way: Way) {
    let mut story = Story::begin(way).await;
    story.put_january(GRANT, "jan-a");
    story.put_january(OTHER, "jan-b");
    story.put_february(GRANT, "feb-a");
    story.put_february(OTHER, "feb-b");
    // A program that reuses a Message-ID may send several messages within one second.
    story.put(
        GRANT,
        "now-a",
        JANUARY,
        "Reminder",
        "<p>You did not pay.</p>",
    );
    let all = [
        (GRANT, "jan-a"),
        (GRANT, "feb-a"),
        (OTHER, "jan-b"),
        (OTHER, "feb-b"),
        (GRANT, "now-a"),
    ];
    story.work(&all).await;
    for (subject, ids) in [
        ("Invoice 1001", vec![(GRANT, "jan-a"), (OTHER, "jan-b")]),
        ("Invoice 1002", vec![(GRANT, "feb-a"), (OTHER, "feb-b")]),
        ("Reminder", vec![(GRANT, "now-a")]),
    ] {
        let row = story.row_of(subject);
        for (grant, id) in ids {
            assert_eq!(story.settled(grant, id).await.0, row, "{id}");
        }
    }
    assert_eq!(story.rows().len(), 3);
    story.cloud.lose_ledger().await;
    story.work(&all).await;
    assert_eq!(story.rows().len(), 3);
}

async fn moved_copies_and_mailing_list_copies_share_the_row(way: Way) {
    let mut story = Story::begin(way).await;
    story.put_january(GRANT, "jan-a");
    story.work(&[(GRANT, "jan-a")]).await;
    let body = "<p>Please pay 40.</p>";
    story.put(GRANT, "moved", FEBRUARY, "Invoice 1001", body);
    story.put(OTHER, "copy", JANUARY + 40, "Invoice 1001", body);
    let footer = format!("{body}<p>You are on the list billing.</p>");
    let subject = "[billing] Invoice 1001";
    story.put(OTHER, "list", JANUARY + 9_000, subject, &footer);
    let copies = [(GRANT, "moved"), (OTHER, "copy"), (OTHER, "list")];
    story.work(&copies).await;
    let row = story.row_of("Invoice 1001");
    for (grant, id) in copies {
        let there = (row.clone(), Some("already existed".to_owned()));
        assert_eq!(story.settled(grant, id).await, there, "{id}");
    }
    assert_eq!(story.rows().len(), 1);
}

async fn messages_that_differ_only_in_their_files_get_separate_rows(way: Way) {
    let mut story = Story::begin(way).await;
    let scans = [
        ("scan-1", 0, "scan_0001.pdf"),
        ("scan-2", 1, "scan_0002.pdf"),
        ("scan-3", 2, "scan_0003.pdf"),
        ("moved", 9, "scan_0001.pdf"),
    ];
    for (id, days, name) in scans {
        let date = JANUARY + days * 86_400;
        story.put(GRANT, id, date, "Scan", "<p>See the file.</p>");
        let file = json!({"id": "a1", "filename": name, "content_type": "application/pdf"});
        let nylas = story.cloud.emulators.nylas();
        nylas.add_attachment(GRANT, id, file, b"%PDF".to_vec());
    }
    for _ in 0..2 {
        for (id, _, _) in scans {
            story.work(&[(GRANT, id)]).await;
        }
        let dataverse = story.cloud.emulators.dataverse();
        let files = dataverse.rows("activitymimeattachment");
        let names: Vec<&str> = files
            .iter()
            .map(|file| file["filename"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["scan_0001.pdf", "scan_0002.pdf", "scan_0003.pdf"]);
        assert_eq!(story.rows().len(), 3);
        let first = story.settled(GRANT, "scan-1").await.0;
        assert_eq!(story.settled(GRANT, "moved").await.0, first);
        story.cloud.lose_ledger().await;
    }
}

async fn an_earlier_external_row_of_the_same_message_is_adopted(way: Way) {
    let mut story = Story::begin(way).await;
    story.put_january(GRANT, "jan-a");
    let external_row = json!({
        "subject": "Invoice 1001 CRM:0001001", "description": "<html><p>Please pay 40.</p></html>",
        "actualstart": "2026-01-01T09:00:03Z",
    });
    let dataverse = story.cloud.emulators.dataverse().clone();
    // The row appears after the lookup, so that only the rejected write reveals it.
    story.to_dataverse.at(CREATE, async move {
        let row = dataverse.track_by_server_side_sync(MESSAGE_ID, SENDER, &external_row);
        row.unwrap();
    });
    story.work(&[(GRANT, "jan-a")]).await;
    let external_row = story.row_of("Invoice 1001 CRM:0001001");
    if way.unique {
        let row = story.cloud.emails().remove(0);
        assert_eq!(
            row["regardingobjectid"]["table"], "contact",
            "its empty regarding was filled"
        );
        assert_eq!(story.rows().len(), 1);
        let (carrier, note) = story.settled(GRANT, "jan-a").await;
        assert_eq!(carrier, external_row);
        assert!(note.unwrap().starts_with("written by another client"));
    } else {
        // Both rows exist until a listing shows the message again (`pipeline/reconcile.rs`).
        assert_eq!(story.rows().len(), 2);
    }
    story.cloud.lose_ledger().await;
    story.work(&[(GRANT, "jan-a")]).await;
    assert_eq!(story.settled(GRANT, "jan-a").await.0, external_row);
    assert_eq!(story.rows().len(), 1);
}

async fn an_external_row_of_a_different_message_is_not_changed(way: Way) {
    let mut story = Story::begin(way).await;
    let external_row = story.external_row(&json!({
        "subject": "Invoice 1001", "description": "<p>Please pay 40.</p>", "actualstart": "2026-01-01T09:00:00Z",
    }));
    story.put_february(GRANT, "feb-a");
    story.put_february(OTHER, "feb-b");
    story.work(&[(GRANT, "feb-a"), (OTHER, "feb-b")]).await;
    let row = story.row_of("Invoice 1002");
    assert_ne!(row, external_row);
    for (grant, id) in [(GRANT, "feb-a"), (OTHER, "feb-b")] {
        assert_eq!(story.settled(grant, id).await.0, row);
    }
    let mut rows = both();
    if !way.unique {
        // No constraint keeps the Message-ID out of the second row.
        rows[1].1 = Some(MESSAGE_ID.to_owned());
    }
    assert_eq!(story.rows(), rows);
    let noted = story.decision("feb-a").await.contains("message_id_reused");
    assert_eq!(noted, way.unique);
    story.cloud.lose_ledger().await;
    story.work(&[(GRANT, "feb-a"), (OTHER, "feb-b")]).await;
    assert_eq!(story.rows(), rows);
}

async fn a_second_message_is_written_although_another_worker_used_its_message_id_first(way: Way) {
    let mut story = Story::begin(way).await;
    story.put_february(GRANT, "feb-a");
    let file = json!({"id": "a1", "filename": "invoice.pdf", "content_type": "application/pdf"});
    let nylas = story.cloud.emulators.nylas();
    nylas.add_attachment(GRANT, "feb-a", file, b"%PDF".to_vec());
    story.put_january(OTHER, "jan-b");
    // Another worker writes the first message between lookup and write of the second.
    let settings = [("WRITE_MODE", way.mode.to_owned())];
    let mut other = story.cloud.function_with("sync-worker", &settings).await;
    let request =
        json!({"version": 1, "grant_id": OTHER, "message_id": "jan-b", "trigger": "created"});
    story.cloud.send(&request.to_string()).await;
    let batch = story.cloud.receive().await;
    let event = super::events::sqs_event(&batch);
    for message in &batch {
        let call = story
            .cloud
            .sqs
            .delete_message()
            .queue_url(&story.cloud.queue);
        let call = call.receipt_handle(message.receipt_handle().unwrap());
        call.send().await.unwrap();
    }
    story.to_dataverse.at(CREATE, async move {
        let answer = other.succeed(event).await;
        assert_eq!(answer["batchItemFailures"], json!([]));
    });
    story.work(&[(GRANT, "feb-a")]).await;
    assert_eq!(story.rows(), both());
    let row = story.row_of("Invoice 1002");
    assert_eq!(
        story.settled(GRANT, "feb-a").await,
        (row.clone(), Some(NOTE.to_owned()))
    );
    let dataverse = story.cloud.emulators.dataverse().clone();
    let files = |row: &str| dataverse.attachments(row.parse().unwrap()).len();
    assert_eq!(files(&row), 1);
    assert_eq!(
        files(&story.row_of("Invoice 1001")),
        0,
        "the file is not on the other message's row"
    );
    story.cloud.lose_ledger().await;
    story.work(&[(GRANT, "feb-a"), (OTHER, "jan-b")]).await;
    assert_eq!(story.rows(), both());
    assert_eq!(dataverse.rows("activitymimeattachment").len(), 1);
}
