//! Delivers the same objects inside signed notifications.

use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::model::sync_request::SyncRequest;
use webhook_receiver::Receiver;
use webhook_receiver::event::request;
use webhook_receiver::signature::Key;
use webhook_receiver::webhook_secrets::WebhookSecrets;

use super::corpus::corpus;
use crate::test_organisation::{ADA, key};

#[tokio::test]
async fn a_notification_with_a_hostile_message_is_queued_by_its_ids_or_rejected() {
    let secret = Key::new(&"of the destination".into()).unwrap();
    let queue = MemoryQueue::default();
    let secrets = WebhookSecrets::fixed(secret.clone(), None);
    let receiver = Receiver::new(queue.clone(), secrets);
    for case in corpus() {
        let body = format!(
            r#"{{"specversion":"1.0","type":"message.created","source":"/nylas","id":"n","data":{{"grant_id":"{ADA}","object":{}}}}}"#,
            case.text
        );
        let event = serde_json::json!({
            "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "",
            "headers": {"host": "hooks.example.com", "x-nylas-signature": secret.sign(body.as_bytes())},
            "requestContext": {"stage": "$default", "requestId": "1", "timeEpoch": 0,
                "http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"}},
            "body": body, "isBase64Encoded": false,
        });
        let delivery = request(&event.to_string()).unwrap();
        let answer = receiver.handle(delivery, chrono::Utc::now()).await;
        let status = answer.response.status().as_u16();
        assert_eq!(status, case.webhook, "{}: {:?}", case.name, answer.outcome);
        let queued = queue.receive(10);
        assert_eq!(queued.len(), usize::from(status == 200), "{}", case.name);
        for message in queued {
            let request = SyncRequest::from_body(&message.body).unwrap();
            // The object may name another mailbox. The request is then for that mailbox.
            let grant = case.grant.as_deref().unwrap_or(ADA);
            assert_eq!(request.key, key(grant, &case.id), "{}", case.name);
            queue.delete(&message.receipt);
        }
    }
}
