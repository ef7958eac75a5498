//! Recognises the kind of an invocation's event and builds the answer to an operator's request.

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::BackfillError;
use crate::plan::Schedule;
use crate::request::{Answer, Invalid};

/// An event that this function does not know.
#[derive(Debug, thiserror::Error)]
#[error("not an event of the schedule, the backfill queue or an operator: {0}")]
pub struct NotAnEvent(pub(crate) &'static str);

/// The event of an invocation.
pub(crate) enum Event {
    Schedule(Schedule),
    Tasks(Vec<SqsMessage>),
    /// A direct invocation.
    Request(Value),
    /// A call to the function's URL, which AWS has authenticated.
    Http(Result<Value, Invalid>),
}

impl Event {
    pub(crate) fn read(event: &Value) -> Result<Self, NotAnEvent> {
        if event.get("Records").is_some() {
            let batch = SqsEvent::deserialize(event)
                .map_err(|_| NotAnEvent("its records are not from SQS"))?;
            return Ok(Self::Tasks(batch.records));
        }
        if let Some(context) = event.get("requestContext") {
            return Ok(Self::Http(body(event, context)));
        }
        if let Some(source) = event.get("source") {
            return match source.as_str() {
                Some("aws.scheduler" | "aws.events") => Schedule::from_event(event)
                    .map(Self::Schedule)
                    .map_err(NotAnEvent),
                _ => Err(NotAnEvent(
                    "its source is neither aws.scheduler nor aws.events",
                )),
            };
        }
        if ["mailboxes", "run_id"]
            .iter()
            .any(|name| event.get(name).is_some())
        {
            return Ok(Self::Request(event.clone()));
        }
        Err(NotAnEvent(
            "it has neither source, Records, requestContext, mailboxes nor run_id",
        ))
    }
}

/// Returns the JSON body of a call to the function's URL. Source: AWS Lambda Developer Guide,
/// "Invoking Lambda function URLs".
fn body(event: &Value, context: &Value) -> Result<Value, Invalid> {
    let invalid = |field: &str, problem: &str| Invalid {
        field: field.to_owned(),
        problem: problem.to_owned(),
    };
    if context.pointer("/http/method") != Some(&json!("POST")) {
        return Err(invalid("method", "the method must be POST"));
    }
    let text = event
        .get("body")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let bytes = if event.get("isBase64Encoded") == Some(&Value::Bool(true)) {
        STANDARD.decode(text).unwrap_or_default()
    } else {
        text.as_bytes().to_vec()
    };
    serde_json::from_slice(&bytes).map_err(|_| invalid("body", "it is not JSON"))
}

/// Returns the answer, or `{"error": …}`, with `"field"` if a field of the request is invalid.
///
/// The invocation succeeds even then: if an asynchronous invocation failed, Lambda would store the
/// request, with the addresses in it, on a queue.
pub(crate) fn direct_answer(answer: &Result<Answer, BackfillError>) -> Value {
    status_and_body(answer).1
}

/// Returns the same answer as an HTTP response: status 200, 400 with the invalid field, or 503 if a
/// service was unavailable.
pub(crate) fn http_answer(answer: &Result<Answer, BackfillError>) -> Value {
    let (status, body) = status_and_body(answer);
    json!({
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": body.to_string(),
        "isBase64Encoded": false,
    })
}

fn status_and_body(answer: &Result<Answer, BackfillError>) -> (u16, Value) {
    match answer {
        Ok(answer) => (200, json!(answer)),
        Err(BackfillError::Invalid(invalid)) => (
            400,
            json!({"error": invalid.to_string(), "field": invalid.field}),
        ),
        Err(error) => {
            tracing::error!(%error, "failed to process a backfill request; the answer contains the error");
            (503, json!({"error": error.to_string()}))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(method: &str, body: &str, base64: bool) -> Value {
        json!({"version": "2.0", "requestContext": {"http": {"method": method}}, "body": body, "isBase64Encoded": base64})
    }

    fn request(event: &Value) -> Result<Value, Invalid> {
        match Event::read(event) {
            Ok(Event::Http(body)) => body,
            _ => panic!("the event is not a call to the function's URL"),
        }
    }

    #[test]
    fn the_event_kind_is_detected_from_its_distinctive_fields() {
        let schedule =
            json!({"source": "aws.events", "time": "2026-11-20T06:00:00Z", "detail": {}});
        assert!(matches!(Event::read(&schedule), Ok(Event::Schedule(_))));
        assert!(matches!(
            Event::read(&json!({"Records": []})),
            Ok(Event::Tasks(_))
        ));
        for direct in [json!({"mailboxes": 7}), json!({"run_id": ""})] {
            assert!(matches!(Event::read(&direct), Ok(Event::Request(_))));
        }
        for other in [
            Value::Null,
            json!({}),
            json!({"source": "aws.s3"}),
            json!([]),
        ] {
            let error = Event::read(&other).err().unwrap().to_string();
            assert!(error.starts_with("not an event of"), "{error}");
        }
    }

    #[test]
    fn a_function_url_call_must_be_a_post_of_plain_or_base64_json() {
        assert_eq!(
            request(&http("POST", r#"{"run_id":"x"}"#, false)),
            Ok(json!({"run_id": "x"}))
        );
        assert_eq!(
            request(&http("POST", "eyJydW5faWQiOiJ4In0=", true)),
            Ok(json!({"run_id": "x"}))
        );
        assert_eq!(
            request(&http("GET", "", false)).unwrap_err().field,
            "method"
        );
        assert_eq!(
            request(&http("POST", "<xml>", false)).unwrap_err().field,
            "body"
        );
    }
}
