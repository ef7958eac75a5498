//! The multipart format of a `$batch` request and its answer.
//!
//! A request is a list of operations. Each is a GET, or a change set of writes that succeed or fail
//! together. The answer has one entry per operation, in order, because every batch is sent with
//! `odata.continue-on-error`. Source: Dataverse facts §9 and §9a.
//!
//! No content can break the framing: a part consists of a request line with a percent-encoded URL,
//! fixed headers, and one line of JSON, in which line breaks are escaped. So no line of a part can
//! start with the boundary, whatever a message contains, and the boundary need not be random.

use std::fmt::Write as _;

use serde_json::Value;

/// The boundary of the whole batch.
pub(crate) const BOUNDARY: &str = "batch_mailverse";

/// Asks Dataverse to annotate each lookup value with the table of the row that it refers to. Sent
/// with every query.
pub(crate) const ANNOTATIONS: &str =
    "odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\"";

/// The most operations in one batch (Dataverse facts §9).
pub const MOST_OPERATIONS: usize = 1_000;

/// One operation of a batch.
pub enum Operation {
    /// A query: path and query string below `/api/data/v9.2/`, percent-encoded.
    Get(String),
    /// Writes that succeed or fail together.
    ChangeSet(Vec<Change>),
}

/// Converts queries to operations. Each query comes with a value that says what it asks for.
pub(crate) fn gets<About>(queries: &[(About, String)]) -> Vec<Operation> {
    queries
        .iter()
        .map(|(_, path)| Operation::Get(path.clone()))
        .collect()
}

/// One write of a change set.
pub struct Change {
    /// `POST`, `PATCH`, or `DELETE`.
    pub method: &'static str,
    /// The path below `/api/data/v9.2/`.
    pub path: String,
    /// `If-Match`: `*` to update only, or a row's etag.
    pub(crate) if_match: Option<String>,
    /// The row; null if there is no body.
    pub body: Value,
}

/// The answer of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPart {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` of the part in seconds, if it has the header.
    pub retry_after_seconds: Option<u64>,
    /// JSON, or empty.
    pub body: Vec<u8>,
}

impl BatchPart {
    /// Returns whether the status is 2xx.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// The answer is not the multipart that its headers announce, or lacks the answer of an operation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch answer cannot be read: {0}")]
pub struct BatchError(&'static str);

/// Encodes the body of a batch request.
#[must_use]
pub fn encode(operations: &[Operation]) -> Vec<u8> {
    let mut out = String::new();
    // Unique in the whole batch: some clients restart the numbering in each change set, others say
    // that this is not allowed (Dataverse facts §9a).
    let mut content_id = 0_u32;
    for (index, operation) in operations.iter().enumerate() {
        out.push_str(&format!("--{BOUNDARY}\r\n"));
        match operation {
            Operation::Get(path) => {
                out.push_str(
                    "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n",
                );
                out.push_str(&format!(
                    "GET /api/data/v9.2/{path} HTTP/1.1\r\nAccept: application/json\r\n"
                ));
                out.push_str(&format!("Prefer: {ANNOTATIONS}\r\n\r\n"));
            }
            Operation::ChangeSet(changes) => {
                out.push_str(&format!(
                    "Content-Type: multipart/mixed; boundary=changeset_{index}\r\n\r\n"
                ));
                for change in changes {
                    content_id += 1;
                    encode_change(&mut out, change, index, content_id);
                }
                out.push_str(&format!("--changeset_{index}--\r\n"));
            }
        }
    }
    out.push_str(&format!("--{BOUNDARY}--\r\n"));
    out.into_bytes()
}

fn encode_change(out: &mut String, change: &Change, index: usize, content_id: u32) {
    let Change {
        method,
        path,
        if_match,
        body,
    } = change;
    out.push_str(&format!(
        "--changeset_{index}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n"
    ));
    out.push_str(&format!(
        "Content-ID: {content_id}\r\n\r\n{method} /api/data/v9.2/{path} HTTP/1.1\r\n"
    ));
    if !body.is_null() {
        out.push_str("Content-Type: application/json; type=entry\r\n");
    }
    if let Some(etag) = if_match {
        out.push_str(&format!("If-Match: {etag}\r\n"));
    }
    out.push_str("\r\n");
    if !body.is_null() {
        // Written in place, because a body can be large.
        let _always_fits = write!(out, "{body}\r\n");
    }
}

/// Decodes a batch answer. Returns the answers of the parts by operation: one for a GET, one or
/// more for a change set.
///
/// A failed change set has one part, its failure, whether or not Dataverse wraps it in its own
/// multipart (Dataverse facts §9a).
///
/// # Errors
/// [`BatchError`]: the result of every operation is unknown; repeat the batch.
pub fn decode(
    content_type: &str,
    body: &[u8],
    operations: usize,
) -> Result<Vec<Vec<BatchPart>>, BatchError> {
    let boundary = boundary(content_type).ok_or(BatchError("no boundary"))?;
    let answers = split(body, &boundary)?
        .into_iter()
        .map(read_part)
        .collect::<Result<Vec<_>, _>>()?;
    if answers.len() != operations || answers.iter().any(Vec::is_empty) {
        return Err(BatchError("not one answer for each operation"));
    }
    Ok(answers)
}

fn read_part(part: &[u8]) -> Result<Vec<BatchPart>, BatchError> {
    let (head, content) = head_and_rest(part)?;
    let content_type = header(head, "content-type").unwrap_or_default();
    if !content_type.to_ascii_lowercase().starts_with("multipart/") {
        return Ok(vec![read_http(content)?]);
    }
    let boundary = boundary(content_type).ok_or(BatchError("a change set without a boundary"))?;
    split(content, &boundary)?
        .into_iter()
        .map(|inner| read_http(head_and_rest(inner)?.1))
        .collect()
}

fn read_http(message: &[u8]) -> Result<BatchPart, BatchError> {
    let (head, body) = head_and_rest(message)?;
    let status_line = head
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/")
        .and_then(|rest| rest.split_whitespace().nth(1));
    let status = status
        .and_then(|code| code.parse().ok())
        .ok_or(BatchError("a part without a status"))?;
    let retry_after_seconds = header(head, "retry-after").and_then(|seconds| seconds.parse().ok());
    Ok(BatchPart {
        status,
        retry_after_seconds,
        body: body.trim_ascii().to_vec(),
    })
}

/// Returns the boundary parameter of a multipart content type, quoted or not.
fn boundary(content_type: &str) -> Option<String> {
    let value = content_type.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"'))
    })?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// Returns the parts between the delimiter lines of a multipart body.
fn split<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<&'a [u8]>, BatchError> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut part_start = None;
    let mut at = 0;
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |n| n + 1);
        let line = rest.get(..end).unwrap_or(rest).trim_ascii_end();
        let after = line.strip_prefix(delimiter.as_bytes());
        if matches!(after, Some(b"" | b"--")) {
            if let Some(start) = part_start {
                parts.push(body.get(start..at).unwrap_or_default());
            }
            if after == Some(b"--") {
                return Ok(parts);
            }
            part_start = Some(at + end);
        }
        at += end;
    }
    // The answer was cut off in transit. The missing results are unknown, so all are treated as
    // unknown.
    Err(BatchError("no closing boundary"))
}

/// Splits a message at its first empty line into headers and body.
fn head_and_rest(message: &[u8]) -> Result<(&str, &[u8]), BatchError> {
    let start = message
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .unwrap_or(message.len());
    let message = message.get(start..).unwrap_or_default();
    let find = |separator: &[u8]| {
        message
            .windows(separator.len())
            .position(|window| window == separator)
            .map(|at| (at, separator.len()))
    };
    let (at, length) = [find(b"\r\n\r\n"), find(b"\n\n")]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or((message.len(), 0));
    let head = std::str::from_utf8(message.get(..at).unwrap_or_default())
        .map_err(|_| BatchError("headers that are not text"))?;
    Ok((head, message.get(at + length..).unwrap_or_default()))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests;
