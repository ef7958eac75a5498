//! What happens to a message, in order. One story, for a batch of messages:
//!
//! **claim** each in the ledger → **fetch** those not yet in hand → **decide** by the policy → **look up** all people and mails of the batch in one
//! `$batch` of queries → **make** contacts where the setting says so → **regard** → **map** → **write** one `$batch` with one change set for each mail → **settle** each claim.
//!
//! Decisions are pure ([`crate::policy`], [`crate::parties`], [`crate::regarding`], [`crate::mapping`]); this file does the calls between them. A message
//! that leaves the story early takes its [`Fate`] along and is settled with the others at the end; it never stops its neighbours.
//!
//! # What if the process dies here?
//!
//! | Between | Then |
//! | --- | --- |
//! | claim and settle | the queue delivers again after the visibility timeout; by then the lease has run out and the claim is won anew |
//! | make contacts and write | the look-up of the next run finds the contacts |
//! | write and settle | the look-up of the next run finds the row by its key: `written` |
//! | the steps of a mail that is written step by step | the next run finds the Open row, adds what is missing and completes it |
//! | settle and the queue's acknowledgement | the next delivery finds the final state and is acknowledged |

mod claiming;
mod fate;
mod job;
mod newcomers;
pub mod settings;
mod writing;

use std::collections::HashSet;

use futures_util::{StreamExt, stream};

use self::fate::Failure;
pub use self::fate::{Fate, Handled, Run, Summary, Work};
use self::job::{Ended, Job};
use self::writing::Mail;
use crate::contacts::Newcomer;
use crate::dataverse::DataverseClient;
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::rows::{ExistingEmail, RowState, Table};
use crate::dataverse::session::Session;
use crate::dataverse::write::WriteMode;
use crate::dedupe::ledger::Ledger;
use crate::entra::TokenSource;
use crate::mailboxes::{MailboxDirectory, Mailboxes};
use crate::mapping::{Direction, Findings};
use crate::message::Message;
use crate::nylas::{Fetched, NylasClient};
use crate::policy::document::{Ambiguous, CreateContacts};
use crate::policy::{self, Inside, Verdict};
use crate::role_address::is_automatic;
use crate::{contacts, parties, regarding};

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
    /// Domains, in lower case, whose addresses are inside although no mailbox or user has them.
    pub internal_domains: HashSet<String>,
    /// What an address is that several rows have.
    pub ambiguous: Ambiguous,
    /// For whom contacts are made.
    pub create_contacts: CreateContacts,
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
            let newcomers: Vec<_> = group
                .iter()
                .map(|(_, message)| self.newcomers(message, &found, &mailboxes))
                .collect();
            let made = self
                .make_contacts(&session, &newcomers, self.ambiguous, &mut found)
                .await;
            for ((job, mut message), made) in group.into_iter().zip(made) {
                match made {
                    Ok(omissions) => message.omissions.extend(omissions),
                    Err(failure) => {
                        ended.push(job.failed(failure, run));
                        continue;
                    }
                }
                match self
                    .regard_and_map(&session, job, message, &found, &mailboxes, run)
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
        for (job, message) in fetched {
            match self.mailboxes.folders(&message, run.now).await {
                Ok(folders) => match policy::by_place(folders.place(&message)) {
                    Verdict::Track => wanted.push((job, message)),
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
                .look_up(session, &questions(&group, mailboxes))
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

    /// Who becomes a contact because of this mail: nobody, when it is not to be written.
    fn newcomers(&self, message: &Message, found: &Found, mailboxes: &Mailboxes) -> Vec<Newcomer> {
        let inside = Inside {
            mailboxes,
            found,
            domains: &self.internal_domains,
        };
        let is_there =
            found.by_key(message.activity_id()).is_some() || found.by_mail(message).is_some();
        if is_there || policy::by_participants(message, &inside) != Verdict::Track {
            return Vec::new();
        }
        let bulk = message.from.as_ref().is_some_and(is_automatic);
        contacts::newcomers(message, &inside, self.create_contacts, bulk)
    }

    /// The rest of the policy, what is there already, and the rows to write.
    async fn regard_and_map(
        &self,
        session: &Session,
        job: Job,
        message: Message,
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
        let findings = Findings {
            direction: if outgoing {
                Direction::Outgoing
            } else {
                Direction::Incoming
            },
            parties: parties::of_message(&message, &inside, self.ambiguous),
            regarding: regarding::of_message(&message, found, &inside),
            owner,
        };
        let activity_id = message.activity_id();
        let ours = found.by_key(activity_id);
        let theirs = found.by_mail(&message);
        if let (None, Some(theirs)) = (ours, theirs) {
            return Mapped::Ended(
                self.adopt(session, job, &message, findings, theirs, run)
                    .await,
            );
        }
        if ours.is_some_and(|ours| ours.state != RowState::Open) {
            return Mapped::Ended(job.was_there(activity_id, &message, findings));
        }
        Mapped::Mail(Box::new(Mail::new(job, message, findings, ours.is_some())))
    }

    /// A row that another client put there carries the message. Its regarding is filled when it has none.
    async fn adopt(
        &self,
        session: &Session,
        job: Job,
        message: &Message,
        findings: Findings,
        theirs: &ExistingEmail,
        run: &Run,
    ) -> Ended {
        let mut note = "put there by another client, found by its Message-ID";
        if let Some(record) = findings.regarding.filter(|_| !theirs.has_regarding) {
            match self.dataverse.fill_regarding(session, theirs, record).await {
                Ok(()) => {}
                Err(DataverseError::Rejected { .. }) => {
                    note = "put there by another client; its empty regarding could not be filled";
                }
                Err(error) => {
                    self.forget_refused(&error).await;
                    return job.failed(error.into(), run);
                }
            }
        }
        job.found(theirs.activity_id, note, message, findings)
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

fn questions(group: &[(Job, Message)], mailboxes: &Mailboxes) -> Questions {
    let mut questions = Questions::default();
    for (job, message) in group {
        let participants = message.participants();
        questions.addresses.extend(participants.flat_map(|address| {
            let main = mailboxes.main_address(address);
            std::iter::once(address).chain(main).cloned()
        }));
        questions
            .addresses
            .extend(mailboxes.address(&job.key.grant_id).cloned());
        questions
            .emails
            .push((message.activity_id(), message.internet_message_id.clone()));
    }
    questions
}
