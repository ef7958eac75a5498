//! A message waits for a file that cannot be downloaded yet, but only for a limited time.

use chrono::Utc;
use emulators::Fault;
use mailverse::ledger::State;
use mailverse::model::ids::MessageKey;
use serde_json::json;

use super::cloud::{Cloud, GRANT};
use crate::tripwire::Tripwire;

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

/// Starts a cloud with a message that was received so many seconds ago, whose file Nylas does not
/// have yet, and a request for it.
async fn with_a_file_to_come(seconds_ago: i64) -> Cloud {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let message = json!({
        "id": "m1", "subject": "Kites", "body": "<p>Red ones</p>", "date": Utc::now().timestamp() - seconds_ago,
        "folders": ["INBOX"], "from": [{"email": "carol@kites.example"}], "to": [{"email": "ada@ours.example"}],
        "headers": [{"name": "Message-ID", "value": "<m1@kites.example>"}],
        "attachments": [{"id": "a1", "filename": "offer.pdf", "content_type": "application/pdf", "size": 5}],
    });
    cloud.emulators.nylas().add_message(GRANT, message);
    cloud.send(&request("m1")).await;
    cloud
}

impl Cloud {
    /// Makes the file available at Nylas.
    fn put_file(&self) {
        let file = json!({"id": "a1", "filename": "offer.pdf", "content_type": "application/pdf"});
        let nylas = self.emulators.nylas();
        nylas.add_attachment(GRANT, "m1", file, b"offer".to_vec());
    }

    /// Returns the file names of the only email, and its `notifications` column, which marks
    /// missing files.
    fn files(&self) -> (Vec<String>, serde_json::Value) {
        let emails = self.emails();
        assert_eq!(emails.len(), 1);
        let id = emails[0]["activityid"].as_str().unwrap().parse().unwrap();
        let files = self.emulators.dataverse().attachments(id);
        let name = |file: &serde_json::Value| file["filename"].as_str().unwrap().to_owned();
        let names = files.iter().map(name).collect();
        (names, emails[0]["notifications"].clone())
    }
}

#[tokio::test]
async fn a_message_whose_file_is_not_available_yet_is_written_with_it_later() {
    let cloud = with_a_file_to_come(30).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut worker, &batch).await.len(),
        1,
        "the message should wait"
    );
    assert!(
        cloud.emails().is_empty(),
        "nothing should be written without the file"
    );
    let key = MessageKey {
        grant_id: GRANT.parse().unwrap(),
        message_id: "m1".parse().unwrap(),
    };
    let entry = cloud.ledger().entry(&key).await.unwrap().unwrap();
    assert_eq!(entry.state, State::Waiting);
    assert_eq!(
        entry.failures, 0,
        "the wait is not a failure of the message"
    );
    cloud.put_file();
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.files(), (vec!["offer.pdf".to_owned()], json!(null)));
}

#[tokio::test]
async fn an_old_message_with_a_missing_file_is_written_without_it_at_once() {
    let cloud = with_a_file_to_come(2 * 86_400).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.files(), (vec![], json!(1)));
    assert!(cloud.ledger_text().await.contains("left out: attachment"));
}

#[tokio::test]
async fn a_file_that_stays_missing_is_omitted_an_hour_after_the_first_claim() {
    let cloud = with_a_file_to_come(30).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await.len(), 1);
    cloud.claimed_first(1).await;
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.files(), (vec![], json!(1)));
}

#[tokio::test]
async fn a_failing_file_delays_its_message_by_at_most_twelve_hours() {
    let cloud = with_a_file_to_come(30).await;
    cloud.put_file();
    let to_nylas = Tripwire::before(&cloud.emulators.nylas().url()).await;
    let url = ("NYLAS_API_URL", to_nylas.url().to_owned());
    let mut worker = cloud.function_with("sync-worker", &[url]).await;
    let mut failed = 1;
    for hours in [0, 11, 12] {
        let nylas = cloud.emulators.nylas().clone();
        to_nylas.at("/attachments/a1/download", async move {
            nylas.fail_next(Fault::Status {
                status: 504,
                code: "provider_error".to_owned(),
                message: "try later".to_owned(),
                retry_after_seconds: None,
            });
        });
        cloud.claimed_first(hours).await;
        let batch = cloud.receive().await;
        assert_eq!(batch.len(), 1, "after {hours} hours");
        failed = cloud.work(&mut worker, &batch).await.len();
        assert_eq!(to_nylas.left(), [""; 0], "the file should be requested");
        if hours < 12 {
            assert_eq!(failed, 1, "the message should wait after {hours} hours");
            assert!(cloud.emails().is_empty());
            cloud.make_visible(&batch[0]).await;
        }
    }
    assert_eq!(failed, 0);
    assert_eq!(cloud.files(), (vec![], json!(1)));
    assert!(cloud.ledger_text().await.contains("left out: attachment"));
}
