//! An operator's request, as a direct invocation or as an HTTP call to the function's URL, and the
//! answer to it.
//!
//! ```json
//! {"mailboxes": ["ada@example.com", "1e3288f6-…"], "received_after": "2025-05-01T00:00:00Z",
//!  "received_before": 1790000000, "folder": "Sent", "dry_run": false}
//! ```
//!
//! `mailboxes` is a list of addresses and grant ids, or `"all"` for every mailbox that takes part.
//! Times are RFC 3339 or Unix seconds. Only `mailboxes` and `received_after` are required. The
//! answer contains the id of the run; `{"run_id": "…"}` requests its progress. An invalid request
//! gets `{"error": "…", "field": "…"}`, over HTTP with status 400. If a service is unavailable, the
//! answer is `{"error": "…"}`, with status 503. No answer, log or queue message contains an
//! address: a mailbox is identified by its position in the list.

use chrono::{DateTime, Utc};
use mailverse::clients::nylas::wire::Grant;
use mailverse::ledger::backfill_runs::{Coverage, Progress, RunId, TaskState};
use mailverse::model::address::EmailAddress;
use mailverse::model::ids::GrantId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plan::is_readable;
use crate::task::{Kind, Task, digest};

/// The fields of a request that starts a run.
const FIELDS: [&str; 5] = [
    "mailboxes",
    "received_after",
    "received_before",
    "folder",
    "dry_run",
];

/// An invalid request. Nothing was started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field that is wrong.
    pub field: String,
    /// The problem, without quoting the value.
    pub problem: String,
}

fn invalid(field: &str, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

/// An operator's request.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Start a run.
    Begin(Wanted),
    /// Report the progress of a run.
    Ask(RunId),
}

/// What a run should list.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The mailboxes; `None` for all that take part.
    mailboxes: Option<Vec<Named>>,
    /// List messages received after this time, in Unix seconds.
    received_after: i64,
    /// List messages received before this time, in Unix seconds; `None` for no limit.
    received_before: Option<i64>,
    /// The digest of the folder; `None` for all folders.
    folder: Option<String>,
    /// Whether to write nothing.
    dry_run: bool,
}

/// A mailbox, as the operator named it.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    grant_id: Option<GrantId>,
    address: Option<EmailAddress>,
}

impl Named {
    fn is(&self, grant: &Grant) -> bool {
        self.grant_id.as_ref() == Some(&grant.id)
            || (self.address.is_some() && self.address == grant.address)
    }
}

/// The progress of a run. It contains only times, ids and numbers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The id of the run.
    pub run_id: RunId,
    /// Whether this is a dry run, which writes nothing.
    pub dry_run: bool,
    /// The time from which messages are listed, in Unix seconds.
    pub received_after: i64,
    /// Whether every mailbox was listed to its end or failed. A parked mailbox has not ended: it
    /// waits for its user to sign in again.
    #[serde(rename = "ended")]
    pub finished: bool,
    /// The progress of each mailbox.
    pub tasks: Vec<TaskAnswer>,
    /// Messages that are in Dataverse; in a dry run, those that would be.
    pub synced: u64,
    /// Messages that the policy skips.
    pub skipped: u64,
    /// Messages that were sent to the sync queue when their page was processed; `mailverse status`
    /// shows their later state. In a dry run, those whose outcome cannot be predicted.
    pub waiting: u64,
    /// Messages that cannot be written.
    pub dead: u64,
    /// Messages in the lists.
    pub total_emails: u64,
}

/// The progress of one mailbox.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAnswer {
    /// The grant of the mailbox.
    pub grant_id: GrantId,
    /// The state of the task.
    pub state: TaskState,
    /// The date that the list has reached, going back in time, in Unix seconds; `None` before the
    /// first page.
    pub reached: Option<i64>,
    /// Why the task failed or is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The counts so far.
    #[serde(flatten)]
    pub coverage: Coverage,
}

impl Request {
    /// Parses a request.
    ///
    /// # Errors
    /// [`Invalid`] has the field and the problem.
    pub fn read(body: &Value, now: DateTime<Utc>) -> Result<Self, Invalid> {
        let Value::Object(fields) = body else {
            return Err(invalid("body", "it is not a JSON object"));
        };
        if let Some(run_id) = fields.get("run_id") {
            if let Some(other) = fields.keys().find(|name| *name != "run_id") {
                return Err(invalid(other, "it cannot be combined with run_id"));
            }
            let id = run_id.as_str().and_then(|text| text.parse().ok());
            return id
                .map(Self::Ask)
                .ok_or_else(|| invalid("run_id", "it is not the id of a run"));
        }
        if fields.keys().any(|name| !FIELDS.contains(&name.as_str())) {
            let known = FIELDS.join(", ");
            // The name is not repeated: it may be a value in the wrong place.
            return Err(invalid(
                "body",
                format!("it has an unknown field; the fields are {known}, run_id"),
            ));
        }
        let received_after = time(fields, "received_after", now)?
            .ok_or_else(|| invalid("received_after", "it is missing"))?;
        let received_before = time(fields, "received_before", now)?;
        if received_before.is_some_and(|before| before <= received_after) {
            return Err(invalid("received_before", "it is not after received_after"));
        }
        Ok(Self::Begin(Wanted {
            mailboxes: mailboxes(fields.get("mailboxes"))?,
            received_after,
            received_before,
            folder: folder(fields.get("folder"))?,
            dry_run: match fields.get("dry_run") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(dry_run)) => *dry_run,
                Some(_) => return Err(invalid("dry_run", "it must be true or false")),
            },
        }))
    }
}

/// The part of a request that is stored for progress reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Whether this is a dry run, which writes nothing.
    pub dry_run: bool,
    /// The time from which messages are listed, in Unix seconds.
    pub received_after: i64,
}

impl Wanted {
    /// Returns the part of the request that is stored.
    #[must_use]
    pub const fn asked(&self) -> Asked {
        Asked {
            dry_run: self.dry_run,
            received_after: self.received_after,
        }
    }

    /// Returns a task for each requested mailbox, and whether the mailbox can be read now. `grants`
    /// take part, `excluded` do not.
    ///
    /// # Errors
    /// [`Invalid`]: the request names a mailbox that is not connected or does not take part.
    pub fn tasks(
        &self,
        grants: &[Grant],
        excluded: &[Grant],
        run_id: RunId,
        now: DateTime<Utc>,
    ) -> Result<Vec<(Task, bool)>, Invalid> {
        for (place, named) in self.mailboxes.iter().flatten().enumerate() {
            if !grants.iter().any(|grant| named.is(grant)) {
                let field = format!("mailboxes[{place}]");
                let problem = if excluded.iter().any(|grant| named.is(grant)) {
                    "this mailbox does not take part: add it to the setting MAILBOXES"
                } else {
                    "no connected mailbox has this address or grant id"
                };
                return Err(invalid(&field, problem));
            }
        }
        let meant = |grant: &&Grant| match &self.mailboxes {
            Some(named) => named.iter().any(|named| named.is(grant)),
            None => grant.address.is_some(),
        };
        let task = |grant: &Grant| {
            let task = Task {
                received_before: self.received_before,
                folder: self.folder.clone(),
                dry_run: self.dry_run,
                ..Task::new(run_id, Kind::History, grant, self.received_after, now)
            };
            (task, is_readable(grant))
        };
        Ok(grants.iter().filter(meant).map(task).collect())
    }
}

impl Answer {
    /// Creates the progress report of a run.
    #[must_use]
    pub fn new(run_id: RunId, asked: Asked, tasks: Vec<(GrantId, Progress)>) -> Self {
        let all = tasks.iter().fold(Coverage::default(), |sum, (_, task)| {
            sum.plus(&task.coverage)
        });
        Self {
            run_id,
            dry_run: asked.dry_run,
            received_after: asked.received_after,
            finished: tasks.iter().all(|(_, task)| task.state.is_final()),
            synced: all.written,
            skipped: all.skipped,
            waiting: all.waiting,
            dead: all.dead,
            total_emails: all.listed,
            tasks: tasks
                .into_iter()
                .map(|(grant_id, task)| TaskAnswer {
                    grant_id,
                    state: task.state,
                    reached: task.position.reached,
                    reason: task.reason,
                    coverage: task.coverage,
                })
                .collect(),
        }
    }
}

fn mailboxes(value: Option<&Value>) -> Result<Option<Vec<Named>>, Invalid> {
    let wrong = || {
        invalid(
            "mailboxes",
            "it must be \"all\" or a list of addresses and grant ids",
        )
    };
    match value {
        None | Some(Value::Null) => Err(invalid("mailboxes", "it is missing")),
        Some(Value::String(all)) if all == "all" => Ok(None),
        Some(Value::Array(named)) if !named.is_empty() => {
            let named = named.iter().enumerate().map(|(place, value)| {
                let text = value.as_str().map(str::trim).unwrap_or_default();
                let named = Named {
                    grant_id: text.parse().ok(),
                    address: EmailAddress::parse(text),
                };
                if named.grant_id.is_none() {
                    let field = format!("mailboxes[{place}]");
                    return Err(invalid(&field, "it must be an address or a grant id"));
                }
                Ok(named)
            });
            named.collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(wrong()),
    }
}

/// Parses an RFC 3339 time or Unix seconds. Valid are times from 1970 until a day after `now`.
fn time(
    fields: &Map<String, Value>,
    name: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Invalid> {
    let seconds = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|time| time.timestamp()),
        Some(_) => None,
    };
    let latest = now.timestamp() + 86_400;
    match seconds {
        Some(seconds) if (0..=latest).contains(&seconds) => Ok(Some(seconds)),
        Some(_) => Err(invalid(name, "it is before 1970 or in the future")),
        None => Err(invalid(name, "it must be an RFC 3339 time or Unix seconds")),
    }
}

fn folder(value: Option<&Value>) -> Result<Option<String>, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(folder)) if !folder.trim().is_empty() => Ok(Some(digest(folder))),
        Some(_) => Err(invalid(
            "folder",
            "it must be the name, id or attribute of a folder",
        )),
    }
}

#[cfg(test)]
mod tests {
    use mailverse::clients::nylas::wire;
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_154_400, 0).unwrap()
    }

    fn read(body: &Value) -> Result<Request, Invalid> {
        Request::read(body, now())
    }

    fn wanted(body: &Value) -> Wanted {
        match read(body) {
            Ok(Request::Begin(wanted)) => wanted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn times_are_rfc_3339_or_unix_seconds() {
        for after in [
            json!("2023-11-14T22:13:20Z"),
            json!("2023-11-14T23:13:20+01:00"),
            json!(1_700_000_000),
        ] {
            let wanted = wanted(&json!({"mailboxes": "all", "received_after": after}));
            assert_eq!(wanted.received_after, 1_700_000_000);
        }
    }

    #[test]
    fn an_invalid_value_is_rejected_with_the_name_of_its_field() {
        let good = json!({"mailboxes": "all", "received_after": 1});
        for (field, value, named) in [
            ("mailboxes", json!([]), "mailboxes"),
            ("mailboxes", json!("some"), "mailboxes"),
            ("mailboxes", Value::Null, "mailboxes"),
            ("mailboxes", json!(["ada@example.com", 7]), "mailboxes[1]"),
            ("received_after", Value::Null, "received_after"),
            ("received_after", json!("yesterday"), "received_after"),
            ("received_after", json!(-1), "received_after"),
            ("received_after", json!(9_999_999_999_i64), "received_after"),
            ("received_before", json!(1), "received_before"),
            ("received_before", json!({}), "received_before"),
            ("folder", json!(" "), "folder"),
            ("dry_run", json!("yes"), "dry_run"),
            ("since", json!(1), "body"),
            (
                "run_id",
                json!("11111111-2222-4333-8444-555555555555"),
                "mailboxes",
            ),
        ] {
            let mut body = good.clone();
            body[field] = value.clone();
            assert_eq!(read(&body).unwrap_err().field, named, "{field} {value}");
        }
        assert_eq!(read(&json!({"run_id": "x"})).unwrap_err().field, "run_id");
        assert_eq!(read(&json!("all")).unwrap_err().field, "body");
    }

    #[test]
    fn a_mailbox_is_found_by_address_or_grant_id_and_an_unknown_one_is_not_quoted() {
        let grants: Vec<Grant> = [
            json!({"id": "a", "email": "Ada@example.com", "grant_status": "valid"}),
            json!({"id": "b", "email": "ben@example.com", "grant_status": "invalid"}),
            json!({"id": "c", "grant_status": "valid"}),
        ]
        .iter()
        .filter_map(wire::grant)
        .collect();
        let external_row = wire::grant(&json!({"id": "d", "email": "dan@theirs.example"}));
        let excluded: Vec<Grant> = external_row.into_iter().collect();
        let run_id = RunId::new("11111111-2222-4333-8444-555555555555".parse().unwrap());
        let tasks = |mailboxes: Value| {
            let wanted = wanted(&json!({"mailboxes": mailboxes, "received_after": 1}));
            let tasks = wanted.tasks(&grants, &excluded, run_id, now())?;
            let shown = tasks
                .iter()
                .map(|(task, now)| (task.grant_id.to_string(), *now));
            Ok::<_, Invalid>(shown.collect::<Vec<_>>())
        };
        let (ada, ben) = (("a".to_owned(), true), ("b".to_owned(), false));
        assert_eq!(tasks(json!("all")).unwrap(), [ada.clone(), ben.clone()]);
        assert_eq!(
            tasks(json!(["ada@EXAMPLE.com", "b", "a"])).unwrap(),
            [ada, ben]
        );
        let unknown = tasks(json!(["b", "eve@example.com"])).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "mailboxes[1]: no connected mailbox has this address or grant id"
        );
        for excluded in ["Dan@theirs.example", "d"] {
            let error = tasks(json!([excluded])).unwrap_err();
            assert_eq!(error.field, "mailboxes[0]");
            assert!(error.problem.contains("does not take part"), "{error}");
            assert!(!error.to_string().contains("theirs"), "{error}");
        }
    }
}
