//! A file that cannot be had yet is waited for, and not for ever.

use chrono::Utc;
use serde_json::json;

use super::cloud::{Cloud, GRANT};

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

/// A message with a file of which Nylas does not have the bytes yet, received so many seconds ago, and a request for it.
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
    cloud.twin.nylas().add_message(GRANT, message);
    cloud.send(&request("m1")).await;
    cloud
}

impl Cloud {
    /// Nylas has the file now.
    fn put_file(&self) {
        let file = json!({"id": "a1", "filename": "offer.pdf", "content_type": "application/pdf"});
        let nylas = self.twin.nylas();
        nylas.add_attachment(GRANT, "m1", file, b"offer".to_vec());
    }

    /// The names of the files of the one email, and what Dynamics 365 says of those that are missing.
    fn files(&self) -> (Vec<String>, serde_json::Value) {
        let emails = self.emails();
        assert_eq!(emails.len(), 1);
        let id = emails[0]["activityid"].as_str().unwrap().parse().unwrap();
        let files = self.twin.dataverse().attachments(id);
        let name = |file: &serde_json::Value| file["filename"].as_str().unwrap().to_owned();
        let names = files.iter().map(name).collect();
        (names, emails[0]["notifications"].clone())
    }
}

#[tokio::test]
async fn a_file_that_nylas_does_not_have_yet_is_written_with_its_message_later() {
    let cloud = with_a_file_to_come(30).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await.len(), 1, "it waits");
    assert!(cloud.emails().is_empty(), "nothing without its file");
    cloud.put_file();
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.files(), (vec!["offer.pdf".to_owned()], json!(null)));
}

#[tokio::test]
async fn an_old_message_that_has_lost_its_file_is_written_without_it_at_once() {
    let cloud = with_a_file_to_come(2 * 86_400).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.files(), (vec![], json!(1)));
    assert!(cloud.ledger_text().await.contains("left out: attachment"));
}
