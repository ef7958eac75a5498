//! Events in the form in which AWS sends them.

use aws_sdk_sqs::types::Message;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// Returns a batch in the form in which Lambda delivers it. Source: AWS Lambda Developer Guide,
/// "Using Lambda with Amazon SQS".
#[must_use]
pub fn sqs_event(batch: &[Message]) -> Value {
    let records: Vec<Value> = batch
        .iter()
        .map(|message| {
            let attributes = message.attributes.as_ref().unwrap();
            let attributes: serde_json::Map<_, _> =
                attributes.iter().map(|(name, value)| (name.as_str().to_owned(), json!(value))).collect();
            json!({
                "messageId": message.message_id, "receiptHandle": message.receipt_handle, "body": message.body,
                "attributes": attributes, "messageAttributes": {}, "md5OfBody": message.md5_of_body,
                "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-north-1:123456789012:sync", "awsRegion": "eu-north-1",
            })
        })
        .collect();
    json!({"Records": records})
}

/// Returns the signature that Nylas would send: HMAC-SHA256 over the bytes, in hex.
#[must_use]
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// Returns the event of a function URL. Source: AWS Lambda Developer Guide, "Invoking Lambda
/// function URLs".
#[must_use]
pub fn http_event(
    method: &str,
    query: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    as_base64: bool,
) -> Value {
    let mut all: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect();
    all.insert("host".to_owned(), json!("abc.lambda-url.eu-north-1.on.aws"));
    let body = if as_base64 {
        STANDARD.encode(body)
    } else {
        String::from_utf8(body.to_vec()).unwrap()
    };
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": query, "headers": all,
        "requestContext": {
            "accountId": "anonymous", "apiId": "abc", "domainName": "abc.lambda-url.eu-north-1.on.aws", "domainPrefix": "abc",
            "requestId": "1", "routeKey": "$default", "stage": "$default", "time": "20/Nov/2026:06:00:00 +0000", "timeEpoch": 1_795_154_400_000_i64,
            "http": {"method": method, "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "nylas"},
        },
        "body": body, "isBase64Encoded": as_base64,
    })
}

/// Returns the event of a function URL for a notification that is signed with `secret`.
#[must_use]
pub fn delivery(secret: &str, notification: &Value) -> Value {
    let body = notification.to_string();
    let signature = signature(secret, body.as_bytes());
    http_event(
        "POST",
        "",
        &[("x-nylas-signature", &signature)],
        body.as_bytes(),
        false,
    )
}

/// Returns the event of EventBridge Scheduler.
#[must_use]
pub fn schedule(time: &str) -> Value {
    json!({
        "version": "0", "id": "1", "detail-type": "Scheduled Event", "source": "aws.scheduler", "account": "123456789012",
        "time": time, "region": "eu-north-1", "resources": ["arn:aws:scheduler:eu-north-1:123456789012:schedule/default/x"], "detail": "{}",
    })
}
