//! How a test makes a service fail.
//!
//! A test queues faults, and each HTTP request uses up one. For Dataverse and Nylas there is also a
//! plan that injects random faults, the same ones for the same seed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lock::lock;

/// A fault of one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The service answers with this error and does nothing else.
    Status {
        /// The HTTP status.
        status: u16,
        /// Dataverse: the hexadecimal error code. Nylas: the error type. Entra: the OAuth error, or
        /// a number such as `AADSTS50196`.
        code: String,
        /// The message beside the code.
        message: String,
        /// The value of the `Retry-After` header, in seconds; `None` sends no header.
        retry_after_seconds: Option<u64>,
    },
    /// The connection breaks before the service does anything.
    ResetBefore,
    /// The service does everything that was requested, then the connection breaks and the answer is
    /// lost.
    ResetAfterCommit,
}

/// How often each fault occurs at random.
///
/// Each rate is a number of cases in 1,000. A request meets at most one fault, so the rates of
/// requests should not exceed 1,000 in total; a fault beyond that never occurs.
///
/// The seed and the number of requests since the plan was set decide alone which request is hit:
/// the same calls in the same order fail the same way. Queued faults come first, and the plan does
/// not count the requests that they hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The same seed gives the same faults.
    pub seed: u64,
    /// Requests answered with 500, 502, 503 or 504 before anything is done. 500 comes from the
    /// service itself; the others come from a gateway and are not JSON.
    pub server_error: u16,
    /// Requests answered with one of these statuses although everything was done.
    pub server_error_after_commit: u16,
    /// Requests whose connection breaks before anything is done.
    pub reset_before: u16,
    /// Requests whose connection breaks after everything was done.
    pub reset_after_commit: u16,
    /// Requests whose answer is delayed.
    pub slow: u16,
    /// The delay, in milliseconds of the emulator's clock.
    pub slow_milliseconds: u64,
    /// Requests whose token expires on arrival: 401 for them and for all later ones with that
    /// token.
    pub token_expired: u16,
    /// Operations, including those of a batch, that fail with a database deadlock: 500 /
    /// 0x80044150.
    pub deadlock: u16,
}

/// What a plan has seen and injected since it was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injected {
    /// Requests that the plan applied to, whether or not it hit them.
    pub requests: u64,
    /// Operations that the plan applied to, whether or not it hit them.
    pub operations: u64,
    /// See [`FaultPlan::server_error`].
    pub server_errors: u64,
    /// See [`FaultPlan::server_error_after_commit`].
    pub server_errors_after_commit: u64,
    /// See [`FaultPlan::reset_before`].
    pub resets_before: u64,
    /// See [`FaultPlan::reset_after_commit`].
    pub resets_after_commit: u64,
    /// See [`FaultPlan::slow`].
    pub slow: u64,
    /// See [`FaultPlan::token_expired`].
    pub tokens_expired: u64,
    /// See [`FaultPlan::deadlock`].
    pub deadlocks: u64,
}

/// The fault of one request, from the queue or from the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Injection {
    Queued(Fault),
    ErrorBefore(u16),
    ErrorAfterCommit(u16),
    ResetBefore,
    ResetAfterCommit,
    Slow(Duration),
    TokenExpired,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Fault>,
    plan: FaultPlan,
    injected: Injected,
}

/// The queued faults and the plan. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<State>>);

impl Faults {
    pub(crate) fn push(&self, fault: Fault) {
        lock(&self.0).queue.push_back(fault);
    }

    /// Starts a plan from its beginning, and resets the counts.
    pub(crate) fn follow(&self, plan: FaultPlan) {
        let mut state = lock(&self.0);
        state.plan = plan;
        state.injected = Injected::default();
    }

    pub(crate) fn left(&self) -> usize {
        lock(&self.0).queue.len()
    }

    pub(crate) fn injected(&self) -> Injected {
        lock(&self.0).injected
    }

    /// Returns the fault of the next request, and counts it.
    pub(crate) fn next(&self) -> Option<Injection> {
        let state = &mut *lock(&self.0);
        if let Some(fault) = state.queue.pop_front() {
            return Some(Injection::Queued(fault));
        }
        let (plan, done) = (state.plan, &mut state.injected);
        let number = draw(plan.seed, done.requests);
        done.requests += 1;
        let status = match number >> 32 & 3 {
            0 => 500,
            1 => 502,
            2 => 503,
            _ => 504,
        };
        let choices = [
            (
                plan.server_error,
                Injection::ErrorBefore(status),
                &mut done.server_errors,
            ),
            (
                plan.server_error_after_commit,
                Injection::ErrorAfterCommit(status),
                &mut done.server_errors_after_commit,
            ),
            (
                plan.reset_before,
                Injection::ResetBefore,
                &mut done.resets_before,
            ),
            (
                plan.reset_after_commit,
                Injection::ResetAfterCommit,
                &mut done.resets_after_commit,
            ),
            (
                plan.slow,
                Injection::Slow(Duration::from_millis(plan.slow_milliseconds)),
                &mut done.slow,
            ),
            (
                plan.token_expired,
                Injection::TokenExpired,
                &mut done.tokens_expired,
            ),
        ];
        let mut left = number % 1_000;
        for (rate, injection, count) in choices {
            let Some(less) = left.checked_sub(u64::from(rate)) else {
                *count += 1;
                return Some(injection);
            };
            left = less;
        }
        None
    }

    /// Returns whether the next operation fails with a deadlock, and counts it.
    pub(crate) fn deadlock(&self) -> bool {
        let state = &mut *lock(&self.0);
        let done = &mut state.injected;
        // Not the seed of the requests, so that both sequences are independent.
        let number = draw(!state.plan.seed, done.operations);
        done.operations += 1;
        let hit = number % 1_000 < u64::from(state.plan.deadlock);
        done.deadlocks += u64::from(hit);
        hit
    }
}

/// Returns a pseudo-random number: the mixing step of SplitMix64 over seed and turn.
fn draw(seed: u64, turn: u64) -> u64 {
    let step = 0x9E37_79B9_7F4A_7C15_u64;
    let mut mixed = seed.wrapping_add(step.wrapping_mul(turn.wrapping_add(1)));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(plan: FaultPlan, turns: usize) -> (Vec<Option<Injection>>, Injected) {
        let faults = Faults::default();
        faults.follow(plan);
        let injections = (0..turns).map(|_| faults.next()).collect();
        (injections, faults.injected())
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_seed_gives_others() {
        let plan = |seed| FaultPlan {
            seed,
            server_error: 100,
            reset_before: 100,
            slow: 100,
            ..FaultPlan::default()
        };
        assert_eq!(run(plan(7), 200), run(plan(7), 200));
        assert_ne!(run(plan(7), 200).0, run(plan(8), 200).0);
    }

    #[test]
    fn fault_rates_are_approximately_those_of_the_plan() {
        let plan = FaultPlan {
            seed: 1,
            server_error: 50,
            reset_after_commit: 200,
            ..FaultPlan::default()
        };
        let (_, done) = run(plan, 10_000);
        assert_eq!(done.requests, 10_000);
        assert!((400..600).contains(&done.server_errors), "{done:?}");
        assert!(
            (1_800..2_200).contains(&done.resets_after_commit),
            "{done:?}"
        );
        assert_eq!(done.resets_before + done.slow + done.tokens_expired, 0);
    }

    #[test]
    fn a_default_plan_injects_no_fault() {
        let (injections, _) = run(FaultPlan::default(), 100);
        assert!(injections.iter().all(Option::is_none));
        assert!(!Faults::default().deadlock());
    }
}
