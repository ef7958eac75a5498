//! What a batch does and answers (Dataverse facts §9, §9a and §19 rule 11).
//!
//! | Batch                                       | Status of the whole answer | Parts                            |
//! | ------------------------------------------- | -------------------------- | -------------------------------- |
//! | malformed                                   | 400, plain JSON            | none                             |
//! | no failure                                  | 200                        | one for each item                |
//! | a failure                                   | that of the failure        | up to and including the failure  |
//! | a failure, `Prefer: odata.continue-on-error`| 200                        | one for each item                |
//!
//! A failed change set has only one part, the failure. Nothing of it is stored.

use std::fmt::Write as _;

use uuid::Uuid;

use super::multipart::{self, Item, Part};
use super::operation::{self, Answer, Body};
use super::options::Prefer;
use super::org::{Org, References};
use super::refusal::Refusal;

/// A multipart answer.
pub(crate) struct BatchAnswer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// Runs a batch.
pub(crate) fn run(
    org: &mut Org,
    content_type: &str,
    body: &[u8],
    prefer: &Prefer,
) -> Result<BatchAnswer, Refusal> {
    let items = multipart::parse(content_type, body)?;
    let boundary = format!("batchresponse_{}", Uuid::new_v4());
    let mut text = String::new();
    let mut status = 200;
    for item in items {
        let failed = match item {
            Item::Single(part) => {
                let answer = run_part(org, &part, &References::new());
                push_part(&mut text, &boundary, part.content_id.as_deref(), &answer);
                org.store.keep();
                Some(answer.status).filter(|status| *status >= 400)
            }
            Item::ChangeSet(parts) => run_change_set(org, &parts, &boundary, &mut text),
        };
        if let Some(failed) = failed.filter(|_| !prefer.continue_on_error) {
            status = failed;
            break;
        }
    }
    push(&mut text, &format!("--{boundary}--\r\n"));
    Ok(BatchAnswer {
        status,
        content_type: format!("multipart/mixed; boundary={boundary}"),
        body: text,
    })
}

/// Runs the operations of a change set, all or none. Returns the status of the failure, if any.
fn run_change_set(org: &mut Org, parts: &[Part], outer: &str, text: &mut String) -> Option<u16> {
    let mark = org.mark();
    let boundary = format!("changesetresponse_{}", Uuid::new_v4());
    let mut references = References::new();
    let mut inner = String::new();
    for part in parts {
        let answer = run_part(org, part, &references);
        let content_id = part.content_id.as_deref();
        if answer.status >= 400 {
            org.roll_back(&mark);
            if org.settings.bare_change_set_errors {
                push_part(text, outer, content_id, &answer);
                return Some(answer.status);
            }
            inner.clear();
            push_part(&mut inner, &boundary, content_id, &answer);
            push_change_set(text, outer, &boundary, &inner);
            return Some(answer.status);
        }
        if let (Some(content_id), Some(row)) = (content_id, answer.row.clone()) {
            references.insert(content_id.to_owned(), row);
        }
        push_part(&mut inner, &boundary, content_id, &answer);
    }
    org.store.keep();
    push_change_set(text, outer, &boundary, &inner);
    None
}

fn run_part(org: &mut Org, part: &Part, references: &References) -> Answer {
    let name = "callerobjectid";
    let answer = match part.operation.header(name) {
        Some(_) => Err(Refusal::not_imitated(format!(
            "{name} in a part of a batch"
        ))),
        None => operation::run(org, &part.operation, references),
    };
    answer.unwrap_or_else(|refusal| Answer::refusal(&refusal, &part.operation.prefer()))
}

fn push_change_set(text: &mut String, outer: &str, boundary: &str, inner: &str) {
    push(
        text,
        &format!(
            "--{outer}\r\nContent-Type: multipart/mixed; boundary={boundary}\r\n\r\n{inner}--{boundary}--\r\n"
        ),
    );
}

fn push_part(text: &mut String, boundary: &str, content_id: Option<&str>, answer: &Answer) {
    push(
        text,
        &format!(
            "--{boundary}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
        ),
    );
    if let Some(content_id) = content_id {
        push(text, &format!("Content-ID: {content_id}\r\n"));
    }
    push(
        text,
        &format!(
            "\r\nHTTP/1.1 {} {}\r\nOData-Version: 4.0\r\n",
            answer.status,
            reason(answer.status)
        ),
    );
    for (name, value) in &answer.headers {
        push(text, &format!("{name}: {value}\r\n"));
    }
    match &answer.body {
        None => push(text, "\r\n\r\n"),
        Some(Body::Json(body)) => {
            push(
                text,
                &format!(
                    "Content-Type: application/json; odata.metadata=minimal\r\n\r\n{body}\r\n"
                ),
            );
        }
        Some(Body::Xml(body)) => {
            push(
                text,
                &format!("Content-Type: application/xml\r\n\r\n{body}\r\n"),
            );
        }
        Some(Body::Text(body)) => {
            push(text, &format!("Content-Type: text/plain\r\n\r\n{body}\r\n"));
        }
    }
}

fn push(text: &mut String, more: &str) {
    // Writing to a string does not fail.
    let _always_fits = text.write_str(more);
}

fn reason(status: u16) -> &'static str {
    axum::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Error")
}
