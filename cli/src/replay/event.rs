//! Reads saved events from files and detects their kind.
//!
//! | Content of the file | Kind |
//! | --- | --- |
//! | an object with `requestContext` | an HTTP event: function URL, HTTP API or REST API |
//! | an object whose `Records` come from `aws:sqs` | an SQS event |
//! | an object whose `source` is `aws.scheduler` or `aws.events` | a schedule event |
//! | anything else | the body of a delivery from Nylas; the receiver reports whether it is valid |

use std::path::{Path, PathBuf};

use aws_lambda_events::sqs::SqsEvent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lambda_http::Body;
use mailverse::clients::nylas::wire;
use mailverse::model::sync_request::SyncRequest;
use serde_json::{Value, json};
use webhook_receiver::LARGEST_BODY;
use webhook_receiver::gunzip::gunzip;

/// One saved event.
pub(crate) struct SavedEvent {
    /// The path of the file: as given, or below the folder that was given.
    pub(crate) file: String,
    pub(crate) kind: Kind,
}

/// The kind of an event, with its content.
pub(crate) enum Kind {
    /// The JSON text of an HTTP event.
    Http(String),
    Sqs(SqsEvent),
    Schedule(Value),
    /// The file looks like an SQS event but cannot be parsed; the text says why.
    Unreadable(String),
}

/// A path that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{}: {problem}", path.display())]
    Path { path: PathBuf, problem: String },
    #[error("{}: the folder has no *.json files", .0.display())]
    Empty(PathBuf),
}

/// Reads files and folders in the given order. The files of a folder are sorted by path.
///
/// # Errors
/// [`LoadError`]: a path cannot be read, or a folder has no `*.json` files.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<SavedEvent>, LoadError> {
    let mut events = Vec::new();
    for path in paths {
        let mut files = Vec::new();
        if path.is_dir() {
            collect(path, &mut files)?;
            if files.is_empty() {
                return Err(LoadError::Empty(path.clone()));
            }
            files.sort();
        } else {
            files.push(path.clone());
        }
        for file in files {
            let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, &error))?;
            events.push(SavedEvent {
                file: file.display().to_string(),
                kind: classify(&bytes),
            });
        }
    }
    Ok(events)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), LoadError> {
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let path = entry.path();
        // A symbolic link to a folder is not followed, so that a cycle of links cannot hang this.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> LoadError {
    LoadError::Path {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}

fn classify(bytes: &[u8]) -> Kind {
    let value = wire::json(bytes).unwrap_or(Value::Null);
    let from_sqs = |records: &Value| {
        records.pointer("/0/eventSource").and_then(Value::as_str) == Some("aws:sqs")
    };
    let source = value.get("source").and_then(Value::as_str);
    if value.get("requestContext").is_some() {
        Kind::Http(value.to_string())
    } else if value.get("Records").is_some_and(from_sqs) {
        match serde_json::from_value(value) {
            Ok(event) => Kind::Sqs(event),
            Err(error) => Kind::Unreadable(format!("not an SQS event: {error}")),
        }
    } else if matches!(source, Some("aws.scheduler" | "aws.events")) {
        Kind::Schedule(value)
    } else {
        Kind::Http(function_url_event(bytes))
    }
}

/// Returns the event that a function URL creates for a delivery with this body.
fn function_url_event(body: &[u8]) -> String {
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "replay.lambda-url.example.com"},
        "requestContext": {
            "accountId": "anonymous", "apiId": "replay", "domainName": "replay.lambda-url.example.com", "domainPrefix": "replay",
            "http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "replay"},
            "requestId": "replay", "routeKey": "$default", "stage": "$default", "time": "01/Jan/2026:00:00:00 +0000", "timeEpoch": 0,
        },
        "body": STANDARD.encode(body),
        "isBase64Encoded": true,
    })
    .to_string()
}

impl SavedEvent {
    /// Returns the notification inside an HTTP event; `None` for other kinds, or if it is not valid
    /// JSON.
    pub(crate) fn notification(&self) -> Option<Value> {
        let Kind::Http(event) = &self.kind else {
            return None;
        };
        let request = webhook_receiver::event::request(event).ok()?;
        let body: &[u8] = match request.body() {
            Body::Text(text) => text.as_bytes(),
            Body::Binary(bytes) => bytes,
            _ => return None,
        };
        let encoding = request.headers().get("content-encoding");
        if !encoding.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"gzip")) {
            return wire::json(body).ok();
        }
        wire::json(&gunzip(body, LARGEST_BODY).ok()?).ok()
    }

    /// Returns the valid sync requests of an SQS event; empty for other kinds.
    pub(crate) fn requests(&self) -> Vec<SyncRequest> {
        let Kind::Sqs(event) = &self.kind else {
            return Vec::new();
        };
        let bodies = event
            .records
            .iter()
            .filter_map(|record| record.body.as_deref());
        bodies
            .filter_map(|body| SyncRequest::from_body(body).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> &'static str {
        match classify(text.as_bytes()) {
            Kind::Http(_) => "http",
            Kind::Sqs(_) => "sqs",
            Kind::Schedule(_) => "schedule",
            Kind::Unreadable(_) => "unreadable",
        }
    }

    #[test]
    fn the_event_kind_is_detected_from_its_content() {
        assert_eq!(kind(r#"{"requestContext":{},"body":""}"#), "http");
        assert_eq!(
            kind(r#"{"Records":[{"eventSource":"aws:sqs","body":"x"}]}"#),
            "sqs"
        );
        assert_eq!(
            kind(r#"{"Records":[{"eventSource":"aws:sqs","body":7}]}"#),
            "unreadable"
        );
        assert_eq!(kind(r#"{"source":"aws.scheduler"}"#), "schedule");
        for body in [
            r#"{"type":"message.created","source":"/google/emails/realtime"}"#,
            "",
            "{",
            "[]",
            "\u{0}",
        ] {
            assert_eq!(kind(body), "http", "{body}");
        }
    }

    #[test]
    fn arbitrary_bytes_are_delivered_unchanged() {
        let body = [0xff, 0x00, b'{'];
        let Kind::Http(event) = classify(&body) else {
            panic!("expected an HTTP event")
        };
        let request = webhook_receiver::event::request(&event).unwrap();
        assert_eq!(request.body().as_ref(), body);
    }

    #[test]
    fn a_missing_path_and_an_empty_folder_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            load(&[folder.path().to_owned()]),
            Err(LoadError::Empty(_))
        ));
        assert!(matches!(
            load(&[folder.path().join("none.json")]),
            Err(LoadError::Path { .. })
        ));
    }

    #[test]
    fn only_the_json_files_of_a_folder_are_read_in_name_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["c.json", "b/a.json", "a.JSON", "README.md"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let events = load(&[folder.path().to_owned()]).unwrap();
        let names: Vec<&str> = events
            .iter()
            .map(|event| &event.file[folder.path().display().to_string().len() + 1..])
            .collect();
        assert_eq!(names, ["a.JSON", "b/a.json", "c.json"]);
    }
}
