//! Parses the body of a `$batch` request (Dataverse facts §9, §9a and §19 rule 11).
//!
//! Only CRLF ends a line. Empty lines may precede the first boundary. A part without a body needs
//! one empty line after its headers, which may be the one before the next boundary. URLs may have
//! unencoded spaces. The whole body is parsed before the first operation runs, so a malformed batch
//! changes nothing (inferred).

use std::collections::HashSet;

use axum::http::Method;

use super::operation::{LONGEST_URL_IN_BATCH, Operation};
use super::path;
use super::refusal::Refusal;

/// The largest number of operations in one batch.
const MOST_OPERATIONS: usize = 1_000;

/// One item of a batch: a single operation or a change set.
#[derive(Debug)]
pub(crate) enum Item {
    Single(Part),
    ChangeSet(Vec<Part>),
}

/// One operation and its Content-ID, which its response repeats.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) content_id: Option<String>,
    pub(crate) operation: Operation,
}

fn malformed(detail: &str) -> Refusal {
    Refusal::payload("$batch", format!("the batch is malformed: {detail}."))
}

/// Parses a whole batch.
pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<Vec<Item>, Refusal> {
    let boundary = boundary(content_type)
        .ok_or_else(|| malformed("Content-Type must be multipart/mixed with a boundary"))?;
    let mut items = Vec::new();
    let mut operations = 0;
    for part in parts(body, &boundary)? {
        let (headers, content) = head(part)?;
        let item = match boundary_of(&headers) {
            Some(inner) => Item::ChangeSet(change_set(content, &inner)?),
            None => Item::Single(single(&headers, content)?),
        };
        operations += match &item {
            Item::Single(_) => 1,
            Item::ChangeSet(parts) => parts.len(),
        };
        items.push(item);
    }
    if operations > MOST_OPERATIONS {
        return Err(malformed("it has more than 1000 operations"));
    }
    Ok(items)
}

fn change_set(content: &[u8], boundary: &str) -> Result<Vec<Part>, Refusal> {
    let mut seen = HashSet::new();
    let mut operations = Vec::new();
    for part in parts(content, boundary)? {
        let (headers, content) = head(part)?;
        if boundary_of(&headers).is_some() {
            return Err(malformed("a change set stands inside a change set"));
        }
        let part = single(&headers, content)?;
        let Some(content_id) = part.content_id.clone().filter(|id| !id.is_empty()) else {
            return Err(Refusal::query(
                "The 'Content-ID' header is required for each operation in a change set.",
            ));
        };
        if !seen.insert(content_id.clone()) {
            // That the Content-ID must be unique is verified, the code is inferred.
            return Err(Refusal::query(format!(
                "The content ID '{content_id}' was found more than once."
            )));
        }
        if part.operation.method == Method::GET {
            return Err(malformed(
                "a change set takes POST, PUT, PATCH and DELETE, not GET",
            ));
        }
        operations.push(part);
    }
    Ok(operations)
}

type Headers = Vec<(String, String)>;

fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn boundary_of(headers: &Headers) -> Option<String> {
    header(headers, "content-type").and_then(boundary)
}

/// Returns the boundary of a `multipart/mixed` content type, with or without quotes, or `None` if
/// it is another type or has no valid boundary.
fn boundary(content_type: &str) -> Option<String> {
    let mut fields = content_type.split(';').map(str::trim);
    if !fields.next()?.eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let value = fields.find_map(|field| {
        let (name, value) = field.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    })?;
    // MIME allows at most 70 characters.
    (1..=70).contains(&value.len()).then_some(value)
}

/// Splits a multipart body at its boundaries.
fn parts<'b>(body: &'b [u8], boundary: &str) -> Result<Vec<&'b [u8]>, Refusal> {
    let dashes = format!("--{boundary}");
    let mut rest = body;
    while let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let mut rest = rest
        .strip_prefix(dashes.as_bytes())
        .ok_or_else(|| malformed("it does not start with its boundary; lines must end in CRLF"))?;
    let delimiter = format!("\r\n{dashes}");
    let mut parts = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"--") {
            // MIME allows any text after the end. It is rejected here, because a part whose
            // boundary was not recognised would silently be lost in it.
            return if parts.is_empty() || !is_blank(after) {
                Err(malformed("it has no parts or no end"))
            } else {
                Ok(parts)
            };
        }
        rest = rest
            .strip_prefix(b"\r\n")
            .ok_or_else(|| malformed("a boundary is not followed by CRLF"))?;
        let end = next_boundary(rest, delimiter.as_bytes())
            .ok_or_else(|| malformed("the final boundary is missing"))?;
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after.get(delimiter.len()..).unwrap_or_default();
    }
}

/// Returns whether the text has only empty lines.
fn is_blank(mut text: &[u8]) -> bool {
    while let Some(after) = text.strip_prefix(b"\r\n") {
        text = after;
    }
    text.is_empty()
}

/// Returns the position of the next boundary line. A longer boundary with the same start is a
/// different boundary.
fn next_boundary(body: &[u8], delimiter: &[u8]) -> Option<usize> {
    body.windows(delimiter.len())
        .enumerate()
        .filter(|(_, window)| *window == delimiter)
        .map(|(at, _)| at)
        .find(|at| {
            let after = body.get(at + delimiter.len()..).unwrap_or_default();
            after.starts_with(b"\r\n") || after.starts_with(b"--")
        })
}

/// Splits a part into its headers, with names in lower case, and the text after the empty line.
fn head(part: &[u8]) -> Result<(Headers, &[u8]), Refusal> {
    let mut headers = Vec::new();
    let mut rest = part;
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line.is_empty() {
            return Ok((headers, rest));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("a header has no colon"))?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        // The empty line after the headers may be the one before the next boundary.
        if rest.is_empty() {
            return Ok((headers, rest));
        }
    }
}

/// Splits off one line that ends in CRLF.
fn line(text: &[u8]) -> Result<(&str, &[u8]), Refusal> {
    let end = text
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .ok_or_else(|| malformed("a line does not end in CRLF"))?;
    let (line, after) = text.split_at(end);
    let line = std::str::from_utf8(line).map_err(|_| malformed("a line is not UTF-8"))?;
    if line.contains(['\n', '\r']) {
        return Err(malformed("a line does not end in CRLF"));
    }
    Ok((line, after.get(2..).unwrap_or_default()))
}

fn single(headers: &Headers, content: &[u8]) -> Result<Part, Refusal> {
    let kind = header(headers, "content-type").unwrap_or_default();
    if !kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/http"))
    {
        return Err(malformed(
            "a part is neither application/http nor a change set",
        ));
    }
    if !header(headers, "content-transfer-encoding")
        .is_some_and(|encoding| encoding.eq_ignore_ascii_case("binary"))
    {
        return Err(malformed(
            "a part has no 'Content-Transfer-Encoding: binary'",
        ));
    }
    let (request, rest) = line(content)?;
    let (method, url) = request_line(request)?;
    let (inner, body) = if rest.is_empty() {
        (Vec::new(), rest)
    } else {
        head(rest)?
    };
    if matches!(method, Method::GET | Method::DELETE) && !is_blank(body) {
        return Err(malformed(
            "a GET or DELETE has a body, or the next boundary is none",
        ));
    }
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let path = match path::below_root(path) {
        Some(below) => below.to_owned(),
        // A reference (`$1`) to a row that an earlier operation of the change set created.
        None if path.starts_with('$') && path != "$batch" => path.to_owned(),
        None => {
            return Err(Refusal::query(format!(
                "The address '{path}' does not lie below {}.",
                path::ROOT
            )));
        }
    };
    if path == "$batch" {
        return Err(malformed("a batch stands inside a batch"));
    }
    let operation = Operation {
        method,
        path,
        query: query.to_owned(),
        headers: inner,
        body: body.to_vec(),
    };
    Ok(Part {
        content_id: header(headers, "content-id").map(str::to_owned),
        operation,
    })
}

/// Returns the method and URL of a request line. The URL is everything between the first and the
/// last space, because Microsoft's own client sends unencoded spaces in it.
fn request_line(line: &str) -> Result<(Method, &str), Refusal> {
    let (method, rest) = line
        .split_once(' ')
        .ok_or_else(|| malformed("a request line has no address"))?;
    let (url, version) = rest
        .rsplit_once(' ')
        .ok_or_else(|| malformed("a request line has no version"))?;
    if version != "HTTP/1.1" {
        return Err(malformed("a request line does not end in HTTP/1.1"));
    }
    let method = match method {
        "GET" => Method::GET,
        "POST" => Method::POST,
        "PATCH" => Method::PATCH,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        other => return Err(malformed(&format!("'{other}' is no method"))),
    };
    if url.len() > LONGEST_URL_IN_BATCH {
        return Err(Refusal::query(
            "The address is longer than 65536 characters.",
        ));
    }
    Ok((method, url))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n\
                       GET /api/data/v9.2/contacts?$select=fullname HTTP/1.1\r\n";

    fn batch(body: &str) -> Result<Vec<Item>, Refusal> {
        parse("multipart/mixed; boundary=b", body.as_bytes())
    }

    fn operation(items: &[Item]) -> &Operation {
        match &items[0] {
            Item::Single(part) => &part.operation,
            Item::ChangeSet(parts) => &parts[0].operation,
        }
    }

    #[test]
    fn a_get_part_needs_only_one_empty_line() {
        for ending in [
            "\r\n--b--",
            "\r\n\r\n--b--\r\n",
            "Accept: application/json\r\n\r\n--b--",
            "\r\n\r\n\r\n--b--",
        ] {
            let items = batch(&format!("--b\r\n{GET}{ending}")).unwrap();
            assert_eq!(operation(&items).path, "contacts", "{ending:?}");
            assert_eq!(operation(&items).query, "$select=fullname");
        }
        assert!(
            batch(&format!("--b\r\n{GET}--b--")).is_err(),
            "an empty line is required"
        );
    }

    #[test]
    fn a_batch_may_start_with_an_empty_line_and_contain_line_feeds_in_json() {
        let post = GET.replace("GET", "POST");
        let text = format!(
            "\r\n--b\r\n{post}Content-Type: application/json\r\n\r\n{{\n \"a\": 1\n}}\r\n--b--\r\n"
        );
        assert_eq!(operation(&batch(&text).unwrap()).body, b"{\n \"a\": 1\n}");
    }

    #[test]
    fn urls_with_spaces_and_absolute_urls_are_accepted() {
        let text = GET.replace(
            "/api/data/v9.2/contacts?$select=fullname",
            "https://any.example/api/data/v9.2/contacts?$filter=a eq 'b c'",
        );
        assert_eq!(
            operation(&batch(&format!("--b\r\n{text}\r\n--b--")).unwrap()).query,
            "$filter=a eq 'b c'"
        );
    }

    #[test]
    fn a_malformed_batch_is_rejected() {
        let good = format!("--b\r\n{GET}\r\n--b--");
        for bad in [
            good.replace("\r\n", "\n"),
            good.replace("--b--", ""),
            good.replace("--b--", "--c--"),
            good.replacen("--b\r\n", "", 1),
            good.replacen("--b\r\n", "text\r\n--b\r\n", 1),
            good.replace("HTTP/1.1", "HTTP/1.0"),
            good.replace("GET", "HEAD"),
            good.replace("application/http", "application/json"),
            good.replace("Content-Transfer-Encoding: binary\r\n", ""),
            good.replace("contacts?$select=fullname", "$batch"),
            good.replace("binary\r\n", "binary\n"),
            "--b--".to_owned(),
            "--b\r\n--b--".to_owned(),
            String::new(),
        ] {
            assert_eq!(batch(&bad).unwrap_err().status, 400, "{bad}");
        }
        assert!(parse("multipart/mixed", good.as_bytes()).is_err());
        assert!(parse("application/json; boundary=b", good.as_bytes()).is_err());
        assert!(parse("multipart/mixed; boundary=\"b\"", good.as_bytes()).is_ok());
        assert_eq!(
            batch(&good.replace("/api/data/v9.2/contacts", "contacts"))
                .unwrap_err()
                .code,
            "0x80060888"
        );
    }

    #[test]
    fn a_change_set_needs_unique_content_ids_and_contains_no_reads() {
        let change_set = |operations: &str| {
            batch(&format!(
                "--b\r\nContent-Type: multipart/mixed; boundary=bc\r\n\r\n{operations}--bc--\r\n\r\n--b--"
            ))
        };
        let operation = |method: &str, id: &str| {
            format!(
                "--bc\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n{id}\r\n\
                     {method} /api/data/v9.2/emails HTTP/1.1\r\n\r\n\r\n"
            )
        };
        let (first, second) = (
            operation("POST", "Content-ID: 1\r\n"),
            operation("POST", "Content-ID: 2\r\n"),
        );
        let items = change_set(&format!("{first}{second}")).unwrap();
        assert!(matches!(items.as_slice(), [Item::ChangeSet(parts)] if parts.len() == 2));
        assert_eq!(
            change_set(&operation("POST", "")).unwrap_err().code,
            "0x80060888"
        );
        assert_eq!(
            change_set(&format!("{first}{first}")).unwrap_err().status,
            400
        );
        assert_eq!(
            change_set(&operation("GET", "Content-ID: 1\r\n"))
                .unwrap_err()
                .code,
            "0x80048d19"
        );
    }

    #[test]
    fn a_batch_has_at_most_one_thousand_operations() {
        let one = format!("--b\r\n{GET}\r\n");
        assert!(batch(&format!("{}--b--", one.repeat(1_000))).is_ok());
        assert!(batch(&format!("{}--b--", one.repeat(1_001))).is_err());
    }
}
