//! Classifies the requests on a connection by what they ask of their service.

use serde_json::Value;

use crate::http::Message;

/// Returns one of the ways in which Nylas rejects a request temporarily; the length of the request
/// decides which.
pub(crate) fn nylas_refusal(request: &Message) -> Message {
    match request.start().len() % 3 {
        0 => Message::nylas_error(429, "rate_limit_error", Some(40)),
        1 => Message::nylas_error(429, "rate_limit_error", None),
        _ => Message::nylas_error(503, "service_unavailable", None),
    }
}

/// Returns the operation of a call in the JSON protocol of the AWS services.
pub(crate) fn target(request: &Message) -> &str {
    let target = request.header("x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default()
}

pub(crate) fn update_item(request: &Message) -> Option<Value> {
    (target(request) == "UpdateItem")
        .then(|| serde_json::from_slice(&request.body).ok())
        .flatten()
}

/// Removes the delay of a new queue message. A delayed message has no receipt yet, so the harness
/// could not make time pass for it. It is delivered early instead, which a queue may do.
pub(crate) fn without_delay(request: &mut Message) {
    if target(request) == "SendMessage"
        && let Ok(mut call) = serde_json::from_slice::<Value>(&request.body)
        && call["DelaySeconds"].as_u64().is_some_and(|delay| delay > 0)
    {
        call["DelaySeconds"] = Value::from(0);
        request.replace_body(call.to_string().into_bytes());
    }
}

/// What a request to Dataverse does.
pub(crate) enum Asked {
    /// A batch of queries: the lookup.
    LookUp,
    /// A batch of change sets.
    Write,
    /// The creation of a single row.
    Create,
    /// The completion of a single row.
    Complete,
    Other,
}

pub(crate) fn asked_of_dataverse(request: &Message) -> Asked {
    let start = request.start();
    if start.contains("/$batch ") {
        // Searched as text, because the search of the standard library is fast even in an
        // unoptimised build.
        let writes = String::from_utf8_lossy(&request.body).contains("\r\nPOST /api/");
        return if writes { Asked::Write } else { Asked::LookUp };
    }
    if start.starts_with("POST ") && start.contains("/emails ") {
        Asked::Create
    } else if start.starts_with("PATCH ")
        && String::from_utf8_lossy(&request.body).contains("statecode")
    {
        Asked::Complete
    } else {
        Asked::Other
    }
}
