//! Checks what the receiver logs. It is a separate process because the log is global to a process.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use http::{HeaderValue, Method};
use lambda_http::{Body, Request};
use mailverse::clients::aws::queue::MemoryQueue;
use webhook_receiver::Receiver;
use webhook_receiver::signature::Key;
use webhook_receiver::webhook_secrets::WebhookSecrets;

const SECRET: &str = "hush-hush";
const CREATED: &str = r#"{"type":"message.created","data":{"object":{"id":"m-1","grant_id":"g-1","subject":"private"}}}"#;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn delivery(body: &str, signature: &str) -> Request {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    let signature = HeaderValue::from_str(signature).unwrap();
    request.headers_mut().insert("x-nylas-signature", signature);
    request
}

#[tokio::test]
async fn the_log_contains_ids_and_reasons_and_no_content() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();

    let key = Key::new(&SECRET.into()).unwrap();
    let receiver = Receiver::new(
        MemoryQueue::default(),
        WebhookSecrets::fixed(key.clone(), None),
    );
    let no_id = CREATED.replace("\"m-1\"", r#"{"private":1}"#);
    for body in [CREATED, &no_id, &CREATED[..80]] {
        receiver
            .handle(delivery(body, &key.sign(body.as_bytes())), Utc::now())
            .await;
    }
    let signature = key.sign(CREATED.as_bytes());
    receiver
        .handle(delivery(CREATED, &signature[..63]), Utc::now())
        .await;

    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for expected in [
        "g-1/m-1",
        "data.object.id is an object",
        "is not JSON",
        "signature is missing",
    ] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
    for kept in ["private", &signature[..20], SECRET] {
        assert!(!log.contains(kept), "{kept} in {log}");
    }
}
