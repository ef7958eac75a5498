//! The budget that every run keeps to: it books beforehand what its calls will take of the Dataverse user's time, and puts right afterwards what they took.
//! The rules: [`crate::governor`].

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::Pipeline;
use super::fate::{Failure, Run};
use crate::dataverse::error::DataverseError;
use crate::dataverse::session::Session;
use crate::dedupe::LEASE;
use crate::dedupe::pause::Scope;
use crate::entra::{TokenError, TokenSource};
use crate::governor::{self, Booking, Budget, Pace, Spent, Standing, User};
use crate::queue::SyncQueue;
use crate::refusal::RefusalState;
use crate::retry::{FIRST_STEP, LONGEST_HIDE};
use crate::telemetry::{Count, count};

/// A user of Dataverse, as a pipeline sends with it.
pub struct Identity {
    /// Which.
    pub user: User,
    /// Its token.
    pub tokens: TokenSource,
    known: Mutex<Known>,
}

/// What this process knows of a user.
struct Known {
    pace: Pace,
    suggested: Option<u32>,
    /// History does without it, as it has no token.
    is_left_out: bool,
}

impl Identity {
    /// A user of which nothing is known yet.
    #[must_use]
    pub fn new(user: User, tokens: TokenSource, budget: &Budget) -> Self {
        let known = Known {
            pace: Pace::new(budget),
            suggested: None,
            is_left_out: false,
        };
        Self {
            user,
            tokens,
            known: Mutex::new(known),
        }
    }

    // A panic elsewhere leaves it whole: each change here is one assignment.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The users of Dataverse with which a pipeline sends, each with a budget of its own. Live mail keeps to the first.
pub struct Identities {
    budget: Budget,
    primary: Identity,
    further: Vec<Identity>,
    /// By turns.
    next: AtomicUsize,
}

impl Identities {
    /// The primary user, whose token is this, and users who help with history.
    #[must_use]
    pub fn new(budget: Budget, primary: TokenSource, further: Vec<(User, TokenSource)>) -> Self {
        let further = further.into_iter();
        Self {
            primary: Identity::new(User::primary(), primary, &budget),
            further: further
                .map(|(user, tokens)| Identity::new(user, tokens, &budget))
                .collect(),
            budget,
            next: AtomicUsize::new(0),
        }
    }

    /// The one of a run.
    pub(super) fn of(&self, run: &Run) -> &Identity {
        self.numbered(run.identity)
    }

    fn numbered(&self, number: usize) -> &Identity {
        let further = number.checked_sub(1);
        further
            .and_then(|n| self.further.get(n))
            .unwrap_or(&self.primary)
    }

    /// All of them, as [`Run::identity`] counts them, each time beginning with another.
    fn by_turns(&self) -> impl Iterator<Item = usize> + use<> {
        let count = 1 + self.further.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..count).map(move |n| first.wrapping_add(n) % count)
    }
}

/// Whether a run may be the probe of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    MayBe,
    /// It writes no message, so it would tell nothing.
    IsNone,
}

/// A run whose time is booked.
#[derive(Default)]
pub(super) struct Booked {
    /// What was booked for it.
    pub(super) booking: Booking,
    /// What was known of refusals before.
    pub(super) refused: RefusalState,
    /// It is the one probe of a pause that is over: it may send one message.
    pub(super) is_probe: bool,
}

/// A batch of history that may begin.
pub(super) struct Admitted {
    /// With whose token.
    pub(super) identity: usize,
    /// Messages, at most.
    pub(super) size: usize,
    /// What was booked for it.
    pub(super) booked: Booked,
    /// How many batches there may be at the same time.
    pub(super) lanes: usize,
}

/// What a run asked of Dataverse.
#[derive(Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) spent: Spent,
    /// Messages that it was about.
    pub(super) messages: usize,
}

impl Traffic {
    pub(super) fn of(session: &Session, messages: usize) -> Self {
        Self {
            spent: session.spent(),
            messages,
        }
    }
}

impl Pipeline {
    /// Books the time of a run over so many messages that does not wait for its turn.
    ///
    /// # Errors
    /// Why nothing should be begun now: there is no token, Dataverse asked for a pause, or the invocation is nearly over.
    pub(super) async fn book(
        &self,
        messages: usize,
        run: &Run,
        probe: Probe,
    ) -> Result<Booked, Failure> {
        if run.is_nearly_over() {
            return Err(Failure::no_time_left());
        }
        let identity = self.identities.of(run);
        has_token(identity, run).await?;
        let booking = identity.known().pace.book(messages);
        let budget = &self.identities.budget;
        let standing = self.ledger.book(&identity.user, &booking, budget, run.now);
        // A ledger that does not answer says so once more when it is asked for a claim.
        let Ok(standing) = standing.await else {
            return Ok(Booked {
                booking,
                ..Booked::default()
            });
        };
        identity.known().suggested = standing.suggested;
        let paused_until = match (standing.pause(run.now), probe) {
            (Some(until), _) => Some(until),
            (None, _) if standing.refused.cause.is_none() => None,
            (None, Probe::MayBe) => self.take_probe(&identity.user, run.now).await.err(),
            (None, Probe::IsNone) => Some(run.now + LEASE),
        };
        if let Some(until) = paused_until {
            self.put_right(&booking, Traffic::default(), run);
            return Err(paused(until, standing.refused.cause.as_deref(), run));
        }
        Ok(Booked {
            booking,
            is_probe: standing.refused.cause.is_some(),
            refused: standing.refused,
        })
    }

    /// Takes the one probe of a pause for a refusal whose time is over.
    ///
    /// # Errors
    /// Somebody else has it, or that cannot be told: until when to wait.
    async fn take_probe(&self, user: &User, now: DateTime<Utc>) -> Result<(), DateTime<Utc>> {
        // Longer than the run may take: a worker that dies with the probe costs one more pause.
        let until = now + LEASE;
        let scope = Scope::Dataverse(user.clone());
        match self.ledger.take_probe(&scope, now, until).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(until),
        }
    }

    /// The same for a look that books nothing, because it may write nothing.
    pub(super) async fn not_now(&self, run: &Run) -> Option<Failure> {
        if run.is_nearly_over() {
            return Some(Failure::no_time_left());
        }
        let identity = self.identities.of(run);
        if let Err(failure) = has_token(identity, run).await {
            return Some(failure);
        }
        let user = &identity.user;
        let standing = self.ledger.standing(user).await.ok()?;
        let until = standing.pause(run.now)?;
        Some(paused(until, standing.refused.cause.as_deref(), run))
    }

    /// Until when history should wait, as far as can be told without booking anything: while live mail waits in `queue`, and until a user's time is free.
    /// `None` when a batch may begin.
    pub async fn history_waits_until<Q: SyncQueue>(
        &self,
        queue: &Q,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        if let Some(until) = yields(queue, now).await {
            return Some(until);
        }
        let mut soonest: Option<DateTime<Utc>> = None;
        for number in self.identities.by_turns() {
            let identity = self.identities.numbered(number);
            let until = if let Some(until) = self.left_out(identity, now).await {
                until
            } else {
                let owed = identity.known().pace.owed();
                // A ledger that does not answer says so once more when it is asked to book.
                let standing = self.ledger.standing(&identity.user).await;
                standing.unwrap_or_default().free_at(owed, now)?
            };
            soonest = Some(soonest.map_or(until, |soonest| soonest.min(until)));
        }
        soonest
    }

    /// Whether every user has to pause, or has no token, as far as can be told.
    pub async fn is_paused(&self, now: DateTime<Utc>) -> bool {
        let Identities {
            primary, further, ..
        } = &self.identities;
        for identity in std::iter::once(primary).chain(further) {
            let paused = self.ledger.paused_until(&identity.user, now);
            if self.left_out(identity, now).await.is_none() && !matches!(paused.await, Ok(Some(_)))
            {
                return false;
            }
        }
        true
    }

    /// Books a batch of history of at most so many messages with the first user whose time is free.
    ///
    /// # Errors
    /// The moment from which on it is worth asking again.
    pub(super) async fn admit<Q: SyncQueue>(
        &self,
        messages: usize,
        queue: &Q,
        now: DateTime<Utc>,
    ) -> Result<Admitted, DateTime<Utc>> {
        if let Some(until) = yields(queue, now).await {
            return Err(until);
        }
        let budget = &self.identities.budget;
        let mut soonest = now + TokenError::WAIT;
        for number in self.identities.by_turns() {
            let identity = self.identities.numbered(number);
            if let Some(until) = self.left_out(identity, now).await {
                soonest = soonest.min(until);
                continue;
            }
            let (size, booking) = {
                let mut known = identity.known();
                // Of equal size, rather than a large one and the one message that is left.
                let batches = messages.div_ceil(known.pace.size()).max(1);
                let size = messages.div_ceil(batches);
                (size, known.pace.book(size))
            };
            let booked = self
                .ledger
                .book_if_free(&identity.user, &booking, budget, now);
            let standing = match booked.await {
                Ok(Ok(standing)) => standing,
                Ok(Err(until)) => {
                    identity.known().pace.cancel(&booking);
                    soonest = soonest.min(until);
                    continue;
                }
                // It says so once more when it is asked for a claim.
                Err(_) => Standing::default(),
            };
            identity.known().suggested = standing.suggested;
            let is_probe = standing.refused.cause.is_some();
            if is_probe && let Err(until) = self.take_probe(&identity.user, now).await {
                identity.known().pace.cancel(&booking);
                soonest = soonest.min(until);
                continue;
            }
            return Ok(Admitted {
                identity: number,
                size: if is_probe { 1 } else { size },
                lanes: if is_probe { 1 } else { standing.lanes() },
                booked: Booked {
                    booking,
                    refused: standing.refused,
                    is_probe,
                },
            });
        }
        Err(soonest)
    }

    /// When it is worth asking again for a user without a token, whom history does without. Its source asks the store once a minute, and is asked each time.
    async fn left_out(&self, identity: &Identity, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let token = identity.tokens.token(now).await;
        let was_left_out = mem::replace(&mut identity.known().is_left_out, token.is_err());
        let error = token.err()?;
        if !was_left_out {
            count(Count::TokenMissing, 1);
            let user = &identity.user;
            tracing::warn!(%user, %error, "history does without this user: it has no token");
        }
        Some(now + TokenError::WAIT)
    }

    /// Puts right what was booked for a run, now that it is known what the run asked for.
    pub(super) fn put_right(&self, booking: &Booking, traffic: Traffic, run: &Run) {
        let Traffic { spent, messages } = traffic;
        let mut known = self.identities.of(run).known();
        let budget = &self.identities.budget;
        known.pace.settle(budget, booking, spent, messages);
    }

    /// Adapts the size of the batches of history to what one took.
    pub(super) fn adapt(&self, traffic: Traffic, run: &Run) {
        let target = self.identities.budget.batch_time();
        let mut known = self.identities.of(run).known();
        known
            .pace
            .adapt(traffic.messages, traffic.spent.time, target);
    }

    /// Tells the others who send with the same user what Dataverse asked for: a pause, or another parallelism than before. Tells this one's next run of a token
    /// that it refused.
    pub(super) async fn share(&self, session: &Session, run: &Run) {
        let identity = self.identities.of(run);
        let user = &identity.user;
        if let Some(DataverseError::Throttled { retry_after }) = session.ended_by() {
            let wait = retry_after.unwrap_or(FIRST_STEP).min(LONGEST_HIDE);
            let wait = TimeDelta::from_std(wait).unwrap_or_default();
            if let Err(error) = self.ledger.pause(user, run.time() + wait).await {
                // Each of the others is then refused once before it knows.
                tracing::warn!(%user, %error, "the pause could not be shared");
            }
        }
        self.forget_refused(session, run).await;
        let known = identity.known().suggested;
        if let Some(suggested) = session.suggested().filter(|now| known != Some(*now)) {
            identity.known().suggested = Some(suggested);
            if let Err(error) = self.ledger.keep_suggestion(user, suggested, run.now).await {
                tracing::warn!(%user, %error, "the suggested parallelism could not be kept");
            }
        }
    }

    /// Drops a token that Dataverse refused, so that the next run reads another one.
    pub(super) async fn forget_refused(&self, session: &Session, run: &Run) {
        if let Some(DataverseError::TokenRejected) = session.ended_by() {
            let tokens = &self.identities.of(run).tokens;
            tokens.refused(session.token()).await;
        }
    }
}

async fn has_token(identity: &Identity, run: &Run) -> Result<(), Failure> {
    let token = identity.tokens.token(run.now).await;
    token.map(drop).map_err(|error| {
        count(Count::TokenMissing, 1);
        error.into()
    })
}

/// What waits for the end of a pause: one that Dataverse asked for, or one for a refusal.
pub(super) fn paused(until: DateTime<Utc>, cause: Option<&str>, run: &Run) -> Failure {
    let wait = (until - run.now).to_std().unwrap_or_default();
    let reason = match cause {
        Some(cause) => format!("dataverse refuses everybody: {cause}"),
        None => "dataverse asked for a pause".to_owned(),
    };
    Failure::postponed(wait, reason)
}

async fn yields<Q: SyncQueue>(queue: &Q, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match queue.waiting().await {
        Ok(waiting) => governor::yields(waiting, now),
        // Live mail has the better half of the budget all the same.
        Err(error) => {
            tracing::warn!(%error, "it could not be told whether live mail waits");
            None
        }
    }
}
