//! The HTTP edge of Dataverse: who may call, with which headers, and how often (Dataverse facts §11, §13, §16, §19).
//!
//! | In this order                                | else                           |
//! | -------------------------------------------- | ------------------------------ |
//! | a token for this organisation, not expired   | 401                            |
//! | a user for the application                   | 403 / 0x80072560               |
//! | fewer requests than the limit                | 429 / 0x80072322, Retry-After  |
//! | a path below the root                        | 404                            |
//! | an address of at most 32,768 characters      | 414 (inferred)                 |
//! | `OData-Version: 4.0`, `OData-MaxVersion: 4.0`| 400 (inferred)                 |
//! | a body that is not too large                 | 413 / 0x8004418A               |

use axum::http::Method;
use chrono::{TimeDelta, Utc};

use super::batch;
use super::operation::{self, Answer, Body, LONGEST_URL, Operation};
use super::options::Prefer;
use super::org::{Org, References};
use super::path;
use super::refusal::Refusal;
use crate::entra::Entra;
use crate::server::{Incoming, Outgoing};

/// The window of service protection.
const WINDOW: TimeDelta = TimeDelta::seconds(300);

/// The answer to one HTTP request.
pub(crate) fn answer(org: &mut Org, entra: &Entra, incoming: &Incoming) -> Outgoing {
    let prefer = Prefer::read(
        incoming
            .headers
            .get_all("prefer")
            .iter()
            .filter_map(|value| value.to_str().ok()),
    );
    let answered =
        admit(org, entra, incoming).and_then(|path| dispatch(org, &path, incoming, &prefer));
    org.store.keep();
    answered.unwrap_or_else(|refusal| outgoing(Answer::refusal(&refusal, &prefer)))
}

/// An answer in the service's error format that a test asked for.
pub(crate) fn fault(status: u16, code: &str, message: &str) -> Outgoing {
    let refusal = Refusal {
        status,
        code: code.to_owned().into(),
        message: message.to_owned(),
        retry_after: None,
    };
    outgoing(Answer::refusal(&refusal, &Prefer::default()))
}

/// Checks everything that does not depend on what is asked, and gives the path behind the root.
fn admit(org: &mut Org, entra: &Entra, incoming: &Incoming) -> Result<String, Refusal> {
    let token = incoming.header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if !token.is_some_and(|token| entra.accepts(token, &org.url)) {
        return Err(Refusal::new(
            401,
            "",
            "The access token is missing, wrong or expired.",
        ));
    }
    if !org.has_application_user {
        return Err(Refusal::new(
            403,
            "0x80072560",
            "The user is not a member of the organization.",
        ));
    }
    count_arrival(org)?;
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
    for name in ["mscrmcallerid", "callerobjectid"] {
        if incoming.header(name).is_some() {
            return Err(Refusal::not_imitated(format!("impersonation by {name}")));
        }
    }
    if incoming.body.is_none() {
        return Err(Refusal::new(
            413,
            "0x8004418A",
            "Request message length is too large.",
        ));
    }
    Ok(path)
}

/// Service protection: how many requests one caller may send in five minutes. A batch is one request (inferred).
fn count_arrival(org: &mut Org) -> Result<(), Refusal> {
    let now = Utc::now();
    while org
        .arrivals
        .front()
        .is_some_and(|arrival| *arrival + WINDOW <= now)
    {
        org.arrivals.pop_front();
    }
    let limit = org.settings.requests_per_window;
    if org.arrivals.len() < limit {
        org.arrivals.push_back(now);
        return Ok(());
    }
    let free_again = org
        .arrivals
        .front()
        .map_or(WINDOW, |oldest| *oldest + WINDOW - now);
    let message = format!(
        "Number of requests exceeded the limit of {limit} over time window of 300 seconds."
    );
    let mut refusal = Refusal::new(429, "0x80072322", message);
    refusal.retry_after = Some(u64::try_from(free_again.num_seconds()).unwrap_or_default() + 1);
    Err(refusal)
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
        let headers = vec![
            ("Content-Type", answer.content_type),
            ("OData-Version", "4.0".to_owned()),
        ];
        return Ok(Outgoing {
            status: answer.status,
            headers,
            body: answer.body.into_bytes(),
        });
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
