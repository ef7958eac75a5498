//! The handler as Nylas sees it: events of all three front ends in, statuses and queued ids out.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeZone;
use flate2::Compression;
use flate2::write::GzEncoder;
use mailverse::queue::MemoryQueue;
use mailverse::sync_request::Trigger;
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

/// A request before a front end has made an event of it.
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

    /// The event, with the body as text where it is one and `base64` does not ask for the other form.
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
        Err(QueueError::new("out of order"))
    }

    async fn hide(&self, _: &str, _: Duration) -> Result<(), QueueError> {
        Err(QueueError::new("out of order"))
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        Err(QueueError::new("out of order"))
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

/// Secrets in a store that nobody answers for: whatever reads them fails.
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
async fn the_challenge_comes_back_exactly_and_before_any_secret_exists() {
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
            assert!(matches!(answer.outcome, Outcome::Challenge(echoed) if echoed == value));
        }
    }
}

#[tokio::test]
async fn what_lambda_sends_back_holds_the_challenge_as_text() {
    let answer = Call::get("challenge=abc").to(&receiver()).await;
    let response = answer.into_response().await;
    assert_eq!(response.body(), &Body::Text("abc".to_owned()));
}

#[tokio::test]
async fn a_get_without_a_challenge_and_every_other_method_is_refused() {
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
async fn a_signed_message_is_queued_whatever_front_end_it_comes_through() {
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
            assert!(matches!(answer.outcome, Outcome::Queued(told) if told == request));
        }
    }
}

#[tokio::test]
async fn a_compressed_delivery_is_verified_packed_and_read_unpacked() {
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
async fn a_signature_that_is_missing_or_wrong_is_refused_without_saying_which() {
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
        // The body of a broken sender is no better for being unsigned.
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
async fn the_previous_secret_and_upper_case_count_too() {
    let receiver = receiver();
    let previous = key("previous").sign(CREATED.as_bytes()).to_uppercase();
    let call = Call::unsigned(CREATED).with("X-Nylas-Signature", &previous);
    assert_eq!(status(&call.to(&receiver).await), 200);
    assert_eq!(queued(&receiver).len(), 1);
}

#[tokio::test]
async fn a_type_that_nobody_handles_is_answered_200_and_named() {
    let receiver = receiver();
    let call = Call::signed(r#"{"type":"grant.expired","data":{"object":{"grant_id":"g"}}}"#);
    let answer = call.to(&receiver).await;
    assert_eq!(status(&answer), 200);
    assert!(matches!(answer.outcome, Outcome::Ignored { kind } if kind == "grant.expired"));
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn a_verified_body_that_cannot_be_read_is_refused_for_good() {
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
            Outcome::Refused(Refusal::Unreadable(_))
        ));
    }
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn two_megabytes_are_read_and_more_than_eight_are_not_packed_or_unpacked() {
    let large = |bytes: usize| CREATED.replace("private", &"x".repeat(bytes));
    let receiver = receiver();
    assert_eq!(
        status(&Call::signed(large(2_000_000)).to(&receiver).await),
        200
    );
    let packed = Call::signed(gzip(large(2_000_000).as_bytes())).with("content-encoding", "gzip");
    assert_eq!(status(&packed.to(&receiver).await), 200);
    assert_eq!(queued(&receiver).len(), 2);

    assert_eq!(
        status(
            &Call::unsigned(vec![b'x'; LARGEST_BODY + 1])
                .to(&receiver)
                .await
        ),
        413
    );
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < 100_000);
    let bomb = Call::signed(bomb).with("content-encoding", "gzip");
    let answer = bomb.to(&receiver).await;
    assert_eq!((status(&answer), text(&answer)), (413, "too large"));
    assert_eq!(queued(&receiver), []);
}

#[tokio::test]
async fn nylas_is_asked_to_send_again_when_our_side_fails() {
    let no_queue = Receiver::new(BrokenQueue, secrets());
    let answer = Call::signed(CREATED).to(&no_queue).await;
    assert_eq!((status(&answer), text(&answer)), (503, "unavailable"));
    assert!(matches!(
        answer.outcome,
        Outcome::Refused(Refusal::Queue(_))
    ));
    // What needs no queue is answered all the same.
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
    // Without a signature there is nothing to look up.
    assert_eq!(status(&Call::unsigned(CREATED).to(&no_secret).await), 401);
}
