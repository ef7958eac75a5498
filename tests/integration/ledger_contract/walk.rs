//! Random walks: properties that hold for any order of claims, settlements, crashes and passing
//! time.
//!
//! - Two workers never hold a message during the same lease.
//! - Only the worker that claimed the message last can settle it, once. It may repeat the same
//!   settlement. Any other settlement changes nothing.
//! - A message leaves a final state only where the table of [`decide_claim`] allows it, and only by
//!   a claim.
//! - The answers and the item of the ledger equal those of [`Model`].
//!
//! The first three are checked against what the workers were told, so they bind the claim rule and
//! the ledger alike. A lost response needs no step: if the SDK repeats the call, it is the same
//! call twice, otherwise it is a crash.
//!
//! The seed is fixed, so that a change is tested by the same walks as the version before it. A
//! failure prints the seed and the shortest failing walk. Nothing is stored in files.
//! `PROPTEST_RNG_SEED=N` takes other walks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::resume_unwind;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::messages::{LAST_DELIVERY_UNFINISHED, LedgerError, StoredOutcome};
use mailverse::ledger::{
    Claim, ClaimRequest, ClaimToken, Entry, LEASE, SKIPPED_FOR_NOW, State, decide_claim,
};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use tokio::runtime::Handle;

use super::{
    Bench, contract, dead, given_up, internal, key_of, now, postponed, released, requeued, skipped,
    worker, written,
};

contract! {
    the_ledger_agrees_with_the_claim_rule_for_any_order_of_events
}

const SEED: u64 = 20_261_122;
const WORKERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Time passes.
    Pass(TimeDelta),
    Claim {
        worker: usize,
        revisit: bool,
        redelivery: bool,
        last_delivery: bool,
    },
    Settle {
        worker: usize,
        stored_outcome: StoredOutcome,
    },
    /// The worker loses its claim token and continues with a new one.
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A millisecond matters at the end of a lease.
    let pass = prop_oneof![
        Just(TimeDelta::milliseconds(1)),
        Just(LEASE - TimeDelta::milliseconds(1)),
        Just(LEASE),
        (1_i64..300).prop_map(TimeDelta::seconds),
    ];
    // Final settlements are rare, because few steps are possible after one.
    let stored_outcome = prop_oneof![
        4 => Just(released()),
        2 => Just(postponed()),
        1 => any::<bool>().prop_map(requeued),
        2 => Just(given_up()),
        2 => Just(skipped()),
        1 => Just(internal()),
        1 => Just(dead()),
        1 => Just(written()),
    ];
    let step = prop_oneof![
        2 => pass.prop_map(Step::Pass),
        6 => (0..WORKERS, any::<bool>(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(worker, revisit, redelivery, last_delivery)| {
                Step::Claim { worker, revisit, redelivery, last_delivery }
            }
        ),
        4 => (0..WORKERS, stored_outcome).prop_map(|(worker, stored_outcome)| Step::Settle { worker, stored_outcome }),
        1 => (0..WORKERS).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..40)
}

/// The ledger's item of one message as a value.
#[derive(Debug, Clone, Default)]
struct Model {
    entry: Option<Entry>,
    /// How the last claim ended: token, state and time. An equal settlement is accepted again,
    /// since the response to the first may have been lost.
    finished: Option<(ClaimToken, State, DateTime<Utc>)>,
}

impl Model {
    fn claim(&mut self, request: &ClaimRequest) -> Claim {
        let claim = decide_claim(self.entry.as_ref(), request);
        if let Claim::Won { failures, since } = claim {
            self.finished = None;
            let before = self.entry.take();
            let last = request.last_delivery;
            // The reason of the previous attempt, until this one ends.
            let reason = before.as_ref().and_then(|entry| entry.reason.clone());
            self.entry = Some(Entry {
                state: if last { State::Dead } else { State::Waiting },
                held: Some((request.token, request.now + LEASE)),
                retry_at: None,
                attempts: before.as_ref().map_or(0, |entry| entry.attempts) + 1,
                failures: failures + 1,
                since: Some(since),
                claimable: last,
                awaits_dead_letter: false,
                reason: if last {
                    Some(LAST_DELIVERY_UNFINISHED.to_owned())
                } else {
                    reason
                },
                activity_id: before.and_then(|entry| entry.activity_id),
                changed_at: Some(request.now),
            });
        }
        claim
    }

    /// Settles the claim. Returns whether `token` was allowed to.
    fn settle(
        &mut self,
        token: ClaimToken,
        now: DateTime<Utc>,
        stored_outcome: &StoredOutcome,
    ) -> bool {
        let (state, reason, activity_id) = match stored_outcome.clone() {
            StoredOutcome::Written { activity_id, note } => {
                (State::Written, note, Some(activity_id))
            }
            StoredOutcome::Skipped { rule } => (State::Skipped, Some(rule), None),
            StoredOutcome::Dead { reason, .. } | StoredOutcome::Requeued { reason, .. } => {
                (State::Dead, Some(reason), None)
            }
            StoredOutcome::Released { reason, .. } => (State::Waiting, Some(reason), None),
        };
        let end = Some((token, state, now));
        let Some(entry) = self
            .entry
            .as_mut()
            .filter(|entry| entry.held.is_some_and(|(holder, _)| holder == token))
        else {
            return self.finished == end;
        };
        self.finished = end;
        *entry = Entry {
            state,
            held: None,
            retry_at: match stored_outcome {
                StoredOutcome::Released { retry_at, .. } => Some(*retry_at),
                _ => None,
            },
            attempts: entry.attempts,
            failures: match stored_outcome {
                StoredOutcome::Released { counted: true, .. }
                | StoredOutcome::Requeued { counted: true, .. } => entry.failures,
                StoredOutcome::Released { .. } | StoredOutcome::Requeued { .. } => {
                    entry.failures - 1
                }
                StoredOutcome::Written { .. }
                | StoredOutcome::Skipped { .. }
                | StoredOutcome::Dead { .. } => 0,
            },
            since: match state {
                State::Waiting => entry.since,
                State::Dead => Some(now),
                State::Written | State::Skipped => None,
            },
            claimable: matches!(
                stored_outcome,
                StoredOutcome::Dead {
                    claimable: true,
                    ..
                } | StoredOutcome::Requeued { .. }
            ),
            awaits_dead_letter: matches!(
                stored_outcome,
                StoredOutcome::Dead {
                    claimable: true,
                    ..
                }
            ),
            reason,
            activity_id,
            changed_at: Some(now),
        };
        true
    }
}

/// A call to the ledger, and the answer of the model.
enum Call<'a> {
    Claim {
        request: ClaimRequest,
        answer: Claim,
    },
    Settle {
        token: ClaimToken,
        stored_outcome: &'a StoredOutcome,
        accepted: bool,
    },
}

/// One walk on the model that checks the properties.
#[derive(Default)]
struct Walk {
    model: Model,
    passed: TimeDelta,
    crashes: [u128; WORKERS],
    /// The token of the last claim that is not settled, and the end of its lease.
    holder: Option<(ClaimToken, DateTime<Utc>)>,
    met: BTreeSet<&'static str>,
}

impl Walk {
    fn now(&self) -> DateTime<Utc> {
        now() + self.passed
    }

    fn token(&self, n: usize) -> ClaimToken {
        worker(1 + n as u128 + WORKERS as u128 * self.crashes[n])
    }

    fn step<'a>(&mut self, step: &'a Step) -> Result<Option<Call<'a>>, TestCaseError> {
        match step {
            Step::Pass(time) => self.passed += *time,
            Step::Crash(worker) => self.crashes[*worker] += 1,
            Step::Claim {
                worker,
                revisit,
                redelivery,
                last_delivery,
            } => {
                let request = ClaimRequest {
                    revisit: *revisit,
                    redelivery: *redelivery,
                    last_delivery: *last_delivery,
                    ..ClaimRequest::new(self.token(*worker), self.now())
                };
                let answer = self.claim(&request)?;
                return Ok(Some(Call::Claim { request, answer }));
            }
            Step::Settle {
                worker,
                stored_outcome,
            } => {
                let token = self.token(*worker);
                let accepted = self.settle(token, stored_outcome)?;
                return Ok(Some(Call::Settle {
                    token,
                    stored_outcome,
                    accepted,
                }));
            }
        }
        Ok(None)
    }

    fn claim(&mut self, request: &ClaimRequest) -> Result<Claim, TestCaseError> {
        let ClaimRequest { token, now, .. } = *request;
        let before = self.model.entry.clone();
        let answer = self.model.claim(request);
        if !answer.is_won() {
            prop_assert_eq!(&before, &self.model.entry, "a lost claim changed the item");
            self.met.insert(match answer {
                Claim::HeldUntil(_) => "held",
                _ => "settled",
            });
            return Ok(answer);
        }
        if let Some((holder, until)) = self.holder.replace((token, now + LEASE)) {
            prop_assert!(
                holder == token || until <= now,
                "{token} claimed a message that {holder} holds until {until}"
            );
            self.met.insert(if holder == token {
                "repeated"
            } else {
                "taken over"
            });
        }
        if let Some(entry) = before.filter(|entry| entry.state != State::Waiting) {
            let way = left_by(&entry, request);
            prop_assert!(way.is_some(), "{:?} was not final", entry);
            self.met.extend(way);
        }
        Ok(answer)
    }

    fn settle(
        &mut self,
        token: ClaimToken,
        stored_outcome: &StoredOutcome,
    ) -> Result<bool, TestCaseError> {
        let (before, ended_before) = (self.model.entry.clone(), self.model.finished);
        let accepted = self.model.settle(token, self.now(), stored_outcome);
        let holds = self.holder.is_some_and(|(holder, _)| holder == token);
        let repeats = !holds && accepted && self.model.finished == ended_before;
        prop_assert!(
            accepted == holds || repeats,
            "{token} settled without holding the claim, or could not settle its claim"
        );
        if holds {
            self.holder = None;
        } else if repeats {
            prop_assert_eq!(
                &before,
                &self.model.entry,
                "a repeated settlement changed the item"
            );
            self.met.insert("settled twice");
        } else {
            prop_assert_eq!(
                &before,
                &self.model.entry,
                "a rejected settlement changed the item"
            );
            self.met.insert("refused");
        }
        Ok(accepted)
    }
}

/// Returns the line of the claim rule's table by which this request may leave the final state.
/// `None` if none allows it.
fn left_by(entry: &Entry, request: &ClaimRequest) -> Option<&'static str> {
    let reason = entry.reason.as_deref().unwrap_or_default();
    match entry.state {
        State::Skipped if request.revisit && SKIPPED_FOR_NOW.contains(&reason) => Some("revisited"),
        State::Dead if entry.claimable && !entry.awaits_dead_letter => Some("tried again"),
        State::Dead if entry.claimable && !request.redelivery => Some("named again"),
        _ => None,
    }
}

/// The kinds of events that the walks must meet.
const MET: [&str; 9] = [
    "held",
    "refused",
    "repeated",
    "revisited",
    "settled twice",
    "settled",
    "taken over",
    "tried again",
    "named again",
];

/// Takes `cases` walks with `check`, which returns the kinds of events that a walk met. Asserts
/// that together they met all that are `expected`, and no others.
pub(super) fn take_walks<Step: Debug>(
    seed: u64,
    cases: u32,
    steps: &impl Strategy<Value = Vec<Step>>,
    expected: &[&'static str],
    check: impl Fn(u32, &[Step]) -> Result<BTreeSet<&'static str>, TestCaseError>,
) {
    let mut config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(seed);
    }
    let seed = config.rng_seed;
    let taken = RefCell::new((0, BTreeSet::new()));
    let result = TestRunner::new(config).run(steps, |steps| {
        let (number, met) = &mut *taken.borrow_mut();
        *number += 1;
        met.append(&mut check(*number, &steps)?);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    let (_, met) = taken.into_inner();
    assert_eq!(
        met,
        expected.iter().copied().collect(),
        "seed {seed}: the kinds of events that the walks met"
    );
}

#[test]
fn the_claim_rule_holds_for_any_order_of_events() {
    take_walks(SEED, 2_000, &steps(), &MET, |_, steps| {
        let mut walk = Walk::default();
        steps
            .iter()
            .try_for_each(|step| walk.step(step).map(drop))?;
        Ok(walk.met)
    });
}

async fn the_ledger_agrees_with_the_claim_rule_for_any_order_of_events(bench: Bench) {
    let runtime = Handle::current();
    // Proptest calls a plain function, which may block on the ledger only on a separate thread.
    let walks = tokio::task::spawn_blocking(move || {
        take_walks(SEED, 60, &steps(), &MET, |number, steps| {
            let mut walk = Walk::default();
            runtime.block_on(ledger_agrees(&bench, number, &mut walk, steps))?;
            Ok(walk.met)
        });
    });
    if let Err(failure) = walks.await {
        resume_unwind(failure.into_panic());
    }
}

/// Takes the steps on the model and on the ledger, with a message that no other walk uses.
async fn ledger_agrees(
    bench: &Bench,
    number: u32,
    walk: &mut Walk,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let (ledger, key) = (
        &bench.ledger,
        key_of("grant-1", &format!("message-{number}")),
    );
    for (n, step) in steps.iter().enumerate() {
        match walk.step(step)? {
            None => continue,
            Some(Call::Claim { request, answer }) => {
                let claim = ledger.claim(&key, &request).await;
                prop_assert_eq!(claim.unwrap(), answer, "step {}", n);
            }
            Some(Call::Settle {
                token,
                stored_outcome,
                accepted,
            }) => {
                let settled = ledger.settle(&key, token, walk.now(), stored_outcome).await;
                prop_assert!(
                    matches!(
                        (&settled, accepted),
                        (Ok(()), true) | (Err(LedgerError::ClaimLost), false)
                    ),
                    "step {}: {:?}, but the model expects {}",
                    n,
                    settled,
                    accepted
                );
            }
        }
        let entry = ledger.entry(&key).await.unwrap();
        prop_assert_eq!(&entry, &walk.model.entry, "after step {}", n);
    }
    Ok(())
}
