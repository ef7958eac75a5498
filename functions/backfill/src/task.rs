//! The message on the backfill queue: one mailbox to list, described by ids and times.
//!
//! ```json
//! {"version":1,"run_id":"…","kind":"history","grant_id":"1e3288f6-…",
//!  "received_after":1700000000,"received_before":null,"folder":null,
//!  "past_cache":false,"dry_run":false,"planned_at":1795154400}
//! ```
//!
//! A folder is identified by a digest of the operator's name for it: the id of a folder of the IMAP
//! family is its name, and names are not put on the queue.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::nylas::wire::{Folder, Grant};
use mailverse::ledger::backfill_runs::{RunId, TaskKey};
use mailverse::ledger::mailbox_state::Lists;
use mailverse::model::ids::GrantId;
use mailverse::model::sync_request::json_problem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The version of the format that this build writes and reads.
const VERSION: u8 = 1;

/// How far back Nylas caches mail of the IMAP family (Nylas facts §16), less a day. Older mail has
/// to be requested from the mail server.
const CACHE: TimeDelta = TimeDelta::days(89);

/// How much of that may have left the cache by the time the task is worked on: a parked task waits
/// for a user to sign in.
const PARKED: TimeDelta = TimeDelta::days(30);

/// How far the lists of the mail server overlap the cache.
const INTO_CACHE: TimeDelta = TimeDelta::days(1);

/// Returns the time before which mail of the IMAP family is requested from the mail server, in Unix
/// seconds. It is the end of a day, so that a list that continues from a cursor keeps its bounds.
#[must_use]
pub fn cache_limit(now: DateTime<Utc>) -> i64 {
    const DAY: i64 = 24 * 60 * 60;
    let bound = (now - CACHE + INTO_CACHE).timestamp();
    (bound.div_euclid(DAY) + 1) * DAY
}

/// Why a mailbox is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Scheduled: since the watermark.
    Recent,
    /// Scheduled: for the number of days in the event.
    Days,
    /// Requested by an operator.
    History,
}

impl Kind {
    /// Returns whether the schedule plans this again by itself, so that a failed task may be
    /// dropped.
    #[must_use]
    pub const fn is_scheduled(self) -> bool {
        matches!(self, Self::Recent | Self::Days)
    }

    /// Returns for which kind of run the mailbox is leased.
    #[must_use]
    pub const fn lists(self) -> Lists {
        if self.is_scheduled() {
            Lists::Schedule
        } else {
            Lists::Operator
        }
    }
}

/// One mailbox to list. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The run that the task belongs to.
    pub run_id: RunId,
    /// Why the mailbox is listed.
    pub kind: Kind,
    /// The grant of the mailbox.
    pub grant_id: GrantId,
    /// Only messages received after this time.
    pub received_after: i64,
    /// Only messages received before this time; `None` for no limit.
    pub received_before: Option<i64>,
    /// The [`digest`] of the folder to list; `None` for all folders.
    pub folder: Option<String>,
    /// Whether the task reaches beyond what Nylas caches of the IMAP family, or will by the time
    /// that it is worked on.
    pub past_cache: bool,
    /// Whether to only preview the outcomes and write nothing.
    pub dry_run: bool,
    /// When the task was planned.
    pub planned_at: i64,
}

#[derive(Deserialize)]
struct Version {
    version: u8,
}

/// Why a queue message is not a task. Report it as failed, so that it moves to the dead-letter
/// queue unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TaskParseError {
    /// The body is not the JSON of a task.
    #[error("not a backfill task: {0}")]
    Unreadable(String),
    /// The task was written by another version of mailverse.
    #[error("a backfill task of version {0}; this build reads version {VERSION}")]
    UnknownVersion(u8),
}

impl Task {
    /// Creates a task that lists a mailbox from `received_after` on, for a run that is planned now.
    #[must_use]
    pub fn new(
        run_id: RunId,
        kind: Kind,
        grant: &Grant,
        received_after: i64,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            run_id,
            kind,
            grant_id: grant.id.clone(),
            received_after,
            received_before: None,
            folder: None,
            past_cache: grant.is_of_imap_family()
                && received_after < (now - CACHE + PARKED).timestamp(),
            dry_run: false,
            planned_at: now.timestamp(),
        }
    }

    /// Returns the key of the task's item in the ledger.
    #[must_use]
    pub fn key(&self) -> TaskKey {
        TaskKey {
            run_id: self.run_id,
            grant_id: self.grant_id.clone(),
        }
    }

    /// Returns the body of the queue message.
    #[must_use]
    pub fn to_body(&self) -> String {
        let mut body = json!(self);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("version".to_owned(), json!(VERSION));
        }
        body.to_string()
    }

    /// Parses the body of a queue message.
    ///
    /// # Errors
    /// [`TaskParseError`], whose text never quotes the body.
    pub fn from_body(body: &str) -> Result<Self, TaskParseError> {
        let unreadable =
            |error: serde_json::Error| TaskParseError::Unreadable(json_problem(&error));
        let value: Value = serde_json::from_str(body).map_err(unreadable)?;
        let Version { version } = Version::deserialize(&value).map_err(unreadable)?;
        if version != VERSION {
            return Err(TaskParseError::UnknownVersion(version));
        }
        Self::deserialize(&value).map_err(unreadable)
    }
}

/// Returns the identifier of a folder on the queue and in the ledger: the first 32 hexadecimal
/// digits of the SHA-256 of its name, id or attribute in lower case.
#[must_use]
pub fn digest(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text.trim().to_lowercase()));
    digits.truncate(32);
    digits
}

/// Returns whether the digest `wanted` identifies this folder: by its id, its name or an attribute
/// such as `sent`.
#[must_use]
pub fn is_meant(folder: &Folder, wanted: &str) -> bool {
    let attributes = folder.attributes.iter().map(String::as_str);
    [folder.id.as_str(), folder.name.as_str()]
        .into_iter()
        .chain(attributes)
        .any(|name| digest(name) == wanted)
}

#[cfg(test)]
mod tests {
    use mailverse::clients::nylas::wire;

    use super::*;

    fn grant(provider: &str) -> Grant {
        wire::grant(&json!({"id": "g", "provider": provider})).unwrap()
    }

    fn task(provider: &str, days: i64) -> Task {
        let now = DateTime::from_timestamp(1_795_154_400, 0).unwrap();
        let after = (now - TimeDelta::days(days)).timestamp();
        let run_id = RunId::new("11111111-2222-4333-8444-555555555555".parse().unwrap());
        Task::new(run_id, Kind::History, &grant(provider), after, now)
    }

    #[test]
    fn a_task_round_trips_through_the_queue_and_another_version_is_rejected() {
        let task = Task {
            folder: Some(digest("Sent")),
            ..task("google", 500)
        };
        assert_eq!(Task::from_body(&task.to_body()).unwrap(), task);
        let newer = task.to_body().replace(r#""version":1"#, r#""version":2"#);
        assert_eq!(
            Task::from_body(&newer).unwrap_err().to_string(),
            "a backfill task of version 2; this build reads version 1"
        );
        for body in ["", "[]", "{}", r#"{"version":1}"#, r#""Subject: x""#] {
            let error = Task::from_body(body).unwrap_err().to_string();
            assert!(error.starts_with("not a backfill task: "), "{error}");
        }
    }

    #[test]
    fn only_old_mail_of_imap_providers_is_beyond_the_nylas_cache() {
        for (provider, days, past) in [
            ("imap", 100, true),
            ("yahoo", 100, true),
            ("icloud", 60, true),
            ("icloud", 58, false),
            ("imap", 10, false),
            ("google", 100, false),
            ("microsoft", 1_000, false),
            ("ews", 1_000, false),
        ] {
            assert_eq!(task(provider, days).past_cache, past, "{provider} {days}");
        }
    }

    #[test]
    fn the_server_query_overlaps_the_nylas_cache_and_its_bound_moves_once_a_day() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let (midnight, day) = (1_795_132_800, 86_400);
        assert_eq!(midnight % day, 0);
        for seconds in [0, 1, day - 1] {
            let bound = cache_limit(at(midnight + seconds));
            assert_eq!(bound, midnight - 87 * day, "{seconds}");
        }
        assert_eq!(cache_limit(at(midnight + day)), midnight - 86 * day);
    }

    #[test]
    fn a_folder_is_found_by_its_id_its_name_or_its_attribute() {
        let folder = wire::folder(
            &json!({"id": "AQMkAD1=", "name": "Sent Items", "attributes": ["\\Sent"]}),
        )
        .unwrap();
        for name in ["AQMkAD1=", "sent items", "Sent", " sent "] {
            assert!(is_meant(&folder, &digest(name)), "{name}");
        }
        assert!(!is_meant(&folder, &digest("Inbox")));
        assert!(!task("imap", 1).to_body().contains("Sent"));
    }
}
