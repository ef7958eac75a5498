//! What happens to a message, in order. One story, for a batch of messages:
//!
//! **claim** each in the ledger → leave out what lies in a mailbox that does not **take part** →
//! **fetch** those not yet in hand → **decide** by the policy → **look up** all people and mails of
//! the batch in one
//! `$batch` of queries → **decide** what only that can tell → **make** contacts where the policy says so → **regard** → **map** → **write** one `$batch` with one
//! change set for each mail → **settle** each claim.
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

pub mod address_book;
mod asking;
pub mod budget;
mod claiming;
pub mod created_on;
mod deciding;
mod fate;
mod ground;
mod handled;
pub mod history;
mod job;
mod newcomers;
pub mod preview;
mod regard;
pub mod settings;
pub mod theirs;
mod writing;

use futures_util::{StreamExt, stream};

use self::budget::{Identities, Traffic};
use self::created_on::Backdating;
use self::fate::Failure;
pub use self::fate::{Fate, Run, Work};
use self::ground::Ground;
pub use self::handled::{Handled, Summary};
use self::job::{Candidate, Ended, Job};
use self::writing::{Caller, Mail};
use crate::dataverse::DataverseClient;
use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{RowState, Table};
use crate::dataverse::session::Session;
use crate::dataverse::write::WriteMode;
use crate::dedupe::ledger::Ledger;
use crate::governor::Booking;
use crate::mailboxes::MailboxDirectory;
use crate::mapping::{self, Direction, Findings};
use crate::message::Message;
use crate::nylas::{Fetched, Headers, NylasClient};
use crate::parties;
use crate::policy::source::PolicySource;
use crate::regarding::Decision;

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
    /// As whom, and how much may be asked as each.
    pub identities: Identities,
    /// In how many calls a mail is written.
    pub write_mode: WriteMode,
    /// When the row of an old mail says that it was made.
    pub created_on: Backdating,
    /// What is tracked.
    pub policy: PolicySource,
}

impl Pipeline {
    /// Brings a batch of messages as far as it goes now, live mail's way: at once. The answer has each message once, however often the batch names it.
    ///
    /// While Dataverse wants a pause, or when the invocation is nearly over, everything goes back as it came.
    pub async fn run(&self, work: Vec<Work>, run: Run) -> Vec<Handled> {
        match self.book(work.len(), &run).await {
            Ok(booking) => self.story(work, &run, &booking).await.0,
            Err(failure) => {
                let handled = claiming::untouched(work, &failure, &run);
                handled.iter().for_each(Handled::report);
                handled
            }
        }
    }

    /// The story of a batch whose time is booked.
    async fn story(
        &self,
        work: Vec<Work>,
        run: &Run,
        booking: &Booking,
    ) -> (Vec<Handled>, Traffic) {
        let (jobs, mut handled) = self.claim(work, run).await;
        let mut ended = Vec::new();
        let mut traffic = Traffic::default();
        if !jobs.is_empty() {
            // Boxed, because nested this deep the future's type is more than the compiler lays out.
            traffic = Box::pin(self.bring_in(jobs, run, &mut ended)).await;
        }
        self.put_right(booking, traffic, run);
        handled.extend(self.settle(ended, run).await);
        handled.iter().for_each(Handled::report);
        (handled, traffic)
    }

    /// Everything between claim and settle.
    async fn bring_in(&self, jobs: Vec<Job>, run: &Run, ended: &mut Vec<Ended>) -> Traffic {
        let Some(prepared) = self.prepare(jobs, run, ended).await else {
            return Traffic::default();
        };
        let Prepared {
            ground,
            session,
            messages,
            groups,
        } = prepared;
        let mut mails = Vec::new();
        for (tracked, mut found) in groups {
            let peopled = self.make_contacts(&session, tracked, &mut found, &ground, run, ended);
            let peopled = peopled.await;
            let regarded = self.regard(&session, peopled, &mut found, &ground, run, ended);
            for regarded in regarded.await {
                match self.map(&session, regarded, &found, &ground, run).await {
                    Mapped::Mail(mail) => mails.push(*mail),
                    Mapped::Ended(end) => ended.push(*end),
                }
            }
        }
        self.write(&session, mails, run, ended).await;
        self.share(&session, run).await;
        Traffic::of(&session, messages)
    }

    /// The steps that only read: until it is decided what is tracked. `None` when nothing is.
    async fn prepare(&self, jobs: Vec<Job>, run: &Run, ended: &mut Vec<Ended>) -> Option<Prepared> {
        let grants: Vec<_> = jobs.iter().map(|job| &job.key.grant_id).collect();
        let ground = match self.ground(&grants, run.now).await {
            Ok(ground) => ground,
            Err(failure) => {
                ended.extend(all_failed(jobs, &failure, run));
                return None;
            }
        };
        let jobs = ground.take_part(jobs, run, ended);
        let fetched = self.fetch(jobs, &ground, run, ended).await;
        let candidates = self.decide(fetched, &ground, run, ended).await;
        if candidates.is_empty() {
            return None;
        }
        let back = |candidates: Vec<Candidate>| candidates.into_iter().map(|one| one.job);
        let token = self.identities.of(run).tokens.token(run.now);
        let session = match token.await {
            Ok(token) => Session::timed_by(token, run.clock),
            Err(error) => {
                ended.extend(all_failed(back(candidates), &error.into(), run));
                return None;
            }
        };
        if run.is_nearly_over() {
            let failure = Failure::no_time_left();
            ended.extend(all_failed(back(candidates), &failure, run));
            return None;
        }
        let messages = candidates.len();
        let looked_up = self.look_up(&session, candidates, &ground, run, ended);
        let groups = looked_up.await.into_iter().map(|(group, found)| {
            let tracked = deciding::finally(group, &found, &ground, ended);
            (tracked, found)
        });
        Some(Prepared {
            groups: groups.collect(),
            ground,
            session,
            messages,
        })
    }

    /// Fetches what is not in hand, or lacks headers that the policy needs. A message that stays gone is skipped.
    async fn fetch(
        &self,
        jobs: Vec<Job>,
        ground: &Ground,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Job, Message)> {
        let fetches = stream::iter(jobs).map(async |mut job| {
            let headers = ground.headers(&job.key.grant_id);
            let suffices = |message: &Message| headers == Headers::Basic || message.has_all_headers;
            let fetched = match job.message.take().filter(suffices) {
                Some(message) => Ok(Fetched::Message(Box::new(message))),
                None if run.is_nearly_over() => Err(Failure::no_time_left()),
                None => self
                    .nylas
                    .message(&job.key, headers)
                    .await
                    .map_err(Failure::from),
            };
            (job, fetched)
        });
        let answers: Vec<_> = fetches.buffered(FETCHES).collect().await;
        let mut in_hand = Vec::new();
        for (job, result) in answers {
            match result {
                Ok(Fetched::Message(message)) => in_hand.push((job, *message)),
                Ok(Fetched::Gone) => ended.push(job.gone(run)),
                Err(failure) => ended.push(job.failed(failure, run)),
            }
        }
        in_hand
    }

    /// What is there already, and the rows to write.
    async fn map(
        &self,
        session: &Session,
        (candidate, regarding): (Candidate, Decision),
        found: &Found,
        ground: &Ground,
        run: &Run,
    ) -> Mapped {
        let mut findings = findings(&candidate, regarding, found, ground);
        let Candidate {
            mut job,
            mut message,
            effective,
            ..
        } = candidate;
        mapping::limit(&mut message, effective.content);
        let activity_id = message.activity_id();
        let ours = found.by_key(activity_id);
        let theirs = found.by_mail(&message);
        if let (None, Some(theirs)) = (ours, theirs) {
            return Mapped::ended(
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
                Ok(ended) => return Mapped::ended(ended),
                Err(back) => (job, findings) = *back,
            }
        }
        if ours.is_some_and(|ours| ours.state != RowState::Open) {
            return Mapped::ended(job.was_there(activity_id, &message, findings));
        }
        let begun = ours.is_some();
        let created_on = self.created_on.date(&message, run.now);
        let caller = Caller::new(effective.impersonate, findings.owner, found);
        let mail = Mail::new(job, message, findings, caller, created_on, begun);
        Mapped::Mail(Box::new(mail))
    }
}

/// Who is on it, what it concerns, whose it is.
fn findings(
    candidate: &Candidate,
    regarding: Decision,
    found: &Found,
    ground: &Ground,
) -> Findings {
    let Candidate {
        job,
        message,
        effective,
        ..
    } = candidate;
    let inside = ground.inside(found);
    let mailbox = ground.mailboxes.address(&job.key.grant_id);
    let owner = mailbox.and_then(|address| {
        let user = found.people(address).iter().find(|person| person.active)?;
        (user.record.table == Table::SystemUser).then_some(user.record.id)
    });
    let outgoing = message
        .author()
        .is_some_and(|sender| inside.contains(sender));
    Findings {
        direction: if outgoing {
            Direction::Outgoing
        } else {
            Direction::Incoming
        },
        parties: parties::of_message(message, &inside, effective.ambiguous),
        regarding,
        owner,
    }
}

/// What the steps that only read came to.
struct Prepared {
    ground: Ground,
    session: Session,
    /// How many messages Dataverse was asked about.
    messages: usize,
    /// What is tracked, with what was found about it.
    groups: Vec<(Vec<Candidate>, Found)>,
}

/// What mapping a message came to.
enum Mapped {
    Mail(Box<Mail>),
    Ended(Box<Ended>),
}

impl Mapped {
    fn ended(ended: Ended) -> Self {
        Self::Ended(Box::new(ended))
    }
}

fn all_failed(
    jobs: impl IntoIterator<Item = Job>,
    failure: &Failure,
    run: &Run,
) -> impl Iterator<Item = Ended> {
    jobs.into_iter().map(|job| job.failed(failure.clone(), run))
}
