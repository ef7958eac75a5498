//! Downloads the attachments of a message when it is written, and adds a row for each.
//!
//! | A file that | Is |
//! | --- | --- |
//! | is already on the row of an earlier run | neither fetched nor sent again |
//! | is empty, too large, or refused by Nylas | omitted at once |
//! | Nylas does not find (404), on a young message | waited for, up to [`MISSING_FILE_WAIT`] after the first claim |
//! | Nylas does not find, on another message | omitted at once: an old message that a list shows has lost the file |
//! | fails for another reason (5xx, timeout, connection lost) | waited for, up to [`FAILING_FILE_WAIT`] after the first claim |
//! | is throttled, or needs a sign-in | waited for, as everything else of that mailbox is |
//!
//! An omitted file is recorded with the message ([`Omission::Attachment`]) and on the row. Nothing
//! of a message is written while it waits for a file, because a completed row takes no more files
//! (Dataverse facts §3, *unknown*). The wait is not a failure of the message: the delivery is
//! postponed. It ends at a fixed time after the first claim, so it is bounded.
//!
//! Providers answered 404 for minutes after the notification with 4 of 42 messages; the facts do
//! not mention it.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use super::stages::PendingMessage;
use super::write::EmailDraft;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::session::Session;
use crate::clients::nylas::FetchedFile;
use crate::clients::nylas::error::NylasError;
use crate::mapping;
use crate::model::message::{Attachment, Omission};

/// The largest attachment, in bytes of the file. The organisation's limit (`maxuploadfilesize`, 5
/// MiB unless changed) counts base64, four bytes for three (Dataverse facts §1.8). An organisation
/// with a lower limit rejects the file, which is then omitted.
const LONGEST_ATTACHMENT: usize = 5_242_880 / 4 * 3;

/// The most bytes of all attachment rows of one message, which are in memory until it is written.
/// Mail servers stop at 150 MB.
const LARGEST_FILES: usize = 160 * 1024 * 1024;

/// A message is young for this long after the mail server received it. A notification that is
/// delayed for longer means an outage, after which the provider has the file.
const YOUNG: TimeDelta = TimeDelta::hours(24);

/// How long a young message waits, from its first claim, for a file that Nylas does not find.
const MISSING_FILE_WAIT: TimeDelta = TimeDelta::hours(1);

/// How long a message waits, from its first claim, for a file that fails for another reason.
const FAILING_FILE_WAIT: TimeDelta = TimeDelta::hours(12);

/// The shortest time between two attempts. Each wait is as long as the time since the first claim.
const FIRST_TRY: TimeDelta = TimeDelta::minutes(1);

/// The longest time between two attempts.
const LAST_TRIES: TimeDelta = TimeDelta::hours(1);

/// Why a file could not be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nylas does not find the file.
    Missing,
    /// The call failed.
    Failing,
}

/// Returns how long the message waits before its file is requested again; `None` if it is written
/// without the file.
fn wait(
    trouble: Trouble,
    received: Option<DateTime<Utc>>,
    first_claimed: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let waited = now - first_claimed;
    let longest = match trouble {
        Trouble::Failing => FAILING_FILE_WAIT,
        // If a message has no date, its age is unknown, and only the time since the claim counts.
        Trouble::Missing if received.is_some_and(|received| now - received >= YOUNG) => {
            return None;
        }
        Trouble::Missing => MISSING_FILE_WAIT,
    };
    let left = longest - waited;
    if left <= TimeDelta::zero() {
        return None;
    }
    waited.clamp(FIRST_TRY, LAST_TRIES).min(left).to_std().ok()
}

/// The result of a download.
enum Download {
    Bytes(Vec<u8>),
    LeftOut,
}

impl Pipeline {
    /// Downloads the files and adds their rows. A file that is already on the row of an earlier run
    /// is neither fetched nor sent again.
    ///
    /// # Errors
    /// [`Failure`]: nothing was written; the message has to wait for a file or a service.
    pub(super) async fn add_attachments(
        &self,
        session: &Session,
        draft: &mut EmailDraft,
        invocation: &Invocation,
    ) -> Result<(), Failure> {
        let activity = draft.email.activity_id;
        let there = if draft.begun && !draft.message.attachments.is_empty() {
            match self.dataverse.attachments(session, activity).await {
                Ok(there) => there,
                // That the files can be listed this way is *inferred*. If not, each file is sent,
                // and those that exist answer 412.
                Err(DataverseError::Rejected { .. }) => HashSet::new(),
                Err(error) => return Err(error.into()),
            }
        } else {
            HashSet::new()
        };
        let mut missing = 0;
        let mut room = LARGEST_FILES;
        for (position, attachment) in draft.message.attachments.iter().enumerate() {
            if there.contains(&mapping::attachment_key(activity, position, attachment)) {
                continue;
            }
            // The provider's size is an estimate that includes the encoding, so a file is only
            // omitted without a download if the size is far above the limit.
            let hopeless = attachment
                .size
                .is_some_and(|size| size > 2 * LONGEST_ATTACHMENT as u64);
            let download = if hopeless {
                Download::LeftOut
            } else {
                let received = draft.message.date;
                self.download(&draft.pending, attachment, received, invocation)
                    .await?
            };
            match download {
                Download::Bytes(bytes) if !bytes.is_empty() && bytes.len() / 3 * 4 <= room => {
                    room -= bytes.len() / 3 * 4;
                    let row = mapping::attachment_row(activity, position, attachment, &bytes);
                    draft.email.attachments.push(row);
                }
                Download::Bytes(_) | Download::LeftOut => missing += 1,
            }
        }
        if missing > 0 {
            mapping::note_missing_attachment(&mut draft.email);
            draft
                .omissions
                .extend(std::iter::repeat_n(Omission::Attachment, missing));
        }
        Ok(())
    }

    async fn download(
        &self,
        pending: &PendingMessage,
        attachment: &Attachment,
        received: Option<DateTime<Utc>>,
        invocation: &Invocation,
    ) -> Result<Download, Failure> {
        let fetched = self
            .nylas
            .attachment(&pending.key, &attachment.id, LONGEST_ATTACHMENT);
        let (trouble, reason) = match fetched.await {
            Ok(FetchedFile::Bytes(bytes)) => return Ok(Download::Bytes(bytes)),
            Ok(FetchedFile::TooLarge) => return Ok(Download::LeftOut),
            Ok(FetchedFile::Missing) => {
                let reason = "nylas does not find an attachment of the message".to_owned();
                (Trouble::Missing, reason)
            }
            Err(error @ NylasError::Rejected { .. }) if !error.concerns_mailbox() => {
                return Ok(Download::LeftOut);
            }
            Err(error @ NylasError::Unavailable { .. }) => {
                (Trouble::Failing, format!("an attachment failed: {error}"))
            }
            Err(error) => {
                self.note_throttled(&pending.key.grant_id, &error, invocation)
                    .await;
                return Err(error.into());
            }
        };
        match wait(trouble, received, pending.attempts.since, invocation.time()) {
            Some(wait) => Err(Failure::postponed(wait, reason)),
            None => Ok(Download::LeftOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// Returns the wait in seconds for a message that was received and claimed the given seconds
    /// ago.
    fn waits(trouble: Trouble, received: Option<i64>, claimed: i64) -> Option<u64> {
        let at = |ago: i64| DateTime::from_timestamp(NOW - ago, 0).unwrap();
        wait(trouble, received.map(at), at(claimed), at(0)).map(|wait| wait.as_secs())
    }

    const MINUTE: i64 = 60;
    const HOUR: i64 = 3_600;

    #[test]
    fn a_recent_message_waits_up_to_an_hour_for_a_missing_file() {
        let missing = |claimed| waits(Trouble::Missing, Some(claimed + 10), claimed);
        assert_eq!(missing(0), Some(60));
        assert_eq!(missing(8 * MINUTE), Some(480));
        assert_eq!(
            missing(50 * MINUTE),
            Some(600),
            "until the hour is over, not longer"
        );
        assert_eq!(missing(HOUR), None);
    }

    #[test]
    fn an_old_message_does_not_wait_for_a_missing_file() {
        assert_eq!(waits(Trouble::Missing, Some(24 * HOUR), 0), None);
        assert_eq!(waits(Trouble::Missing, Some(24 * HOUR - 1), 0), Some(60));
    }

    #[test]
    fn the_claim_time_decides_for_a_message_without_a_date_or_from_the_future() {
        for received in [None, Some(-HOUR)] {
            assert_eq!(waits(Trouble::Missing, received, 0), Some(60));
            assert_eq!(waits(Trouble::Missing, received, HOUR), None);
        }
    }

    #[test]
    fn a_failing_file_is_awaited_for_twelve_hours_from_the_first_claim() {
        let failing = |claimed| waits(Trouble::Failing, Some(1_000 * HOUR), claimed);
        assert_eq!(failing(0), Some(60));
        assert_eq!(failing(5 * HOUR), Some(3_600));
        assert_eq!(failing(12 * HOUR - 5), Some(5));
        assert_eq!(failing(12 * HOUR), None);
    }

    #[test]
    fn the_whole_wait_takes_at_most_twenty_attempts() {
        for (trouble, most) in [(Trouble::Missing, 8), (Trouble::Failing, 20)] {
            let (mut claimed, mut attempts) = (0, 1);
            while let Some(wait) = waits(trouble, Some(claimed), claimed) {
                claimed += i64::try_from(wait).unwrap();
                attempts += 1;
            }
            assert!(attempts <= most, "{trouble:?}: {attempts} attempts");
        }
    }
}
