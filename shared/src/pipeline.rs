//! What happens to a message, in order. One story, for a batch of messages:
//!
//! **claim** each in the ledger → leave out what lies in a mailbox that does not **take part** →
//! **fetch** those not yet in hand, as many as may be held at a time → **decide** by the policy →
//! **look up** all people and mails of the batch in one
//! `$batch` of queries → **decide** what only that can tell → **tell apart** what shares a Message-ID → **make** contacts where the policy says so → **regard** → **map** → **write** one `$batch` with one
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
mod attachments;
pub mod budget;
mod claiming;
pub mod created_on;
mod deciding;
mod fate;
mod fetching;
mod ground;
mod handled;
pub mod history;
mod job;
mod mailbox_pauses;
mod newcomers;
pub mod people_limit;
mod portions;
pub mod preview;
mod refusals;
mod regard;
mod reused;
pub mod settings;
pub mod theirs;
mod writing;

use self::asking::LookedUp;
use self::budget::{Booked, Identities, Probe, Traffic};
use self::created_on::Backdating;
use self::fate::Failure;
pub use self::fate::{Fate, Run, Work};
use self::ground::Ground;
pub use self::handled::{Handled, Summary};
use self::job::{Candidate, Ended, Job};
use self::mailbox_pauses::Pauses;
use self::people_limit::ResolvedPeopleLimit;
use self::portions::Portions;
use self::refusals::Aftermath;
use self::writing::{Caller, Mail};
use crate::dataverse::DataverseClient;
use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{RowState, Table};
use crate::dataverse::session::Session;
use crate::dataverse::write::WriteMode;
use crate::dedupe::ledger::Ledger;
use crate::ids::GrantId;
use crate::mailboxes::MailboxDirectory;
use crate::mapping::{self, Direction, Findings};
use crate::nylas::NylasClient;
use crate::parties;
use crate::policy::source::PolicySource;
use crate::regarding::Decision;
use crate::retry::FIRST_STEP;

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
    /// How many people of one message are looked up.
    pub people_limit: ResolvedPeopleLimit,
}

impl Pipeline {
    /// Brings a batch of messages as far as it goes now, live mail's way: at once. The answer has each message once, however often the batch names it.
    ///
    /// While Dataverse wants a pause, or when the invocation is nearly over, everything goes back as it came.
    pub async fn run(&self, work: Vec<Work>, run: Run) -> Vec<Handled> {
        match self.book(work.len(), &run, Probe::MayBe).await {
            // Boxed, because it is seldom and large.
            Ok(booked) if booked.is_probe => Box::pin(self.probe(work, &run, &booked)).await,
            Ok(booked) => self.story(work, &run, &booked).await.handled,
            Err(failure) => untouched(work, &failure, &run),
        }
    }

    /// The first message alone, and the others after it, if it passes.
    async fn probe(&self, work: Vec<Work>, run: &Run, booked: &Booked) -> Vec<Handled> {
        let mut work = claiming::once_each(work);
        let rest = work.split_off(work.len().min(1));
        let Story {
            mut handled,
            aftermath,
            passed,
            ..
        } = self.story(work, run, booked).await;
        if rest.is_empty() {
            return handled;
        }
        handled.extend(match aftermath {
            Aftermath::Pause(until) => {
                let cause = booked.refused.cause.as_deref();
                untouched(rest, &budget::paused(until, cause, run), run)
            }
            Aftermath::GoOn if passed && !run.is_nearly_over() => {
                self.story(rest, run, &Booked::default()).await.handled
            }
            // It told nothing; another message is the next probe.
            Aftermath::GoOn => untouched(
                rest,
                &Failure::postponed(FIRST_STEP, "a probe is under way"),
                run,
            ),
        });
        handled
    }

    /// The story of a batch whose time is booked.
    async fn story(&self, work: Vec<Work>, run: &Run, booked: &Booked) -> Story {
        let (jobs, mut handled) = self.claim(work, run).await;
        let mut ended = Vec::new();
        let mut traffic = Traffic::default();
        if !jobs.is_empty() {
            // Boxed, because nested this deep the future's type is more than the compiler lays out.
            traffic = Box::pin(self.bring_in(jobs, run, &mut ended)).await;
        }
        self.put_right(&booked.booking, traffic, run);
        // Boxed, because there is seldom anything to judge.
        let aftermath = Box::pin(self.judge_run(&mut ended, booked, run)).await;
        let passed = ended.iter().any(|end| end.wrote);
        handled.extend(self.settle(ended, run).await);
        handled.iter().for_each(Handled::report);
        Story {
            handled,
            traffic,
            aftermath,
            passed,
        }
    }

    /// Everything between claim and settle, portion by portion ([`portions`]).
    async fn bring_in(&self, jobs: Vec<Job>, run: &Run, ended: &mut Vec<Ended>) -> Traffic {
        let Some((mut begun, jobs)) = self.begin(jobs, Looks::Write, run, ended).await else {
            return Traffic::default();
        };
        let mut messages = 0;
        let mut portions = Portions::of(jobs);
        let mut is_first = true;
        while let Some(portion) = portions.next() {
            if !std::mem::take(&mut is_first) {
                // The portions before may have begun or ended some.
                begun.pauses = self.mailbox_pauses(&grants_of(&portion)).await;
            }
            let steps = self.portion(portion, &begun, run, &mut messages, ended);
            match portions::caught(Box::pin(steps)).await {
                Some(rest) => portions.put_back(rest),
                None => portions.panicked(ended, run),
            }
        }
        if messages > 0 {
            self.share(&begun.session, run).await;
        }
        Traffic::of(&begun.session, messages)
    }

    /// Reads what all messages of a run stand on. `None` when nothing can be begun: the messages have ended.
    async fn begin(
        &self,
        jobs: Vec<Job>,
        looks: Looks,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Option<(Begun, Vec<Job>)> {
        let grants = grants_of(&jobs);
        let pauses = self.mailbox_pauses(&grants).await;
        if let Some(failure) = pauses.of_nylas(run) {
            ended.extend(all_failed(jobs, &failure, run));
            return None;
        }
        let ground = match self.ground(&grants, run.now).await {
            Ok(ground) => ground,
            Err(failure) => {
                let failed: Vec<Ended> = all_failed(jobs, &failure, run).collect();
                ended.extend(self.without_mailboxes(failed, &pauses, looks, run).await);
                return None;
            }
        };
        let jobs = ground.take_part(jobs, run, ended);
        if jobs.is_empty() {
            return None;
        }
        let token = self.identities.of(run).tokens.token(run.now);
        let session = match token.await {
            Ok(token) => Session::timed_by(token, run.clock),
            Err(error) => {
                ended.extend(all_failed(jobs, &error.into(), run));
                return None;
            }
        };
        let begun = Begun {
            ground,
            session,
            pauses,
        };
        Some((begun, jobs))
    }

    /// Takes as many messages of a portion as may be held through all steps. Gives back the others.
    async fn portion(
        &self,
        mut portion: Vec<Job>,
        begun: &Begun,
        run: &Run,
        looked_up: &mut usize,
        ended: &mut Vec<Ended>,
    ) -> Vec<Job> {
        let stopped = begun.session.ended_by().map(|error| error.clone().into());
        if let Some(failure) = refusals::of_everybody(ended).or(stopped) {
            // They would be fetched for nothing.
            ended.extend(all_failed(portion, &failure, run));
            return Vec::new();
        }
        let candidates = self
            .prepare(&mut portion, begun, Looks::Write, run, ended)
            .await;
        *looked_up += candidates.len();
        self.track(candidates, begun, run, ended).await;
        portion
    }

    /// Takes as many messages from `jobs` as may be held, until the policy needs to know what Dataverse knows of them.
    async fn prepare(
        &self,
        jobs: &mut Vec<Job>,
        begun: &Begun,
        looks: Looks,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<Candidate> {
        let Begun { ground, pauses, .. } = begun;
        let fetched = self.fetch(jobs, pauses, looks, ground, run, ended).await;
        self.decide(fetched, ground, run, ended).await
    }

    /// From the look-up to the row, group by group ([`asking`]).
    async fn track(
        &self,
        candidates: Vec<Candidate>,
        begun: &Begun,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) {
        let Begun {
            ground, session, ..
        } = begun;
        let mut groups = asking::groups(candidates, self.dataverse.queries_a_batch());
        while !groups.is_empty() {
            let looked_up = self.look_up(session, &mut groups, ground, run, ended);
            let LookedUp::Found(group, mut found) = looked_up.await else {
                continue;
            };
            let mut tracked = deciding::finally(group, &found, ground, ended);
            self.tell_apart(session, &mut tracked, &mut found, run, ended)
                .await;
            let peopled = self.make_contacts(session, tracked, &mut found, ground, run, ended);
            let peopled = peopled.await;
            let regarded = self.regard(session, peopled, &mut found, ground, run, ended);
            let mut mails = Vec::new();
            for regarded in regarded.await {
                match self.map(session, regarded, &found, ground, run).await {
                    Mapped::Mail(mail) => mails.push(*mail),
                    Mapped::Ended(end) => ended.push(*end),
                }
            }
            self.write(session, mails, run, ended).await;
        }
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
            by_content,
            ..
        } = candidate;
        mapping::limit(&mut message, effective.content);
        let left_out = people_limit::left_out(&message, &findings.parties);
        message.omissions.extend(left_out);
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
        let mut mail = Mail::new(job, message, findings, caller, created_on, begun);
        mail.know_key_by_content(by_content);
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
        people,
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
        parties: people.limit(parties::of_message(message, &inside, effective.ambiguous)),
        regarding,
        owner,
    }
}

/// Whether the pauses of mailboxes are written as well as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// A preview, which writes nothing.
    Only,
    Write,
}

/// How a batch ended.
struct Story {
    handled: Vec<Handled>,
    traffic: Traffic,
    aftermath: Aftermath,
    /// A message of it was written.
    passed: bool,
}

fn untouched(work: Vec<Work>, failure: &Failure, run: &Run) -> Vec<Handled> {
    let handled = claiming::untouched(work, failure, run);
    handled.iter().for_each(Handled::report);
    handled
}

/// What all messages of a run stand on, and the calls that they share.
struct Begun {
    ground: Ground,
    session: Session,
    /// The pauses of the mailboxes, as they were read last.
    pauses: Pauses,
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

fn grants_of(jobs: &[Job]) -> Vec<&GrantId> {
    jobs.iter().map(|job| &job.key.grant_id).collect()
}

fn all_failed(
    jobs: impl IntoIterator<Item = Job>,
    failure: &Failure,
    run: &Run,
) -> impl Iterator<Item = Ended> {
    jobs.into_iter().map(|job| job.failed(failure.clone(), run))
}
