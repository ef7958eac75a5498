//! The rate limit of every run: capacity of the Dataverse user is reserved before the calls and
//! corrected to the actual usage afterwards. The rules: [`crate::rate_limit`].

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use crate::clients::aws::queue::SyncQueue;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::session::Session;
use crate::clients::dataverse::session::Usage;
use crate::clients::entra::{TokenError, TokenSource};
use crate::clients::refusal::RefusalState;
use crate::clients::retry::{FIRST_STEP, LONGEST_HIDE};
use crate::ledger::LEASE;
use crate::ledger::pauses::Scope;
use crate::rate_limit;
use crate::rate_limit::{ApplicationUser, BatchSize, LimiterState, Limits, Reservation};
use crate::telemetry::{Count, count};

/// An application user of Dataverse that requests are sent as.
pub(crate) struct UserConnection {
    /// The user.
    pub user: ApplicationUser,
    /// The source of its token.
    pub tokens: TokenSource,
    known: Mutex<UserState>,
}

/// What this process knows of a user.
struct UserState {
    batch_size: BatchSize,
    suggested_concurrency: Option<u32>,
    /// Backfill does not use this user now, because it has no token.
    is_left_out: bool,
}

impl UserConnection {
    /// Creates a user of which nothing is known yet.
    #[must_use]
    pub(crate) fn new(user: ApplicationUser, tokens: TokenSource, limits: &Limits) -> Self {
        let known = UserState {
            batch_size: BatchSize::new(limits),
            suggested_concurrency: None,
            is_left_out: false,
        };
        Self {
            user,
            tokens,
            known: Mutex::new(known),
        }
    }

    // A panic elsewhere leaves the value consistent: each change here is one assignment.
    fn known(&self) -> MutexGuard<'_, UserState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The application users that a pipeline sends as, each with its own rate limit. Live mail uses
/// only the first.
pub struct ApplicationUsers {
    limits: Limits,
    primary: UserConnection,
    further: Vec<UserConnection>,
    /// The user that the next backfill batch asks first (round robin).
    next: AtomicUsize,
}

impl ApplicationUsers {
    /// Creates the primary user with its token source, and the further users that only backfill
    /// uses.
    #[must_use]
    pub fn new(
        limits: Limits,
        primary: TokenSource,
        further: Vec<(ApplicationUser, TokenSource)>,
    ) -> Self {
        let further = further.into_iter();
        Self {
            primary: UserConnection::new(ApplicationUser::primary(), primary, &limits),
            further: further
                .map(|(user, tokens)| UserConnection::new(user, tokens, &limits))
                .collect(),
            limits,
            next: AtomicUsize::new(0),
        }
    }

    /// Returns the user of a run.
    pub(super) fn of(&self, invocation: &Invocation) -> &UserConnection {
        self.numbered(invocation.application_user)
    }

    fn numbered(&self, number: usize) -> &UserConnection {
        let further = number.checked_sub(1);
        further
            .and_then(|n| self.further.get(n))
            .unwrap_or(&self.primary)
    }

    /// Returns the numbers of all users, as in [`Invocation::application_user`], starting with a
    /// different one each time.
    fn round_robin(&self) -> impl Iterator<Item = usize> + use<> {
        let count = 1 + self.further.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..count).map(move |n| first.wrapping_add(n) % count)
    }
}

/// Whether a run may be the probe of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    MayBe,
    /// It writes no message, so it would prove nothing.
    IsNone,
}

/// A run whose capacity is reserved.
#[derive(Default)]
pub(super) struct ReservedBatch {
    /// The reservation.
    pub(super) reservation: Reservation,
    /// The refusals that were known before the run.
    pub(super) refused: RefusalState,
    /// It is the one probe after a pause: it may send one message.
    pub(super) is_probe: bool,
}

/// A backfill batch that may begin.
pub(super) struct Admitted {
    /// The number of the application user ([`Invocation::application_user`]).
    pub(super) application_user: usize,
    /// The most messages that the batch may have.
    pub(super) size: usize,
    /// The reservation for it.
    pub(super) reserved: ReservedBatch,
    /// How many batches may run at the same time.
    pub(super) concurrency: usize,
}

/// The usage of a run: its requests to Dataverse, their time, and the number of messages.
#[derive(Clone, Copy, Default)]
pub(super) struct BatchUsage {
    pub(super) usage: Usage,
    /// The number of messages that were looked up.
    pub(super) messages: usize,
}

impl BatchUsage {
    pub(super) fn of(session: &Session, messages: usize) -> Self {
        Self {
            usage: session.usage(),
            messages,
        }
    }
}

impl Pipeline {
    /// Reserves capacity for a run over `messages` messages that does not wait for its turn.
    ///
    /// # Errors
    /// [`Failure`]: do not begin; return the messages to the queue. There is no token, Dataverse is
    /// paused, or the invocation is nearly over.
    pub(super) async fn reserve(
        &self,
        messages: usize,
        invocation: &Invocation,
        probe: Probe,
    ) -> Result<ReservedBatch, Failure> {
        if invocation.is_nearly_over() {
            return Err(Failure::no_time_left());
        }
        let application_user = self.application_users.of(invocation);
        has_token(application_user, invocation).await?;
        let reservation = application_user.known().batch_size.reserve(messages);
        let limits = &self.application_users.limits;
        let limiter_state =
            self.ledger
                .reserve(&application_user.user, &reservation, limits, invocation.now);
        // If the ledger does not answer, the claim that follows reports the failure.
        let Ok(limiter_state) = limiter_state.await else {
            return Ok(ReservedBatch {
                reservation,
                ..ReservedBatch::default()
            });
        };
        application_user.known().suggested_concurrency = limiter_state.suggested_concurrency;
        let paused_until = match (limiter_state.pause(invocation.now), probe) {
            (Some(until), _) => Some(until),
            (None, _) if limiter_state.refused.cause.is_none() => None,
            (None, Probe::MayBe) => self
                .take_probe(&application_user.user, invocation.now)
                .await
                .err(),
            (None, Probe::IsNone) => Some(invocation.now + LEASE),
        };
        if let Some(until) = paused_until {
            self.settle_reservation(&reservation, BatchUsage::default(), invocation);
            return Err(paused(
                until,
                limiter_state.refused.cause.as_deref(),
                invocation,
            ));
        }
        Ok(ReservedBatch {
            reservation,
            is_probe: limiter_state.refused.cause.is_some(),
            refused: limiter_state.refused,
        })
    }

    /// Takes the one probe after a pause for a refusal.
    ///
    /// # Errors
    /// Another worker has the probe, or the ledger does not answer: the time until which to wait.
    async fn take_probe(
        &self,
        user: &ApplicationUser,
        now: DateTime<Utc>,
    ) -> Result<(), DateTime<Utc>> {
        // Longer than the run may take: if the worker dies with the probe, the pause is repeated
        // once.
        let until = now + LEASE;
        let scope = Scope::Dataverse(user.clone());
        match self.ledger.take_probe(&scope, now, until).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(until),
        }
    }

    /// Returns why a run that only reads may not begin now; `None` if it may. Reserves nothing,
    /// because it must not write to the ledger.
    pub(super) async fn check_may_begin(&self, invocation: &Invocation) -> Option<Failure> {
        if invocation.is_nearly_over() {
            return Some(Failure::no_time_left());
        }
        let application_user = self.application_users.of(invocation);
        if let Err(failure) = has_token(application_user, invocation).await {
            return Some(failure);
        }
        let user = &application_user.user;
        let limiter_state = self.ledger.limiter_state(user).await.ok()?;
        let until = limiter_state.pause(invocation.now)?;
        Some(paused(
            until,
            limiter_state.refused.cause.as_deref(),
            invocation,
        ))
    }

    /// Returns until when backfill should wait, without reserving anything: while live mail waits
    /// in `queue`, and until a user has free capacity. The value is an estimate.
    ///
    /// `None` if a batch may begin.
    pub async fn backfill_waits_until<Q: SyncQueue>(
        &self,
        queue: &Q,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        if let Some(until) = yield_until(queue, now).await {
            return Some(until);
        }
        let mut soonest: Option<DateTime<Utc>> = None;
        for number in self.application_users.round_robin() {
            let application_user = self.application_users.numbered(number);
            let until = if let Some(until) = self.left_out(application_user, now).await {
                until
            } else {
                let owed = application_user.known().batch_size.owed();
                // If the ledger does not answer, the reservation that follows reports the failure.
                let limiter_state = self.ledger.limiter_state(&application_user.user).await;
                limiter_state.unwrap_or_default().free_at(owed, now)?
            };
            soonest = Some(soonest.map_or(until, |soonest| soonest.min(until)));
        }
        soonest
    }

    /// Returns whether every user is paused or has no token. A user whose state cannot be read
    /// counts as not paused.
    pub async fn is_paused(&self, now: DateTime<Utc>) -> bool {
        let ApplicationUsers {
            primary, further, ..
        } = &self.application_users;
        for application_user in std::iter::once(primary).chain(further) {
            let paused = self.ledger.paused_until(&application_user.user, now);
            if self.left_out(application_user, now).await.is_none()
                && !matches!(paused.await, Ok(Some(_)))
            {
                return false;
            }
        }
        true
    }

    /// Reserves capacity for a backfill batch of at most `messages` messages, for the first user
    /// that has free capacity.
    ///
    /// # Errors
    /// No user has free capacity, or live mail is waiting: the time at which to ask again.
    pub(super) async fn admit<Q: SyncQueue>(
        &self,
        messages: usize,
        queue: &Q,
        now: DateTime<Utc>,
    ) -> Result<Admitted, DateTime<Utc>> {
        if let Some(until) = yield_until(queue, now).await {
            return Err(until);
        }
        let limits = &self.application_users.limits;
        let mut soonest = now + TokenError::WAIT;
        for number in self.application_users.round_robin() {
            let application_user = self.application_users.numbered(number);
            if let Some(until) = self.left_out(application_user, now).await {
                soonest = soonest.min(until);
                continue;
            }
            let (size, reservation) = {
                let mut known = application_user.known();
                // Batches of equal size, rather than large ones and a last one with a single
                // message.
                let batches = messages.div_ceil(known.batch_size.size()).max(1);
                let size = messages.div_ceil(batches);
                (size, known.batch_size.reserve(size))
            };
            let reserved =
                self.ledger
                    .try_reserve(&application_user.user, &reservation, limits, now);
            let limiter_state = match reserved.await {
                Ok(Ok(limiter_state)) => limiter_state,
                Ok(Err(until)) => {
                    application_user.known().batch_size.cancel(&reservation);
                    soonest = soonest.min(until);
                    continue;
                }
                // The claim that follows reports the failure.
                Err(_) => LimiterState::default(),
            };
            application_user.known().suggested_concurrency = limiter_state.suggested_concurrency;
            let is_probe = limiter_state.refused.cause.is_some();
            if is_probe && let Err(until) = self.take_probe(&application_user.user, now).await {
                application_user.known().batch_size.cancel(&reservation);
                soonest = soonest.min(until);
                continue;
            }
            return Ok(Admitted {
                application_user: number,
                size: if is_probe { 1 } else { size },
                concurrency: if is_probe {
                    1
                } else {
                    limiter_state.concurrency()
                },
                reserved: ReservedBatch {
                    reservation,
                    refused: limiter_state.refused,
                    is_probe,
                },
            });
        }
        Err(soonest)
    }

    /// Returns when to ask again for a user without a token; `None` if the user has one. Backfill
    /// skips a user without a token. The token is requested each time; its source reads the store
    /// at most once a minute.
    async fn left_out(
        &self,
        application_user: &UserConnection,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let token = application_user.tokens.token(now).await;
        let was_left_out = mem::replace(&mut application_user.known().is_left_out, token.is_err());
        let error = token.err()?;
        if !was_left_out {
            count(Count::TokenMissing, 1);
            let user = &application_user.user;
            tracing::warn!(%user, %error, "no token for this application user; backfill continues without it");
        }
        Some(now + TokenError::WAIT)
    }

    /// Corrects the reservation of a run to its actual usage.
    pub(super) fn settle_reservation(
        &self,
        reservation: &Reservation,
        usage: BatchUsage,
        invocation: &Invocation,
    ) {
        let BatchUsage { usage, messages } = usage;
        let mut known = self.application_users.of(invocation).known();
        let limits = &self.application_users.limits;
        known
            .batch_size
            .settle(limits, reservation, usage, messages);
    }

    /// Adapts the size of backfill batches to the time that a batch took.
    pub(super) fn adapt(&self, usage: BatchUsage, invocation: &Invocation) {
        let target = self.application_users.limits.batch_time();
        let mut known = self.application_users.of(invocation).known();
        known
            .batch_size
            .adapt(usage.messages, usage.usage.time, target);
    }

    /// Stores what Dataverse asked for, for all workers with the same user: a pause, or a changed
    /// suggested concurrency. Also drops a token that Dataverse refused, so that the next run of
    /// this process reads another one.
    pub(super) async fn publish_limits(&self, session: &Session, invocation: &Invocation) {
        let application_user = self.application_users.of(invocation);
        let user = &application_user.user;
        if let Some(DataverseError::Throttled { retry_after }) = session.ended_by() {
            let wait = retry_after.unwrap_or(FIRST_STEP).min(LONGEST_HIDE);
            let wait = TimeDelta::from_std(wait).unwrap_or_default();
            if let Err(error) = self.ledger.pause(user, invocation.time() + wait).await {
                // Each of the other workers is then throttled once before it pauses.
                tracing::warn!(%user, %error, "failed to store the pause; other workers will be throttled once before they pause");
            }
        }
        self.drop_refused_token(session, invocation).await;
        let known = application_user.known().suggested_concurrency;
        if let Some(suggested_concurrency) = session
            .suggested_concurrency()
            .filter(|now| known != Some(*now))
        {
            application_user.known().suggested_concurrency = Some(suggested_concurrency);
            if let Err(error) = self
                .ledger
                .store_suggested_concurrency(user, suggested_concurrency, invocation.now)
                .await
            {
                tracing::warn!(%user, %error, "failed to store the suggested concurrency; the stored value stays in use");
            }
        }
    }

    /// Drops a token that Dataverse refused, so that the next run reads another one.
    pub(super) async fn drop_refused_token(&self, session: &Session, invocation: &Invocation) {
        if let Some(DataverseError::TokenRejected) = session.ended_by() {
            let tokens = &self.application_users.of(invocation).tokens;
            tokens.refused(session.token()).await;
        }
    }
}

async fn has_token(
    application_user: &UserConnection,
    invocation: &Invocation,
) -> Result<(), Failure> {
    let token = application_user.tokens.token(invocation.now).await;
    token.map(drop).map_err(|error| {
        count(Count::TokenMissing, 1);
        error.into()
    })
}

/// Returns the failure of messages that wait for the end of a pause: from `Retry-After`, or for a
/// refusal (`cause`).
pub(super) fn paused(
    until: DateTime<Utc>,
    cause: Option<&str>,
    invocation: &Invocation,
) -> Failure {
    let wait = (until - invocation.now).to_std().unwrap_or_default();
    let reason = match cause {
        Some(cause) => format!("dataverse refuses all requests: {cause}"),
        None => "dataverse asked for a pause".to_owned(),
    };
    Failure::postponed(wait, reason)
}

async fn yield_until<Q: SyncQueue>(queue: &Q, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    match queue.waiting().await {
        Ok(waiting) => rate_limit::yield_until(waiting, now),
        // Live mail still has priority: it never waits for capacity.
        Err(error) => {
            tracing::warn!(%error, "failed to read the sync queue depth; assuming no live mail is waiting");
            None
        }
    }
}
