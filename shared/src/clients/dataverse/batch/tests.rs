//! Tests of encoding and decoding: hand-written answers and property tests.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const OUTER: &str = "multipart/mixed; boundary=batchresponse_1";

fn answer_text(parts: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    for part in parts {
        text.push_str(&format!("--batchresponse_1\r\n{part}\r\n"));
    }
    text.push_str("--batchresponse_1--\r\n");
    text.into_bytes()
}

const ROWS: &str = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"value\":[]}";
const WRITTEN: &str = "Content-Type: multipart/mixed; boundary=\"changesetresponse_2\"\r\n\r\n--changesetresponse_2\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\nHTTP/1.1 204 No Content\r\nOData-EntityId: x\r\n\r\n\r\n--changesetresponse_2\r\nContent-Type: application/http\r\nContent-ID: 2\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\r\n--changesetresponse_2--";
const REFUSED: &str = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 9\r\n\r\n{\"error\":{}}";

#[test]
fn a_batch_has_the_documented_framing() {
    let change = |method, path: &str, if_match: Option<&str>| Change {
        method,
        path: path.to_owned(),
        if_match: if_match.map(str::to_owned),
        body: json!({"subject": "a\r\n--batch_mailverse--"}),
    };
    let operations = [
        Operation::Get("emails?$top=1".to_owned()),
        Operation::ChangeSet(vec![
            change("POST", "emails", None),
            change("PATCH", "emails(1)", Some("*")),
        ]),
    ];
    let text = String::from_utf8(encode(&operations)).unwrap();
    let expected = "--batch_mailverse\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nGET /api/data/v9.2/emails?$top=1 HTTP/1.1\r\nAccept: application/json\r\nPrefer: odata.include-annotations=\"Microsoft.Dynamics.CRM.lookuplogicalname\"\r\n\r\n--batch_mailverse\r\nContent-Type: multipart/mixed; boundary=changeset_1\r\n\r\n--changeset_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 1\r\n\r\nPOST /api/data/v9.2/emails HTTP/1.1\r\nContent-Type: application/json; type=entry\r\n\r\n{\"subject\":\"a\\r\\n--batch_mailverse--\"}\r\n--changeset_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 2\r\n\r\nPATCH /api/data/v9.2/emails(1) HTTP/1.1\r\nContent-Type: application/json; type=entry\r\nIf-Match: *\r\n\r\n{\"subject\":\"a\\r\\n--batch_mailverse--\"}\r\n--changeset_1--\r\n--batch_mailverse--\r\n";
    assert_eq!(text, expected);
}

#[test]
fn a_query_and_a_change_set_are_read_in_order() {
    let answers = decode(OUTER, &answer_text(&[ROWS, WRITTEN]), 2).unwrap();
    assert_eq!(
        answers[0],
        [BatchPart {
            status: 200,
            retry_after_seconds: None,
            body: b"{\"value\":[]}".to_vec()
        }]
    );
    assert_eq!(
        answers[1].iter().map(|a| a.status).collect::<Vec<_>>(),
        [204, 204]
    );
}

#[test]
fn a_failed_change_set_is_read_with_and_without_a_multipart_wrapper() {
    let bare = format!("Content-Type: application/http\r\n\r\n{REFUSED}");
    let wrapped = format!(
        "Content-Type: multipart/mixed; boundary=changesetresponse_3\r\n\r\n--changesetresponse_3\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\n{REFUSED}\r\n--changesetresponse_3--"
    );
    for part in [&bare, &wrapped] {
        let answers = decode(OUTER, &answer_text(&[part, ROWS]), 2).unwrap();
        assert_eq!(answers[0].len(), 1, "{part}");
        assert_eq!(
            (answers[0][0].status, answers[0][0].retry_after_seconds),
            (429, Some(9))
        );
    }
}

#[test]
fn a_truncated_or_incomplete_answer_is_rejected_as_a_whole() {
    let whole = answer_text(&[ROWS, WRITTEN]);
    for cut in 0..whole.len() - 4 {
        assert!(decode(OUTER, &whole[..cut], 2).is_err(), "cut at {cut}");
    }
    assert!(decode(OUTER, &whole, 3).is_err());
    assert!(decode("application/json", b"{}", 1).is_err());
}

/// Splits a multipart body by the rules of MIME, independently of the decoder under test: a
/// delimiter is CRLF, two dashes, the boundary, and CRLF again.
fn cut(body: &str, boundary: &str) -> Option<Vec<String>> {
    let body = format!("\r\n{body}");
    let delimiter = format!("\r\n--{boundary}");
    let pieces: Vec<&str> = body.split(&delimiter).collect();
    let ["", parts @ .., last] = pieces.as_slice() else {
        return None;
    };
    last.strip_prefix("--")?.trim().is_empty().then_some(())?;
    let parts = parts
        .iter()
        .map(|part| part.strip_prefix("\r\n").map(str::to_owned));
    parts.collect()
}

/// Returns the request line and the body of the operation in a part.
fn operation(part: &str) -> Option<(String, String)> {
    let (_, http) = part.split_once("\r\n\r\n")?;
    let (head, body) = http.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\r\n|\r|\n|--batch_mailverse|--changeset_[0-4]|--|-|HTTP/1.1 200 OK|DELETE /api/data/v9.2/emails HTTP/1.1|\"|\\\\|\u{2028}|.){0,20}",
    ]
}

/// Rows with hostile names and values, in the shape of an email with attachments.
fn row() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(hostile(), hostile(), 0..4).prop_map(|fields| json!(fields))
}

fn operations() -> impl Strategy<Value = Vec<Option<Vec<Value>>>> {
    let change_set = proptest::collection::vec(row(), 1..5);
    proptest::collection::vec(proptest::option::weighted(0.8, change_set), 0..6)
}

fn part_of_answer(answer: &BatchPart, id: usize) -> String {
    let wait = answer
        .retry_after_seconds
        .map_or_else(String::new, |n| format!("Retry-After: {n}\r\n"));
    let body = String::from_utf8(answer.body.clone()).unwrap();
    format!(
        "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: {id}\r\n\r\n\
         HTTP/1.1 {} Some Reason\r\nOData-Version: 4.0\r\n{wait}\r\n{body}\r\n",
        answer.status
    )
}

fn answer() -> impl Strategy<Value = BatchPart> {
    let wait = proptest::option::of(0..1_000_000_u64);
    let body = prop_oneof![
        Just(String::new()),
        hostile().prop_map(|text| json!({"error": {"message": text}}).to_string())
    ];
    (100..600_u16, wait, body).prop_map(|(status, retry_after_seconds, body)| BatchPart {
        status,
        retry_after_seconds,
        body: body.into_bytes(),
    })
}

proptest! {
    #[test]
    fn no_content_breaks_the_framing(operations in operations()) {
        let batch: Vec<Operation> = operations.iter().enumerate().map(|(n, rows)| match rows {
            None => Operation::Get(format!("emails?n={n}")),
            Some(rows) => Operation::ChangeSet(rows.iter().map(|row| Change {
                method: "POST", path: format!("emails({n})"), if_match: None, body: row.clone(),
            }).collect()),
        }).collect();
        let text = String::from_utf8(encode(&batch)).unwrap();
        let parts = cut(&text, BOUNDARY).unwrap_or_default();
        prop_assert_eq!(parts.len(), operations.len());
        let mut ids = std::collections::HashSet::new();
        for (n, (part, rows)) in parts.iter().zip(&operations).enumerate() {
            let Some(rows) = rows else {
                let expected = format!("GET /api/data/v9.2/emails?n={n} HTTP/1.1");
                prop_assert_eq!(operation(&format!("{part}\r\n")).unwrap(), (expected, String::new()));
                continue;
            };
            let (head, inner) = part.split_once("\r\n\r\n").unwrap();
            let boundary = head.split_once("boundary=").unwrap().1;
            let changes = cut(inner, boundary).unwrap();
            prop_assert_eq!(changes.len(), rows.len());
            for (change, row) in changes.iter().zip(rows) {
                let id = change.lines().find_map(|line| line.strip_prefix("Content-ID: ")).unwrap();
                prop_assert!(ids.insert(id.to_owned()), "{} twice in one batch", id);
                let (line, body) = operation(change).unwrap();
                prop_assert_eq!(line, format!("POST /api/data/v9.2/emails({n}) HTTP/1.1"));
                prop_assert!(!body.contains(['\r', '\n']));
                prop_assert_eq!(&serde_json::from_str::<Value>(&body).unwrap(), row);
            }
        }
    }

    #[test]
    fn every_well_formed_answer_is_read_back_unchanged(
        answers in proptest::collection::vec(proptest::collection::vec(answer(), 1..4), 0..6),
        boundary in "[A-Za-z0-9'()+_,./:=? -]{0,60}[A-Za-z0-9]", quoted in any::<bool>(), line_feeds in any::<bool>(), wrapped in any::<bool>(),
    ) {
        // Commas, blanks and similar characters are allowed only in a quoted boundary (RFC 2046).
        let boundary = if quoted { boundary } else { boundary.replace(|c: char| !c.is_ascii_alphanumeric(), "_") };
        let named = if quoted { format!("\"{boundary}\"") } else { boundary.clone() };
        let mut text = "\r\n".to_owned();
        for (n, parts) in answers.iter().enumerate() {
            text += &format!("--{boundary}\r\n");
            match parts.as_slice() {
                [one] if !wrapped => text += &part_of_answer(one, n),
                several => {
                    text += &format!("Content-Type: multipart/mixed; boundary=changesetresponse_{n}\r\n\r\n");
                    for (id, part) in several.iter().enumerate() {
                        text += &format!("--changesetresponse_{n}\r\n{}", part_of_answer(part, id));
                    }
                    text += &format!("--changesetresponse_{n}--\r\n");
                }
            }
        }
        text += &format!("--{boundary}--\r\n");
        if line_feeds {
            text = text.replace("\r\n", "\n");
        }
        let content_type = format!("multipart/mixed; charset=utf-8; boundary={named}");
        prop_assert_eq!(decode(&content_type, text.as_bytes(), answers.len()), Ok(answers.clone()), "{}", text);
        prop_assert!(decode(&content_type, text.as_bytes(), answers.len() + 1).is_err());
    }

    #[test]
    fn no_answer_makes_the_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..300), text in "(--batchresponse_1(--)?|\r\n|\n|HTTP/1.1 200|Content-Type: multipart/mixed; boundary=b|x){0,12}") {
        let _ = decode(OUTER, &body, 1);
        let _ = decode(OUTER, text.as_bytes(), 1);
    }
}
