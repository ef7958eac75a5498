//! Living with server-side sync, and with every other client that writes mail: of two rows of one mail, one survives.
//!
//! | What is there | Then |
//! | --- | --- |
//! | their completed row alone | it carries the mail; its empty regarding is filled with the one decided for the mail |
//! | theirs completed, ours a draft of an interrupted run | as below; where ours would add a file, it is completed and both stay |
//! | both completed | theirs survives, because people may have worked with it: its empty regarding is filled with that of ours, and ours is withdrawn |
//! | both completed, and ours adds something | both stay, and the ledger says why |
//!
//! Ours adds something when it has a file that theirs lacks (compared by name and size), when somebody else changed it last, or when theirs could not be given
//! its regarding. A regarding that theirs has is never replaced. Withdrawing is deleting; a draft that may not be deleted is cancelled. Where the role of the
//! application user does not allow it, both rows stay and the ledger says so.
//!
//! Theirs may come second. So for the last hour's mails that a list shows and that we wrote, the backfill asks once more, a page of them in one `$batch`
//! ([`Pipeline::reconcile`]). Server-side sync reads mailboxes within minutes; who comes later is not looked for,
//! nor who comes after us for a mail that was old when we wrote it: the schedule's list, which shows two hours, does not show that one again.
//!
//! A row of another mail, with the same Message-ID and sender, is none of theirs (`reused.rs`).
//!
//! Where Dataverse lets no two emails have one `messageid` (expected, Dataverse facts §7.3), theirs cannot come after ours that has it, nor ours after theirs:
//! ours is refused, and theirs adopted (`reused.rs`). What is said of two rows here is for organisations that let them be.
//!
//! A crash after the withdrawal costs nothing: the next look finds their row alone.

use chrono::{DateTime, TimeDelta, Utc};

use super::budget::{Probe, Traffic};
use super::fate::{Failure, Run};
use super::handled::Handled;
use super::job::{Ended, Job};
use super::{Fate, Pipeline};
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::names::TableNames;
use crate::dataverse::rows::{ExistingEmail, RowState, Target};
use crate::dataverse::session::Session;
use crate::dataverse::withdraw::{File, Withdrawn};
use crate::ids::{ActivityId, EmailAddress, InternetMessageId, MessageKey};
use crate::mapping::{self, Findings};
use crate::message::Message;
use crate::same_mail::{self, Traits, Verdict};

/// For how long after it was settled a message is looked at for another client's row.
const RECENT: TimeDelta = TimeDelta::hours(1);

/// A listed message, as far as another client's row of it can be found.
pub struct Listed {
    key: MessageKey,
    message_id: InternetMessageId,
    sender: Option<EmailAddress>,
    date: Option<DateTime<Utc>>,
    subject: String,
    ours: ActivityId,
}

impl Listed {
    /// `None` for a message without a Message-ID, by which alone another client's row is found.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        Some(Self {
            key: message.key.clone(),
            message_id: message.internet_message_id.clone()?,
            sender: message.author().cloned(),
            date: message.date,
            subject: message.subject.clone(),
            ours: message.activity_id(),
        })
    }

    /// Which message.
    #[must_use]
    pub fn key(&self) -> &MessageKey {
        &self.key
    }

    /// As far as date and subject say.
    fn may_be_held_by(&self, row: &ExistingEmail) -> bool {
        let mail = Traits {
            dates: self.date.into_iter().collect(),
            subject: &self.subject,
            body: Some(""),
            ..Traits::default()
        };
        same_mail::compare(&mail, &Traits::of_row(row, Some(""))) == Verdict::Same
    }

    /// Whether our row carries the message, and so recently that another client may still bring its own. `handled` is what the run said of it.
    #[must_use]
    pub fn is_due(&self, handled: &Handled, now: DateTime<Utc>) -> bool {
        let ours =
            matches!(&handled.fate, Fate::Written { activity_id, .. } if *activity_id == self.ours);
        let settled = handled
            .settled_before
            .then_some(handled.settled_at)
            .flatten();
        ours && settled.is_some_and(|at| now - at < RECENT)
    }
}

/// What two rows of one mail came to.
pub(super) enum Union {
    /// Ours is gone, and theirs carries the mail.
    Theirs(&'static str),
    /// Both stay.
    Both(&'static str),
}

const THEIRS: &str = "put there by another client, found by its Message-ID";

impl Pipeline {
    /// A row that another client put there carries the message. Its regarding is filled when it has none.
    pub(super) async fn adopt(
        &self,
        session: &Session,
        job: Job,
        message: &Message,
        findings: Findings,
        theirs: &ExistingEmail,
        run: &Run,
    ) -> Ended {
        let mut note = THEIRS;
        if let Some(choice) = findings
            .regarding
            .choice
            .as_ref()
            .filter(|_| !theirs.has_regarding)
        {
            match self
                .fill(session, theirs, &choice.target, &choice.names)
                .await
            {
                Ok(true) => {}
                Ok(false) => {
                    note = "put there by another client; its empty regarding could not be filled";
                }
                Err(error) => return job.failed(Failure::from(error), run),
            }
        }
        let files = i64::try_from(message.attachments.len()).unwrap_or(i64::MAX);
        if note == THEIRS && theirs.attachments < files {
            note = "put there by another client, found by its Message-ID; it has fewer attachments than the mail";
        }
        job.found(theirs.activity_id, note, message, findings)
    }

    /// Our row and another client's of one mail, met before the write. `Err` gives the mail back, to be completed beside theirs.
    pub(super) async fn settle_for_one(
        &self,
        session: &Session,
        job: Job,
        message: &Message,
        findings: Findings,
        rows: (&ExistingEmail, &ExistingEmail),
        run: &Run,
    ) -> Result<Ended, Box<(Job, Findings)>> {
        let (ours, theirs) = rows;
        let decided = findings.regarding.choice.as_ref();
        let decided = decided.map(|choice| (&choice.target, &choice.names));
        let names = message.attachments.iter().enumerate();
        let names = names.map(|(at, file)| mapping::file_name(&file.file_name, at).to_lowercase());
        let expected: Vec<File> = names.map(|name| (name, None)).collect();
        match self.unite(session, ours, theirs, decided, &expected).await {
            Ok(Union::Theirs(note)) => Ok(job.found(theirs.activity_id, note, message, findings)),
            Ok(Union::Both(_)) if ours.state == RowState::Open => Err(Box::new((job, findings))),
            Ok(Union::Both(note)) => Ok(job.found(ours.activity_id, note, message, findings)),
            Err(error) => Ok(job.failed(Failure::from(error), run)),
        }
    }

    /// Looks for rows that other clients brought after ours, for the messages of a listed page that [`Listed::is_due`] chose: one `$batch` of queries, and none
    /// without messages. What could not be done now is done when the next list shows them.
    pub async fn reconcile(&self, due: &[Listed], run: &Run) {
        if due.is_empty() {
            return;
        }
        let Ok(booked) = self.book(1, run, Probe::IsNone).await else {
            return;
        };
        let Ok(token) = self.identities.of(run).tokens.token(run.now).await else {
            return self.put_right(&booked.booking, Traffic::default(), run);
        };
        let session = Session::timed_by(token, run.clock);
        let emails = due
            .iter()
            .map(|it| (vec![it.ours], Some(it.message_id.clone())));
        let questions = Questions {
            emails: emails.collect(),
            ..Questions::default()
        };
        match self.dataverse.look_up(&session, &questions).await {
            Ok(found) => {
                for listed in due {
                    self.reconcile_one(&session, listed, &found).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "rows of other clients could not be looked for");
            }
        }
        let traffic = Traffic::of(&session, 0);
        self.put_right(&booked.booking, traffic, run);
        self.share(&session, run).await;
    }

    async fn reconcile_one(&self, session: &Session, listed: &Listed, found: &Found) {
        let Listed {
            key,
            message_id,
            sender,
            ours,
            ..
        } = listed;
        let mut theirs = None;
        let own = found.by_key(*ours);
        for row in found.by_message_id(message_id, sender.as_ref(), *ours) {
            let same = match own {
                Some(own) => self.hold_the_same(session, own, row).await,
                // Ours gave way to theirs already, so there is no body to compare.
                None => Ok(listed.may_be_held_by(row)),
            };
            match same {
                Ok(true) => {
                    theirs = Some(row);
                    break;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("sync.key" = %key, %error, "two rows of one Message-ID could not be compared");
                    return;
                }
            }
        }
        let Some(theirs) = theirs else {
            return;
        };
        let (carrier, note) = match own {
            // Another mailbox's copy of the mail came here first.
            None => (theirs.activity_id, THEIRS),
            Some(row) => match self.unite(session, row, theirs, None, &[]).await {
                Ok(Union::Theirs(note)) => (theirs.activity_id, note),
                Ok(Union::Both(note)) => (*ours, note),
                Err(error) => {
                    tracing::warn!("sync.key" = %key, %error, "two rows of one mail were left for now");
                    return;
                }
            },
        };
        let told = self.ledger.carried_by(key, *ours, carrier, note);
        match told.await {
            Ok(_) => {
                tracing::info!("sync.key" = %key, reason = note, "another client wrote the mail too");
            }
            Err(error) => {
                tracing::warn!("sync.key" = %key, %error, "the ledger could not be told which row survived");
            }
        }
    }

    /// One row of two, by the rule above. `decided` is for a draft of ours that has no regarding yet; `expected` are the files that it was to get.
    async fn unite(
        &self,
        session: &Session,
        ours: &ExistingEmail,
        theirs: &ExistingEmail,
        decided: Option<(&Target, &TableNames)>,
        expected: &[File],
    ) -> Result<Union, DataverseError> {
        if !theirs.has_regarding {
            let own = match &ours.regarding {
                Some(target) => Some((target.clone(), self.names_of(session, target).await?)),
                None => decided.map(|(target, names)| (target.clone(), Some(names.clone()))),
            };
            let filled = match &own {
                Some((target, Some(names))) => self.fill(session, theirs, target, names).await?,
                Some((_, None)) => false,
                None => true,
            };
            if !filled && ours.has_regarding {
                return Ok(Union::Both(
                    "another client's row carries it too; that row's empty regarding could not be filled, so both stay",
                ));
            }
        }
        if ours.changed_by_another {
            return Ok(Union::Both(
                "another client's row carries it too; somebody has worked with ours, so both stay",
            ));
        }
        if self.adds_a_file(session, ours, theirs, expected).await? {
            return Ok(Union::Both(
                "another client's row carries it too; ours has an attachment that it lacks, so both stay",
            ));
        }
        match self.dataverse.withdraw(session, ours).await {
            Ok(Withdrawn::Deleted) => Ok(Union::Theirs(
                "another client's row carries it; ours was withdrawn",
            )),
            Ok(Withdrawn::Canceled) => Ok(Union::Theirs(
                "another client's row carries it; our draft was cancelled",
            )),
            Err(DataverseError::Rejected { .. }) => Ok(Union::Both(
                "another client's row carries it too; ours could not be withdrawn, so both stay",
            )),
            Err(error) => Err(error),
        }
    }

    /// Whether ours has, or as a draft is to get, a file that theirs lacks.
    async fn adds_a_file(
        &self,
        session: &Session,
        ours: &ExistingEmail,
        theirs: &ExistingEmail,
        expected: &[File],
    ) -> Result<bool, DataverseError> {
        let draft = ours.state == RowState::Open;
        let to_come = draft && !expected.is_empty();
        if ours.attachments == 0 && !to_come {
            return Ok(false);
        }
        let both = [ours.activity_id, theirs.activity_id];
        match self.dataverse.files(session, &both).await {
            Ok(mut files) => {
                let mut own = files.remove(&ours.activity_id).unwrap_or_default();
                if draft {
                    own.extend(expected.iter().cloned());
                }
                let there = files.remove(&theirs.activity_id).unwrap_or_default();
                Ok(lacks_one(&there, &own, draft))
            }
            // What cannot be compared may be one that theirs lacks.
            Err(DataverseError::Rejected { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether the regarding was set; `false` when Dataverse refuses it for good.
    async fn fill(
        &self,
        session: &Session,
        theirs: &ExistingEmail,
        target: &Target,
        names: &TableNames,
    ) -> Result<bool, DataverseError> {
        let filled = self
            .dataverse
            .fill_regarding(session, theirs, target, names);
        match filled.await {
            Ok(()) => Ok(true),
            Err(DataverseError::Rejected { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn names_of(
        &self,
        session: &Session,
        target: &Target,
    ) -> Result<Option<TableNames>, DataverseError> {
        if let Some(names) = self.dataverse.known_names(&target.table) {
            return Ok(Some(names));
        }
        let further = crate::dataverse::further::Further {
            tables: [target.table.clone()].into(),
            ..Default::default()
        };
        let mut found = Found::default();
        let none = crate::policy::document::App::None;
        self.dataverse
            .look_up_further(session, &further, &none, &mut found)
            .await?;
        Ok(found.names(&target.table).flatten())
    }
}

/// Whether `there` lacks one of the files of `own`. Each file stands for one of the same name and, where both are known, size; as often as it is there, unless
/// `own` may name a file twice.
fn lacks_one(there: &[File], own: &[File], twice: bool) -> bool {
    let mut left = there.to_vec();
    own.iter().any(|(name, size)| {
        let same = |file: &File| {
            file.0 == *name && (file.1.is_none() || size.is_none() || file.1 == *size)
        };
        let Some(at) = left.iter().position(same) else {
            return true;
        };
        if !twice {
            left.remove(at);
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: Option<i64>) -> File {
        (name.to_owned(), size)
    }

    #[test]
    fn a_file_of_another_name_or_size_is_lacking() {
        let there = [file("a.pdf", Some(3)), file("b.pdf", None)];
        assert!(!lacks_one(&there, &[], false));
        assert!(!lacks_one(
            &there,
            &[file("a.pdf", Some(3)), file("b.pdf", Some(9))],
            false
        ));
        assert!(!lacks_one(&there, &[file("a.pdf", None)], false));
        assert!(lacks_one(&there, &[file("a.pdf", Some(4))], false));
        assert!(lacks_one(&there, &[file("c.pdf", None)], false));
    }

    #[test]
    fn two_files_of_one_name_are_two() {
        let there = [file("a.pdf", Some(3))];
        let twice = [file("a.pdf", Some(3)), file("a.pdf", Some(3))];
        assert!(lacks_one(&there, &twice, false));
        assert!(
            !lacks_one(&there, &twice, true),
            "once as a row, once as the mail names it"
        );
    }
}
