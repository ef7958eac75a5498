//! Tests the handler as Nylas sees it: events of all three front ends in, statuses and queued ids
//! out.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeZone;
use flate2::Compression;
use flate2::write::GzEncoder;
use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::model::sync_request::Trigger;
use serde_json::{Value, json};

use super::*;
use crate::signature::Key;

const CREATED: &str = r#"{"type":"message.created","data":{"object":{"id":"m-1","grant_id":"g-1","subject":"private"}}}"#;

#[derive(Debug, Clone, Copy, PartialEq)]
enum FrontEnd {
    FunctionUrl,
    HttpApi,
    RestApi,
}

const FRONT_ENDS: [FrontEnd; 3] = [FrontEnd::FunctionUrl, FrontEnd::HttpApi, FrontEnd::RestApi];

/// A request before a front end turns it into an event.
#[derive(Clone)]
struct Call {
    method: &'static str,
    query: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Call {
    fn get(query: &'static str) -> Self {
        Self {
            method: "GET",
            query,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn unsigned(body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST",
            query: "",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn signed(body: impl Into<Vec<u8>>) -> Self {
        let call = Self::unsigned(body);
        let signature = key("current").sign(&call.body);
        call.with("x-nylas-signature", &signature)
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Returns the event. The body is text if it is UTF-8 and `base64` is false.
    fn event(&self, front_end: FrontEnd, base64: bool) -> Value {
        let text = String::from_utf8(self.body.clone())
            .ok()
            .filter(|_| !base64);
        let encoded = text.is_none();
        let body = text.unwrap_or_else(|| STANDARD.encode(&self.body));
        let mut headers: serde_json::Map<_, _> = self
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        headers.insert("host".to_owned(), json!("hooks.example.com"));
        if front_end == FrontEnd::RestApi {
            // API Gateway decodes the query of a REST API.
            let query: serde_json::Map<_, _> = url::form_urlencoded::parse(self.query.as_bytes())
                .map(|(name, value)| (name.into_owned(), json!(value)))
                .collect();
            return json!({
                "resource": "/nylas", "path": "/nylas", "httpMethod": self.method, "headers": headers,
                "multiValueHeaders": {}, "queryStringParameters": query, "multiValueQueryStringParameters": {},
                "requestContext": {"stage": "live", "httpMethod": self.method, "requestId": "1", "identity": {}},
                "body": body, "isBase64Encoded": encoded,
            });
        }
        let stage = if front_end == FrontEnd::HttpApi {
            "live"
        } else {
            "$default"
        };
        json!({
            "version": "2.0", "routeKey": "$default", "rawPath": "/nylas", "rawQueryString": self.query,
            "headers": headers,
            "requestContext": {
                "stage": stage, "requestId": "1", "timeEpoch": 0,
                "http": {"method": self.method, "path": "/nylas", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
            },
            "body": body, "isBase64Encoded": encoded,
        })
    }

    async fn to<Q: SyncQueue>(&self, receiver: &Receiver<Q>) -> Received {
        self.through(FrontEnd::FunctionUrl, false, receiver).await
    }

    async fn through<Q: SyncQueue>(
        &self,
        front_end: FrontEnd,
        base64: bool,
        receiver: &Receiver<Q>,
    ) -> Received {
        let event = self.event(front_end, base64).to_string();
        receiver
            .handle(event::request(&event).unwrap(), now())
            .await
    }
}

struct BrokenQueue;

impl SyncQueue for BrokenQueue {
    async fn send_body(&self, _: String, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::new("the queue is down"))
    }

    async fn hide(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::new("the queue is down"))
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        Err(QueueError::new("the queue is down"))
    }
}

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 10, 0, 0).unwrap()
}

fn key(secret: &str) -> Key {
    Key::new(&secret.into()).unwrap()
}

fn secrets() -> WebhookSecrets {
    WebhookSecrets::fixed(key("current"), Some(key("previous")))
}

fn receiver() -> Receiver<MemoryQueue> {
    Receiver::new(MemoryQueue::default(), secrets())
}

/// Returns secrets in a store that is not reachable, so that reading them fails.
fn unreachable_secrets() -> WebhookSecrets {
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(aws_config::BehaviorVersion::v2026_01_12())
        .region(aws_sdk_secretsmanager::config::Region::new("eu-north-1"))
        .endpoint_url("http://127.0.0.1:9")
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .credentials_provider(aws_sdk_secretsmanager::config::Credentials::new(
            "a", "b", None, None, "test",
        ));
    let client = aws_sdk_secretsmanager::Client::from_conf(config.build());
    WebhookSecrets::stored(client, "webhook".to_owned())
}

fn queued(receiver: &Receiver<MemoryQueue>) -> Vec<SyncRequest> {
    let messages = receiver.queue().receive(100);
    messages
        .iter()
        .map(|message| SyncRequest::from_body(&message.body).unwrap())
        .collect()
}

fn status(answer: &Received) -> u16 {
    answer.response.status().as_u16()
}

fn text(answer: &Received) -> &str {
    std::str::from_utf8(answer.response.body()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn the_challenge_is_returned_exactly_without_reading_a_secret() {
    let receiver = Receiver::new(BrokenQueue, unreachable_secrets());
    for (query, value) in [
        (
            "challenge=3b2f9f3e-6c1b-4f0e-9d2a-2f1d3c4b5a69",
            "3b2f9f3e-6c1b-4f0e-9d2a-2f1d3c4b5a69",
        ),
        (
            "a=b&challenge=one%2Btwo%20three%253D%C3%A9",
            "one+two three%3Dé",
        ),
    ] {
        for front_end in FRONT_ENDS {
            let answer = Call::get(query).through(front_end, false, &receiver).await;
            assert_eq!(
                (status(&answer), text(&answer)),
                (200, value),
                "{front_end:?}"
            );
            let headers = answer.response.headers();
            assert_eq!(headers[CONTENT_LENGTH], value.len().to_string());
            assert!(
                headers[CONTENT_TYPE]
                    .to_str()
                    .unwrap()
                    .starts_with("text/plain")
            );
            assert!(matches!(answer.outcome, RequestOutcome::Challenge(echoed) if echoed == value));
        }
    }
}

#[tokio::test]
async fn the_lambda_response_contains_the_challenge_as_text() {
    let answer = Call::get("challenge=abc").to(&receiver()).await;
    let response = answer.into_response().await;
    assert_eq!(response.body(), &Body::Text("abc".to_owned()));
}

#[tokio::test]
async fn a_get_without_a_challenge_and_every_other_method_are_rejected() {
    for query in ["", "challenge", "challenge=", "Challenge=x", "q=challenge"] {
        let answer = Call::get(query).to(&receiver()).await;
        assert_eq!(status(&answer), 400, "{query}");
    }
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let call = Call {
            method,
            ..Call::signed(CREATED)
        };
        for front_end in FRONT_ENDS {
            let answer = call.through(front_end, false, &receiver()).await;
            assert_eq!(status(&answer), 405, "{method}");
            assert_eq!(answer.response.headers()[ALLOW], "GET, POST");
        }
    }
}

#[tokio::test]
async fn a_signed_message_is_queued_through_every_front_end() {
    for front_end in FRONT_ENDS {
        for base64 in [false, true] {
            let receiver = receiver();
            let answer = Call::signed(CREATED)
                .through(front_end, base64, &receiver)
                .await;
            assert_eq!(status(&answer), 200, "{front_end:?}");
            let [request] = queued(&receiver).try_into().unwrap();
            assert_eq!(request.key.to_string(), "g-1/m-1");
            assert_eq!(request.trigger, Trigger::Created);
            assert!(matches!(answer.outcome, RequestOutcome::Queued(told) if told == request));
        }
    }
}

#[tokio::test]
async fn a_compressed_delivery_is_verified_before_it_is_decompressed() {
    let packed = gzip(CREATED.as_bytes());
    for encoding in ["gzip", "GZIP", " gzip "] {
        let receiver = receiver();
        let call = Call::signed(packed.clone()).with("Content-Encoding", encoding);
        assert_eq!(status(&call.to(&receiver).await), 200);
        assert_eq!(queued(&receiver).len(), 1);
    }

    let receiver = receiver();
    let over_the_unpacked = Call::unsigned(packed)
        .with("content-encoding", "gzip")
        .with(
            "x-nylas-signature",
            &key("current").sign(CREATED.as_bytes()),
        );
    assert_eq!(status(&over_the_unpacked.to(&receiver).await), 401);
    for (body, encoding) in [
        (CREATED.as_bytes().to_vec(), "gzip"),
        (gzip(b"x"), "br"),
        (gzip(b"x"), "gzip, gzip"),
    ] {
        let call = Call::signed(body).with("content-encoding", encoding);
        assert_eq!(status(&call.to(&receiver).await), 400, "{encoding}");
    }
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn a_missing_or_wrong_signature_is_rejected_without_saying_which() {
    let receiver = receiver();
    let other = key("other").sign(CREATED.as_bytes());
    for call in [
        Call::unsigned(CREATED),
        Call::unsigned(CREATED).with("x-nylas-signature", ""),
        Call::unsigned(CREATED).with("x-nylas-signature", "é"),
        Call::unsigned(CREATED).with("x-nylas-signature", &other),
        Call::unsigned(CREATED).with("x-signature", &key("current").sign(CREATED.as_bytes())),
        Call::unsigned(CREATED.replace("m-1", "m-2")).with(
            "x-nylas-signature",
            &key("current").sign(CREATED.as_bytes()),
        ),
        // Bodies that are also invalid get the same answer if they are unsigned.
        Call::unsigned("{"),
        Call::unsigned(""),
    ] {
        for front_end in FRONT_ENDS {
            let answer = call.through(front_end, false, &receiver).await;
            assert_eq!((status(&answer), text(&answer)), (401, "signature"));
        }
    }
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn an_upper_case_signature_by_the_previous_secret_is_accepted() {
    let receiver = receiver();
    let previous = key("previous").sign(CREATED.as_bytes()).to_uppercase();
    let call = Call::unsigned(CREATED).with("X-Nylas-Signature", &previous);
    assert_eq!(status(&call.to(&receiver).await), 200);
    assert_eq!(queued(&receiver).len(), 1);
}

#[tokio::test]
async fn an_unhandled_type_is_answered_with_200_and_reported() {
    let receiver = receiver();
    let call = Call::signed(r#"{"type":"grant.expired","data":{"object":{"grant_id":"g"}}}"#);
    let answer = call.to(&receiver).await;
    assert_eq!(status(&answer), 200);
    assert!(matches!(answer.outcome, RequestOutcome::Ignored { kind } if kind == "grant.expired"));
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn a_verified_body_that_is_unreadable_is_rejected_with_400() {
    let receiver = receiver();
    for body in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"null",
        b"{\"type\":\"\xff\xfe\"}",
        &CREATED.as_bytes()[..60],
        br#"{"type":"message.created","data":null}"#,
        br#"{"type":"message.created","data":{"object":[]}}"#,
        br#"{"type":"message.created","data":{"object":{"id":7,"grant_id":"g"}}}"#,
    ] {
        let answer = Call::signed(body).to(&receiver).await;
        assert_eq!(
            (status(&answer), text(&answer)),
            (400, "unreadable"),
            "{body:?}"
        );
        assert!(matches!(
            answer.outcome,
            RequestOutcome::Refused(Refusal::Unreadable(_))
        ));
    }
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn a_body_over_four_megabytes_or_over_eight_decompressed_is_rejected() {
    let large = |bytes: usize| CREATED.replace("private", &"x".repeat(bytes));
    let receiver = receiver();
    assert_eq!(
        status(&Call::signed(large(2_000_000)).to(&receiver).await),
        200
    );
    let packed = Call::signed(gzip(large(2_000_000).as_bytes())).with("content-encoding", "gzip");
    assert_eq!(status(&packed.to(&receiver).await), 200);
    assert_eq!(queued(&receiver).len(), 2);

    for bytes in [LARGEST_DELIVERY, LARGEST_DELIVERY + 1] {
        let answer = Call::unsigned(vec![b'x'; bytes]).to(&receiver).await;
        let expected = if bytes > LARGEST_DELIVERY { 413 } else { 401 };
        assert_eq!(status(&answer), expected, "{bytes}");
    }
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < 100_000);
    let bomb = Call::signed(bomb).with("content-encoding", "gzip");
    let answer = bomb.to(&receiver).await;
    assert_eq!((status(&answer), text(&answer)), (413, "too large"));
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn nylas_is_asked_to_retry_if_the_queue_or_the_secrets_are_unavailable() {
    let no_queue = Receiver::new(BrokenQueue, secrets());
    let answer = Call::signed(CREATED).to(&no_queue).await;
    assert_eq!((status(&answer), text(&answer)), (503, "unavailable"));
    assert!(matches!(
        answer.outcome,
        RequestOutcome::Refused(Refusal::Queue(_))
    ));
    // A notification that is not queued is still answered with 200.
    assert_eq!(
        status(
            &Call::signed(r#"{"type":"folder.created"}"#)
                .to(&no_queue)
                .await
        ),
        200
    );

    let no_secret = Receiver::new(MemoryQueue::default(), unreachable_secrets());
    let answer = Call::signed(CREATED).to(&no_secret).await;
    assert_eq!((status(&answer), text(&answer)), (503, "unavailable"));
    assert_eq!(queued(&no_secret), []);
    // Without a signature, the secrets are not read.
    assert_eq!(status(&Call::unsigned(CREATED).to(&no_secret).await), 401);
}

#[tokio::test]
async fn a_too_large_content_length_is_rejected_before_the_signature_is_checked() {
    // Checking the signature would give 503, because the secrets are unavailable.
    let receiver = Receiver::new(MemoryQueue::default(), unreachable_secrets());
    for (announced, expected) in [
        ("4194305", 413),
        ("18446744073709551615", 413),
        ("4194304", 503),
        (" 90 ", 503),
        // A value that is not a number is ignored.
        ("-1", 503),
        ("many", 503),
    ] {
        let call = Call::signed(CREATED).with("content-length", announced);
        for front_end in FRONT_ENDS {
            let answer = call.through(front_end, false, &receiver).await;
            assert_eq!(status(&answer), expected, "{announced}");
        }
    }
}

#[tokio::test]
async fn a_message_type_with_an_unknown_suffix_is_queued() {
    for suffix in ["redacted", "v2.truncated", "truncated.v2"] {
        let receiver = receiver();
        let body = CREATED.replace("message.created", &format!("message.created.{suffix}"));
        let answer = Call::signed(body).to(&receiver).await;
        assert_eq!((status(&answer), text(&answer)), (200, "ok"), "{suffix}");
        assert_eq!(queued(&receiver).len(), 1, "{suffix}");
    }
}

#[tokio::test]
async fn a_probe_is_answered_only_if_it_is_signed_and_is_never_queued() {
    let receiver = Receiver::new(MemoryQueue::default(), secrets())
        .with_filter(Filter::live(Some("app".to_owned())));
    let body = probe::body("p", now());
    let packed = Call::signed(probe::gzip(&body)).with("content-encoding", "gzip");
    for call in [Call::signed(body.clone()), packed] {
        for _ in 1..=2 {
            let answer = call.to(&receiver).await;
            assert_eq!((status(&answer), text(&answer)), (200, probe::ANSWER));
            assert!(matches!(answer.outcome, RequestOutcome::Probe));
        }
    }
    let forged = Call::unsigned(body.clone()).with("x-nylas-signature", &"0".repeat(64));
    for call in [Call::unsigned(body), forged] {
        assert_eq!(status(&call.to(&receiver).await), 401);
    }
    // The rest of its content does not matter.
    let with_ids = CREATED.replace("message.created", probe::KIND);
    let answer = Call::signed(with_ids).to(&receiver).await;
    assert_eq!(text(&answer), probe::ANSWER);
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn a_delivery_visibly_altered_in_transit_is_retried_and_not_reported_as_forged() {
    let receiver = receiver();
    let packed = gzip(CREATED.as_bytes());
    let signature = key("current").sign(&packed);
    // A gateway decompressed it, or a front end converted it to text.
    let spoilt = String::from_utf8_lossy(&packed).into_owned();
    for body in [CREATED.to_owned(), spoilt, String::new()] {
        let call = Call::unsigned(body.clone()).with("x-nylas-signature", &signature);
        let answer = call
            .clone()
            .with("Content-Encoding", " GZIP ")
            .to(&receiver)
            .await;
        assert_eq!(
            (status(&answer), text(&answer)),
            (503, "unavailable"),
            "{body}"
        );
        assert!(matches!(
            answer.outcome,
            RequestOutcome::Refused(Refusal::Altered)
        ));
        // Without the header the change cannot be detected; in both cases nothing is accepted.
        assert_eq!(status(&call.to(&receiver).await), 401);
        let unsigned = Call::unsigned(body).with("content-encoding", "gzip");
        assert_eq!(status(&unsigned.to(&receiver).await), 401);
    }
    let changed = [packed.as_slice(), b"x"].concat();
    let changed = Call::unsigned(changed)
        .with("x-nylas-signature", &signature)
        .with("content-encoding", "gzip");
    assert_eq!(status(&changed.to(&receiver).await), 401);
    assert_eq!(queued(&receiver), []);
}

/// Returns a signed notification with an envelope.
fn enveloped(id: &str, message: &str, days_old: i64, application: &str) -> Call {
    let time = (now() - chrono::TimeDelta::days(days_old)).timestamp();
    let body = json!({
        "type": "message.created", "id": id, "time": time,
        "data": {"application_id": application, "object": {"id": message, "grant_id": "g-1"}},
    });
    Call::signed(body.to_string())
}

#[tokio::test]
async fn foreign_old_and_duplicate_notifications_are_acknowledged_but_not_queued() {
    let receiver = Receiver::new(MemoryQueue::default(), secrets())
        .with_filter(Filter::live(Some("app".to_owned())));
    for (call, expected) in [
        (enveloped("n-1", "m-1", 0, "app"), None),
        (enveloped("n-1", "m-1", 0, "app"), Some(Unwanted::Duplicate)),
        (enveloped("n-2", "m-1", 0, "app"), None),
        // One id with two messages: both are queued.
        (enveloped("n-1", "m-2", 0, "app"), None),
        (enveloped("n-3", "m-3", 6, "app"), None),
        (enveloped("n-4", "m-4", 8, "app"), Some(Unwanted::TooOld)),
        (
            enveloped("n-5", "m-5", 0, "other"),
            Some(Unwanted::AnotherApplication),
        ),
        (Call::signed(CREATED), None),
        (Call::signed(CREATED), None),
    ] {
        let answer = call.to(&receiver).await;
        assert_eq!((status(&answer), text(&answer)), (200, "ok"));
        let why = match answer.outcome {
            RequestOutcome::Queued(_) => None,
            RequestOutcome::NotQueued { why, .. } => Some(why),
            other => panic!("{other:?}"),
        };
        assert_eq!(why, expected);
    }
    assert_eq!(queued(&receiver).len(), 6);
}

/// A queue that accepts nothing while it is down.
#[derive(Default)]
struct Fragile {
    queue: MemoryQueue,
    down: std::sync::atomic::AtomicBool,
}

impl SyncQueue for Fragile {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(QueueError::new("the queue is down"));
        }
        self.queue.send_body(body, delay).await
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        self.queue.hide(receipt, delay).await
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        self.queue.waiting().await
    }
}

#[tokio::test]
async fn a_retry_after_a_failed_enqueue_is_not_a_duplicate() {
    let queue = Fragile::default();
    queue.down.store(true, std::sync::atomic::Ordering::Relaxed);
    let receiver = Receiver::new(queue, secrets()).with_filter(Filter::live(None));
    let call = enveloped("n-1", "m-1", 0, "app");
    assert_eq!(status(&call.to(&receiver).await), 503);
    let down = &receiver.queue().down;
    down.store(false, std::sync::atomic::Ordering::Relaxed);
    let answer = call.to(&receiver).await;
    assert!(matches!(answer.outcome, RequestOutcome::Queued(_)));
    assert_eq!(receiver.queue().queue.receive(10).len(), 1);
}
