//! The HTTP interface of Dataverse: who may call, with which headers, and how often (Dataverse
//! facts §11, §13, §16, §19).
//!
//! | Check, in this order                         | Answer if it fails             |
//! | -------------------------------------------- | ------------------------------ |
//! | a token for this organisation, not expired   | 401                            |
//! | a user for the application                   | 403 / 0x80072560               |
//! | less use than service protection allows      | 429, Retry-After: `protection.rs` |
//! | a path below the root                        | 404                            |
//! | an address of at most 32,768 characters      | 414 (inferred)                 |
//! | `OData-Version: 4.0`, `OData-MaxVersion: 4.0`| 400 (inferred)                 |
//! | a body that is not too large                 | 413 / 0x8004418A               |
//!
//! `CallerObjectId` names the user that the application impersonates, for the whole request,
//! batches included (inferred: a batch passes it on to its parts). Without the privilege the answer
//! is 403 / 0x80040220, and for a missing or disabled user 403 / 0x80072560 (both inferred).

use axum::http::Method;
use uuid::Uuid;

use super::batch;
use super::operation::{self, Answer, Body, LONGEST_URL, Operation};
use super::options::Prefer;
use super::org::{Caller, Org, References};
use super::path;
use super::privileges::Privilege;
use super::refusal::Refusal;
use crate::entra::Entra;
use crate::server::{Incoming, Outgoing};

/// Returns the caller if it may call and is within its limits.
pub(crate) fn admit(org: &mut Org, entra: &Entra, incoming: &Incoming) -> Result<Caller, Refusal> {
    let client_id = bearer(incoming)
        .and_then(|token| entra.caller(token, &org.url))
        .ok_or_else(|| Refusal::new(401, "", "The access token is missing, wrong or expired."))?;
    let user = org.user_of(&client_id).ok_or_else(|| {
        Refusal::new(
            403,
            "0x80072560",
            "The user is not a member of the organization.",
        )
    })?;
    let (limits, now) = (org.settings.limits.clone(), org.clock.now());
    let batch = incoming.path.ends_with("/$batch") && org.settings.throttle_parts;
    let parts_refused = match org.usage(&client_id).arrive(&limits, now) {
        Err(refusal) if batch && refusal.code != "0x80072326" => Some(refusal),
        arrived => {
            arrived?;
            None
        }
    };
    let named = named(org, incoming)?;
    Ok(Caller {
        client_id,
        user: named.unwrap_or(user),
        on_behalf: named.and(Some(user)),
        parts_refused,
        spent_ms: 0,
    })
}

/// Returns the impersonated user; `None` without the header.
fn named(org: &Org, incoming: &Incoming) -> Result<Option<Uuid>, Refusal> {
    let Some(text) = incoming.header("callerobjectid") else {
        return Ok(None);
    };
    let acting = (Privilege::ActOnBehalf, "systemuser");
    if org.settings.withheld.contains(&acting) {
        let message = "Principal user is missing prvActOnBehalfOfAnotherUser privilege.";
        return Err(Refusal::new(403, "0x80040220", message));
    }
    let user = Uuid::try_parse(text)
        .ok()
        .and_then(|id| org.user_of_entra(id));
    let user = user.ok_or_else(|| {
        Refusal::new(
            403,
            "0x80072560",
            "The user is not a member of the organization.",
        )
    })?;
    Ok(Some(user))
}

/// Returns the token of a request.
pub(crate) fn bearer(incoming: &Incoming) -> Option<&str> {
    let (scheme, token) = incoming.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Answers the request of an admitted caller, and returns the execution time in milliseconds.
pub(crate) fn answer(org: &mut Org, caller: Caller, incoming: &Incoming) -> (Outgoing, u64) {
    org.caller = caller;
    let prefer = prefer(incoming);
    let answered = check_form(incoming, org.settings.largest_request)
        .and_then(|path| dispatch(org, &path, incoming, &prefer));
    org.store.keep();
    let mut outgoing =
        answered.unwrap_or_else(|refusal| outgoing(Answer::refusal(&refusal, &prefer)));
    let (limits, now) = (org.settings.limits.clone(), org.clock.now());
    let client_id = org.caller.client_id.clone();
    let left = org.usage(&client_id).headers(&limits, now);
    outgoing.headers.extend(left);
    (outgoing, org.caller.spent_ms)
}

/// Returns the answer to a caller who was not admitted.
pub(crate) fn turn_away(refusal: &Refusal, incoming: &Incoming) -> Outgoing {
    outgoing(Answer::refusal(refusal, &prefer(incoming)))
}

fn prefer(incoming: &Incoming) -> Prefer {
    let headers = incoming.headers.get_all("prefer").iter();
    Prefer::read(headers.filter_map(|value| value.to_str().ok()))
}

/// Returns an error that a test requested, in the service's error format.
pub(crate) fn fault(status: u16, code: &str, message: &str) -> Outgoing {
    let refusal = Refusal {
        status,
        code: code.to_owned().into(),
        message: message.to_owned(),
        retry_after: None,
    };
    outgoing(Answer::refusal(&refusal, &Prefer::default()))
}

/// Checks everything that does not depend on the operation, and returns the path after the root.
fn check_form(incoming: &Incoming, largest: usize) -> Result<String, Refusal> {
    let path = path::below_root(&incoming.path)
        .ok_or_else(|| Refusal::no_segment(&incoming.path))?
        .to_owned();
    if incoming.path.len() + incoming.query.len() > LONGEST_URL {
        return Err(Refusal::new(
            414,
            "0x80060888",
            "The address is longer than 32768 characters.",
        ));
    }
    for name in ["odata-version", "odata-maxversion"] {
        if incoming.header(name) != Some("4.0") {
            return Err(Refusal::query(format!("The header {name} must be 4.0.")));
        }
    }
    if incoming.header("mscrmcallerid").is_some() {
        return Err(Refusal::not_imitated("impersonation by mscrmcallerid"));
    }
    let fits = |body: &Vec<u8>| body.len() <= largest;
    if !incoming.body.as_ref().is_some_and(fits) {
        return Err(Refusal::new(
            413,
            "0x8004418A",
            "Request message length is too large.",
        ));
    }
    Ok(path)
}

fn dispatch(
    org: &mut Org,
    path: &str,
    incoming: &Incoming,
    prefer: &Prefer,
) -> Result<Outgoing, Refusal> {
    let body = incoming.body.clone().unwrap_or_default();
    if path::resource(path) == path::Resource::Batch {
        if incoming.method != Method::POST {
            return Err(Refusal::verb("A batch is sent by POST."));
        }
        let content_type = incoming.header("content-type").unwrap_or_default();
        let answer = batch::run(org, content_type, &body, prefer)?;
        let mut whole = outgoing(Answer::empty(answer.status));
        whole.headers.push(("Content-Type", answer.content_type));
        whole.body = answer.body.into_bytes();
        return Ok(whole);
    }
    let headers = incoming.headers.iter();
    let headers = headers.filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    let operation = Operation {
        method: incoming.method.clone(),
        path: path.to_owned(),
        query: incoming.query.clone(),
        headers: headers.collect(),
        body,
    };
    operation::run(org, &operation, &References::new()).map(outgoing)
}

fn outgoing(answer: Answer) -> Outgoing {
    let mut headers = answer.headers;
    headers.push(("OData-Version", "4.0".to_owned()));
    // Microsoft support asks for these ids (Dataverse facts §12).
    let id = Uuid::new_v4().to_string();
    headers.push(("x-ms-service-request-id", id.clone()));
    headers.push(("REQ_ID", id));
    if answer.status == 401 {
        headers.push(("WWW-Authenticate", "Bearer".to_owned()));
    }
    let body = match answer.body {
        None => Vec::new(),
        Some(Body::Json(body)) => {
            headers.push((
                "Content-Type",
                "application/json; odata.metadata=minimal".to_owned(),
            ));
            body.to_string().into_bytes()
        }
        Some(Body::Xml(text)) => {
            headers.push(("Content-Type", "application/xml".to_owned()));
            text.into_bytes()
        }
        Some(Body::Text(text)) => {
            headers.push(("Content-Type", "text/plain".to_owned()));
            text.into_bytes()
        }
    };
    Outgoing {
        status: answer.status,
        headers,
        body,
    }
}
