//! Limits how much is sent to Dataverse: a GCRA rate limiter for each application user, which live
//! mail and backfill share. Pure.
//!
//! Dataverse counts what one user sends within a sliding window (Dataverse facts §11.1). A client
//! that exceeds a limit is refused, and every process with the same user has to wait: live mail
//! would wait because of a backfill of old mail. So the limits must not be found by exceeding them:
//!
//! - **Every process reserves capacity.** The ledger has one item for each user with a theoretical
//!   arrival time (TAT), up to which the user's capacity is reserved
//!   ([`crate::ledger::reservations`]). An invocation advances the TAT by the expected usage of its
//!   calls ([`Limits::time_of`]) and corrects it later by their actual usage.
//! - **Live mail never waits**, however much is reserved. It reads the pause from the same item
//!   anyway, so a reservation adds no call.
//! - **Backfill starts a batch when the TAT has passed** ([`LimiterState::free_at`]). So it gets
//!   what live mail leaves, up to [`gcra::SHARE_PERCENT`] of the limits; the rest is room for a
//!   burst of live mail. It starts no batch while more than one worker's batch of live mail waits
//!   in its queue ([`yield_until`]).
//! - **A backfill batch** has as many messages as take about [`Limits::batch_time`], between
//!   [`batch_size::SMALLEST`] and [`LARGEST`] ([`BatchSize`]).
//! - **Each invocation runs as many batches at once** as Dataverse suggests (`x-ms-dop-hint`,
//!   [`LimiterState::concurrency`]). The reservations limit the total number: operations that use
//!   four seconds of execution per second are, on average, four at a time.
//! - **429 and `Retry-After`** pause every process with that user: the same item stores until when.
//!
//! Each response also states the remaining time. It is "for diagnosis, not for control" (§11.1) and
//! is not used here.

mod application_user;
mod batch_size;
mod gcra;
#[cfg(test)]
mod tests;

pub use self::application_user::ApplicationUser;
pub(crate) use self::batch_size::BatchSize;
pub use self::batch_size::LARGEST;
pub(crate) use self::gcra::yield_until;
pub use self::gcra::{InvalidLimits, LimiterState, Limits, Reservation};
