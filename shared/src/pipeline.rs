//! What happens to a message, in order. One story, for a batch of messages:
//!
//! **claim** each in the ledger → **fetch** those not yet in hand → **decide** by the policy → **look up** all people and mails of the batch in one
//! `$batch` of queries → **regard** → **map** → **write** one `$batch` with one change set for each mail → **settle** each claim.
//!
//! Decisions are pure ([`crate::policy`], [`crate::parties`], [`crate::regarding`], [`crate::mapping`]); this file does the calls between them. A message
//! that leaves the story early takes its [`Fate`] along and is settled with the others at the end; it never stops its neighbours.
//!
//! # What if the process dies here?
//!
//! | Between | Then |
//! | --- | --- |
//! | claim and settle | the queue delivers again after the visibility timeout; by then the lease has run out and the claim is won anew |
//! | write and settle | the look-up of the next run finds the row by its key: `written` |
//! | the steps of a mail that is written step by step | the next run finds the Open row, adds what is missing and completes it |
//! | settle and the queue's acknowledgement | the next delivery finds the final state and is acknowledged |

mod claiming;
mod fate;
mod job;
mod regard;
pub mod settings;
pub mod theirs;
mod writing;

use std::collections::HashSet;

use futures_util::{StreamExt, stream};

use self::fate::Failure;
pub use self::fate::{Fate, Handled, Run, Summary, Work};
use self::job::{Ended, Job};
use self::regard::Clues;
use self::writing::Mail;
use crate::dataverse::DataverseClient;
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::rows::{RowState, Table};
use crate::dataverse::session::Session;
use crate::dataverse::write::WriteMode;
use crate::dedupe::ledger::Ledger;
use crate::entra::TokenSource;
use crate::mailboxes::{MailboxDirectory, Mailboxes};
use crate::mapping::{Direction, Findings};
use crate::message::Message;
use crate::nylas::{Fetched, NylasClient};
use crate::policy::document::{FolderRegarding, Regarding};
use crate::policy::{self, Inside, Verdict};
use crate::regarding::Decision;
use crate::{parties, regarding};

/// Messages fetched at the same time: Microsoft allows four calls at once for each mailbox (Nylas facts §14).
const FETCHES: usize = 3;

/// Everything that the story needs.
pub struct Pipeline {
    /// Where claims are kept.
    pub ledger: Ledger,
    /// Where messages come from.
    pub nylas: NylasClient,
    /// Which mailboxes are connected.
    pub mailboxes: MailboxDirectory,
    /// Where messages go.
    pub dataverse: DataverseClient,
    /// The token for it.
    pub tokens: TokenSource,
    /// In how many calls a mail is written.
    pub write_mode: WriteMode,
    /// Which record a mail concerns.
    pub regarding: Regarding,
    /// Mail in these folders concerns these records.
    pub folder_regarding: Vec<FolderRegarding>,
    /// Domains, in lower case, whose addresses are inside although no mailbox or user has them.
    pub internal_domains: HashSet<String>,
}

impl Pipeline {
    /// Brings a batch of messages as far as it goes now. The answer has each message once, however often the batch names it.
    ///
    /// While Dataverse wants a pause, or when the invocation is nearly over, everything goes back as it came.
    pub async fn run(&self, work: Vec<Work>, run: Run) -> Vec<Handled> {
        if let Some(failure) = self.not_now(&run).await {
            let handled = claiming::untouched(work, &failure, &run);
            handled.iter().for_each(Handled::report);
            return handled;
        }
        let (jobs, mut handled) = self.claim(work, &run).await;
        let mut ended = Vec::new();
        let fetched = self.fetch(jobs, &run, &mut ended).await;
        if !fetched.is_empty() {
            // Boxed, because nested this deep the future's type is more than the compiler lays out.
            Box::pin(self.bring_in(fetched, &run, &mut ended)).await;
        }
        handled.extend(self.settle(ended, &run).await);
        handled.iter().for_each(Handled::report);
        handled
    }

    /// Fetches what is not in hand. A message that stays gone is skipped.
    async fn fetch(
        &self,
        jobs: Vec<Job>,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Job, Message)> {
        let fetches = stream::iter(jobs).map(async |mut job| {
            let fetched = match job.message.take() {
                Some(message) => Ok(Fetched::Message(Box::new(message))),
                None => self.nylas.message(&job.key).await,
            };
            (job, fetched)
        });
        let answers: Vec<_> = fetches.buffered(FETCHES).collect().await;
        let mut in_hand = Vec::new();
        for (job, result) in answers {
            match result {
                Ok(Fetched::Message(message)) => in_hand.push((job, *message)),
                Ok(Fetched::Gone) => ended.push(job.gone(run)),
                Err(error) => ended.push(job.failed(error.into(), run)),
            }
        }
        in_hand
    }

    /// Decide, look up, regard, map, write.
    async fn bring_in(&self, fetched: Vec<(Job, Message)>, run: &Run, ended: &mut Vec<Ended>) {
        let grants: Vec<_> = fetched.iter().map(|(job, _)| &job.key.grant_id).collect();
        let known = match self.mailboxes.mailboxes(&grants, run.now).await {
            Ok(mailboxes) => self
                .tokens
                .token(run.now)
                .await
                .map(|token| (mailboxes, Session::new(token)))
                .map_err(Failure::from),
            Err(error) => Err(error.into()),
        };
        let (mailboxes, session) = match known {
            Ok(known) => known,
            Err(failure) => {
                return ended.extend(
                    fetched
                        .into_iter()
                        .map(|(job, _)| job.failed(failure.clone(), run)),
                );
            }
        };
        let wanted = self.decide(fetched, run, ended).await;
        if run.is_nearly_over() {
            let back = wanted.into_iter();
            return ended.extend(back.map(|(job, _)| job.failed(Failure::no_time_left(), run)));
        }
        let mut mails = Vec::new();
        for (group, mut found) in self.look_up(&session, wanted, &mailboxes, run, ended).await {
            let regarded = self.regard(&session, group, &mut found, &mailboxes, run, ended);
            for (job, message, regarding) in regarded.await {
                match self
                    .map(&session, (job, message, regarding), &found, &mailboxes, run)
                    .await
                {
                    Mapped::Mail(mail) => mails.push(*mail),
                    Mapped::Ended(end) => ended.push(end),
                }
            }
        }
        self.write(&session, mails, run, ended).await;
        self.share_pause(&session, run).await;
    }

    /// The rules that need the message and its folders only.
    async fn decide(
        &self,
        fetched: Vec<(Job, Message)>,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Job, Message)> {
        let mut wanted = Vec::new();
        for (mut job, message) in fetched {
            match self.mailboxes.folders(&message, run.now).await {
                Ok(folders) => match policy::by_place(folders.place(&message)) {
                    Verdict::Track => {
                        // By the ids of folders only, so far.
                        let lies_in = |name: &str| message.folders.iter().any(|id| id == name);
                        let folder = regarding::by_folder(&self.folder_regarding, lies_in);
                        job.clues = Clues::of(&message, folder, &self.regarding);
                        wanted.push((job, message));
                    }
                    Verdict::Skip(rule) => ended.push(job.skipped(rule, &message)),
                },
                Err(error) => ended.push(job.failed(error.into(), run)),
            }
        }
        wanted
    }

    /// One `$batch` of queries for all. Where Dataverse refuses it, one for each message, so that one odd address does not cost its neighbours.
    async fn look_up(
        &self,
        session: &Session,
        wanted: Vec<(Job, Message)>,
        mailboxes: &Mailboxes,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Vec<(Job, Message)>, Found)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut groups = vec![wanted];
        let mut found = Vec::new();
        while let Some(group) = groups.pop() {
            match self
                .dataverse
                .look_up(session, &questions(&group, mailboxes, &self.regarding))
                .await
            {
                Ok(answer) => found.push((group, answer)),
                Err(DataverseError::Rejected { .. } | DataverseError::TooLarge)
                    if group.len() > 1 =>
                {
                    groups.extend(group.into_iter().map(|one| vec![one]));
                }
                Err(error) => {
                    self.forget_refused(&error).await;
                    let failure = Failure::from(error);
                    ended.extend(
                        group
                            .into_iter()
                            .map(|(job, _)| job.failed(failure.clone(), run)),
                    );
                }
            }
        }
        found
    }

    /// The rest of the policy, what is there already, and the rows to write.
    async fn map(
        &self,
        session: &Session,
        (mut job, message, regarding): (Job, Message, Decision),
        found: &Found,
        mailboxes: &Mailboxes,
        run: &Run,
    ) -> Mapped {
        let inside = Inside {
            mailboxes,
            found,
            domains: &self.internal_domains,
        };
        if let Verdict::Skip(rule) = policy::by_participants(&message, &inside) {
            return Mapped::Ended(job.skipped(rule, &message));
        }
        let owner = mailboxes.address(&job.key.grant_id).and_then(|address| {
            let user = found.people(address).iter().find(|person| person.active)?;
            (user.record.table == Table::SystemUser).then_some(user.record.id)
        });
        let outgoing = message
            .from
            .as_ref()
            .is_some_and(|sender| inside.contains(sender));
        let mut findings = Findings {
            direction: if outgoing {
                Direction::Outgoing
            } else {
                Direction::Incoming
            },
            parties: parties::of_message(&message, found),
            regarding,
            owner,
        };
        let activity_id = message.activity_id();
        let ours = found.by_key(activity_id);
        let theirs = message
            .internet_message_id
            .as_ref()
            .and_then(|id| found.by_message_id(id, message.from.as_ref(), activity_id));
        if let (None, Some(theirs)) = (ours, theirs) {
            return Mapped::Ended(
                self.adopt(session, job, &message, findings, theirs, run)
                    .await,
            );
        }
        if let Some((ours, theirs)) = ours.zip(theirs) {
            let rows = (ours, theirs);
            let one = if ours.state == RowState::Canceled {
                Ok(self
                    .adopt(session, job, &message, findings, theirs, run)
                    .await)
            } else {
                self.settle_for_one(session, job, &message, findings, rows, run)
                    .await
            };
            match one {
                Ok(ended) => return Mapped::Ended(ended),
                Err(back) => (job, findings) = *back,
            }
        }
        if ours.is_some_and(|ours| ours.state != RowState::Open) {
            return Mapped::Ended(job.was_there(activity_id, &message, findings));
        }
        Mapped::Mail(Box::new(Mail::new(job, message, findings, ours.is_some())))
    }

    async fn forget_refused(&self, error: &DataverseError) {
        if matches!(error, DataverseError::TokenRejected) {
            self.tokens.forget().await;
        }
    }
}

/// What mapping a message came to.
enum Mapped {
    Mail(Box<Mail>),
    Ended(Ended),
}

fn questions(group: &[(Job, Message)], mailboxes: &Mailboxes, regarding: &Regarding) -> Questions {
    let mut questions = Questions::default();
    for (job, message) in group {
        questions.addresses.extend(message.participants().cloned());
        questions
            .addresses
            .extend(mailboxes.address(&job.key.grant_id).cloned());
        questions
            .emails
            .push((message.activity_id(), message.internet_message_id.clone()));
        job.clues.ask(message, regarding, &mut questions);
    }
    questions
}
