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

mod fate;
mod job;
pub mod settings;
mod writing;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use self::fate::Failure;
pub use self::fate::{Fate, Handled, Run, Summary, Work};
use self::job::{Ended, Job};
use self::writing::Mail;
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::rows::Table;
use crate::dataverse::{AccessToken, DataverseClient};
use crate::dedupe::ledger::{Ledger, LedgerError};
use crate::dedupe::{Claim, LEASE};
use crate::entra::TokenSource;
use crate::ids::MessageKey;
use crate::mailboxes::{MailboxDirectory, Mailboxes};
use crate::mapping::{Direction, Findings};
use crate::message::Message;
use crate::nylas::{Fetched, NylasClient};
use crate::policy::{self, Inside, Verdict};
use crate::retry::RetryAdvice;
use crate::sync_request::Trigger;
use crate::{parties, regarding};

/// Ledger calls in flight.
const LEDGER_CALLS: usize = 10;

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
    /// Domains, in lower case, whose addresses are inside although no mailbox or user has them.
    pub internal_domains: HashSet<String>,
}

impl Pipeline {
    /// Brings a batch of messages as far as it goes now. The answer has each message once, however often the batch names it.
    pub async fn run(&self, work: Vec<Work>, run: Run) -> Vec<Handled> {
        let (jobs, mut handled) = self.claim(once_each(work), &run).await;
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

    /// Claims each message. What somebody else holds, or has settled, is handled already.
    async fn claim(&self, work: Vec<Work>, run: &Run) -> (Vec<Job>, Vec<Handled>) {
        let claims = stream::iter(work).map(async |work| {
            let revisit = work.request.trigger == Trigger::Updated;
            let claim = self
                .ledger
                .claim(&work.request.key, run.token, run.now, LEASE, revisit)
                .await;
            (work, claim)
        });
        let claims: Vec<_> = claims.buffered(LEDGER_CALLS).collect().await;
        let (mut jobs, mut handled) = (Vec::new(), Vec::new());
        for (
            Work {
                request,
                message,
                receive_count,
            },
            claim,
        ) in claims
        {
            let key = request.key;
            let failure = match claim {
                Ok(Claim::Won) => {
                    jobs.push(Job {
                        key,
                        receive_count,
                        message,
                    });
                    continue;
                }
                Ok(Claim::Settled(entry)) => match Fate::of_entry(entry) {
                    Some(fate) => {
                        handled.push(Handled {
                            key,
                            fate,
                            settled_before: true,
                            summary: None,
                        });
                        continue;
                    }
                    None => Failure {
                        advice: RetryAdvice::Soon,
                        reason: "the ledger's item is incomplete".to_owned(),
                    },
                },
                Ok(Claim::HeldUntil(until)) => {
                    let wait = (until - run.now).to_std().unwrap_or_default();
                    Failure {
                        advice: RetryAdvice::After(wait),
                        reason: "another worker is at it".to_owned(),
                    }
                }
                Err(error) => Failure {
                    advice: RetryAdvice::Soon,
                    reason: error.to_string(),
                },
            };
            let fate = Fate::of_failure(failure.advice, failure.reason, receive_count, run);
            handled.push(Handled {
                key,
                fate,
                settled_before: false,
                summary: None,
            });
        }
        (jobs, handled)
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
                .map(|token| (mailboxes, token))
                .map_err(Failure::from),
            Err(error) => Err(error.into()),
        };
        let (mailboxes, token) = match known {
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
        let mut mails = Vec::new();
        for (group, found) in self.look_up(&token, wanted, &mailboxes, run, ended).await {
            for (job, message) in group {
                match self
                    .regard_and_map(&token, job, message, &found, &mailboxes, run)
                    .await
                {
                    Mapped::Mail(mail) => mails.push(*mail),
                    Mapped::Ended(end) => ended.push(end),
                }
            }
        }
        self.write(&token, mails, run, ended).await;
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
        token: &AccessToken,
        wanted: Vec<(Job, Message)>,
        mailboxes: &Mailboxes,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Vec<(Job, Message)>, Arc<Found>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut groups = vec![wanted];
        let mut found = Vec::new();
        while let Some(group) = groups.pop() {
            match self
                .dataverse
                .look_up(token, &questions(&group, mailboxes))
                .await
            {
                Ok(answer) => found.push((group, Arc::new(answer))),
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
    async fn regard_and_map(
        &self,
        token: &AccessToken,
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
            parties: parties::of_message(&message, found),
            regarding: regarding::of_message(&message, found, &inside),
            owner,
        };
        let activity_id = message.activity_id();
        let ours = found.by_key(activity_id);
        let theirs = message
            .internet_message_id
            .as_ref()
            .and_then(|id| found.by_message_id(id, activity_id));
        if let (None, Some(theirs)) = (ours, theirs) {
            let filled = match findings.regarding.filter(|_| !theirs.has_regarding) {
                Some(record) => self.dataverse.fill_regarding(token, theirs, record).await,
                None => Ok(()),
            };
            let note = "put there by another client, found by its Message-ID";
            return Mapped::Ended(match filled {
                Ok(()) => job.found(theirs.activity_id, note, &message, findings),
                Err(error) => job.failed(error.into(), run),
            });
        }
        if ours.is_some_and(|ours| !ours.open) {
            return Mapped::Ended(job.was_there(activity_id, &message, findings));
        }
        Mapped::Mail(Box::new(Mail::new(job, message, findings, ours.is_some())))
    }

    /// Ends the claims. A claim that another worker took over is that worker's to end.
    async fn settle(&self, ended: Vec<Ended>, run: &Run) -> Vec<Handled> {
        let settled = stream::iter(ended).map(async |Ended { key, fate, summary }| {
            let fate = match self
                .ledger
                .settle(&key, run.token, run.now, &fate.settlement(run.now))
                .await
            {
                Ok(()) => fate,
                // The next delivery finds what the other worker, or the row in Dataverse, says.
                Err(error @ (LedgerError::ClaimLost | LedgerError::Unavailable(_))) => {
                    Fate::of_failure(RetryAdvice::Soon, error.to_string(), 1, run)
                }
            };
            Handled {
                key,
                fate,
                settled_before: false,
                summary,
            }
        });
        settled.buffered(LEDGER_CALLS).collect().await
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

/// Each message once: the batch may name it several times. The strongest reason wins, so that an update is not lost behind a creation.
fn once_each(work: Vec<Work>) -> Vec<Work> {
    let mut places: HashMap<MessageKey, usize> = HashMap::new();
    let mut once: Vec<Work> = Vec::new();
    for item in work {
        let known = places
            .get(&item.request.key)
            .and_then(|place| once.get_mut(*place));
        if let Some(known) = known {
            if item.request.trigger == Trigger::Updated {
                known.request.trigger = Trigger::Updated;
            }
            known.receive_count = known.receive_count.min(item.receive_count);
            known.message = known.message.take().or(item.message);
        } else {
            places.insert(item.request.key.clone(), once.len());
            once.push(item);
        }
    }
    once
}

fn questions(group: &[(Job, Message)], mailboxes: &Mailboxes) -> Questions {
    let mut questions = Questions::default();
    for (job, message) in group {
        questions.addresses.extend(message.participants().cloned());
        questions
            .addresses
            .extend(mailboxes.address(&job.key.grant_id).cloned());
        questions
            .emails
            .push((message.activity_id(), message.internet_message_id.clone()));
    }
    questions
}
