//! Random walks on the backfill's items: properties that hold for any order of leases, releases,
//! saved pages, failures, crashes and passing time.
//!
//! - Two workers never hold a mailbox during the same lease, and no other task begins a mailbox
//!   that is kept for a task that comes back.
//! - Only the worker that leased a mailbox last can release it.
//! - The watermark is the latest time that was ever listed.
//! - Each page of a task is saved once, by one worker. The position is that of the last saved page.
//! - A finished task is not begun again by anything but a page.
//! - The answers and the items of the ledger equal those of [`Model`].
//!
//! All but the last are checked against what the workers were told, so they bind the model and the
//! ledger alike. A worker that repeats a call stands for the SDK, which does so if a response was
//! lost.
//!
//! The seed is fixed as in [`super::walk`]: a failure prints the seed and the shortest failing
//! walk, and `PROPTEST_RNG_SEED=N` takes other walks.

mod items;
mod model;

use std::collections::BTreeSet;
use std::panic::resume_unwind;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::ClaimToken;
use mailverse::ledger::backfill_runs::{
    Coverage, Position, RunId, Saved, Settled, TaskKey, TaskState,
};
use mailverse::ledger::mailbox_state::{Lease, TASK_LEASE};
use mailverse::model::ids::GrantId;
use proptest::prelude::*;
use tokio::runtime::Handle;
use uuid::Uuid;

use self::model::{LISTS, Model, Page, Save, TASKS};
use super::walk::take_walks;
use super::{Bench, contract, now, worker};

contract! {
    the_ledger_agrees_with_the_model_of_the_backfill_for_any_order_of_events
}

const SEED: u64 = 20_261_201;
const WORKERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Time passes.
    Pass(TimeDelta),
    /// The worker loses its token and what it knows, and continues with a new token.
    Crash(usize),
    Lease {
        worker: usize,
        lists: usize,
        task: usize,
    },
    Release {
        worker: usize,
        lists: usize,
        /// For how long the mailbox is kept for the task; `None` releases it.
        kept_for: Option<TimeDelta>,
    },
    /// Everything up to this long ago was listed.
    Listed(TimeDelta),
    /// The worker reads the progress of the task, and continues from there.
    Read {
        worker: usize,
        task: usize,
    },
    /// The worker saves a page after those that it knows of.
    Save {
        worker: usize,
        task: usize,
        page: Page,
    },
    /// The worker repeats the last page that it saved.
    SaveAgain(usize),
    Set {
        task: usize,
        state: TaskState,
        reason: Option<&'static str>,
    },
    Failure(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A millisecond matters at the end of a lease.
    let pass = prop_oneof![
        Just(TimeDelta::milliseconds(1)),
        Just(TASK_LEASE - TimeDelta::milliseconds(1)),
        Just(TASK_LEASE),
        (1_i64..1_000).prop_map(TimeDelta::seconds),
    ];
    let kept_for = prop_oneof![
        2 => Just(None),
        1 => Just(Some(TimeDelta::zero())),
        2 => Just(Some(TASK_LEASE)),
        1 => (1_i64..2_000).prop_map(|n| Some(TimeDelta::seconds(n))),
    ];
    let listed = prop_oneof![
        Just(TimeDelta::zero()),
        (0_i64..3_000).prop_map(TimeDelta::seconds),
    ];
    let state = prop_oneof![
        3 => Just(TaskState::Queued),
        2 => Just(TaskState::Parked),
        1 => Just(TaskState::Done),
        1 => Just(TaskState::Failed),
    ];
    let reason = prop::option::of(prop::sample::select(vec!["403", "sign in again"]));
    let (workers, lists, tasks) = (0..WORKERS, 0..LISTS.len(), 0..TASKS);
    let step = prop_oneof![
        4 => pass.prop_map(Step::Pass),
        1 => workers.clone().prop_map(Step::Crash),
        8 => (workers.clone(), lists.clone(), tasks.clone())
            .prop_map(|(worker, lists, task)| Step::Lease { worker, lists, task }),
        5 => (workers.clone(), lists, kept_for)
            .prop_map(|(worker, lists, kept_for)| Step::Release { worker, lists, kept_for }),
        2 => listed.prop_map(Step::Listed),
        2 => (workers.clone(), tasks.clone()).prop_map(|(worker, task)| Step::Read { worker, task }),
        7 => (workers.clone(), tasks.clone(), pages())
            .prop_map(|(worker, task, page)| Step::Save { worker, task, page }),
        2 => workers.prop_map(Step::SaveAgain),
        2 => (tasks.clone(), state, reason)
            .prop_map(|(task, state, reason)| Step::Set { task, state, reason }),
        2 => tasks.prop_map(Step::Failure),
    ];
    prop::collection::vec(step, 1..60)
}

fn pages() -> impl Strategy<Value = Page> {
    let seconds = || prop::option::of(-1_i64..2_000_000_000);
    let cursor = prop::option::of((
        "[a-c]",
        (0_i64..9_000).prop_map(|n| now() + TimeDelta::milliseconds(n)),
    ));
    let position = (prop::option::of("[p-r]"), cursor, seconds(), seconds()).prop_map(
        |(part, cursor, before, reached)| Position {
            part,
            cursor,
            before,
            reached,
        },
    );
    let coverage = prop::array::uniform6(0_u64..5).prop_map(
        |[listed, written, skipped, waiting, dead, repaired]| Coverage {
            listed,
            written,
            skipped,
            waiting,
            dead,
            repaired,
        },
    );
    let state = prop_oneof![9 => Just(TaskState::Queued), 1 => Just(TaskState::Done)];
    (position, coverage, state, any::<bool>()).prop_map(|(position, coverage, state, scheduled)| {
        Page {
            position,
            coverage,
            state,
            scheduled,
        }
    })
}

/// A call to the ledger, and the answer of the model.
enum Call {
    Lease {
        lists: usize,
        task: usize,
        token: ClaimToken,
        answer: Lease,
    },
    Release {
        lists: usize,
        token: ClaimToken,
        kept_until: Option<DateTime<Utc>>,
    },
    Listed(DateTime<Utc>),
    Save {
        task: usize,
        save: Save,
        answer: Saved,
    },
    Set {
        task: usize,
        state: TaskState,
        reason: Option<&'static str>,
    },
    Failure {
        task: usize,
        answer: u64,
    },
}

/// What one worker knows.
#[derive(Debug, Clone, Default)]
struct Known {
    crashes: u128,
    /// The pages of each task, as it has read or saved them.
    pages: [u64; TASKS],
    last: Option<(usize, Save)>,
}

/// Who may use a mailbox, by what the workers were told.
#[derive(Debug, Clone, Copy)]
enum Told {
    Holds(ClaimToken, usize, DateTime<Utc>),
    KeptFor(usize, DateTime<Utc>),
}

/// One walk on the model that checks the properties.
#[derive(Default)]
struct Walk {
    model: Model,
    passed: TimeDelta,
    workers: [Known; WORKERS],
    told: [Option<Told>; LISTS.len()],
    latest: Option<DateTime<Utc>>,
    /// The saved pages of each task: by whom, and where it continues.
    saved: [Vec<(ClaimToken, Position)>; TASKS],
    met: BTreeSet<&'static str>,
}

impl Walk {
    fn now(&self) -> DateTime<Utc> {
        now() + self.passed
    }

    fn token(&self, n: usize) -> ClaimToken {
        worker(1 + n as u128 + WORKERS as u128 * self.workers[n].crashes)
    }

    fn step(&mut self, step: &Step) -> Result<Option<Call>, TestCaseError> {
        let now = self.now();
        Ok(Some(match step {
            Step::Pass(time) => {
                self.passed += *time;
                return Ok(None);
            }
            Step::Crash(n) => {
                self.workers[*n] = Known {
                    crashes: self.workers[*n].crashes + 1,
                    ..Known::default()
                };
                return Ok(None);
            }
            Step::Read { worker, task } => {
                self.workers[*worker].pages[*task] = self.model.progress(*task).pages;
                return Ok(None);
            }
            Step::Lease {
                worker,
                lists,
                task,
            } => {
                let token = self.token(*worker);
                Call::Lease {
                    lists: *lists,
                    task: *task,
                    token,
                    answer: self.lease(*lists, *task, token)?,
                }
            }
            Step::Release {
                worker,
                lists,
                kept_for,
            } => {
                let (token, kept_until) = (self.token(*worker), kept_for.map(|time| now + time));
                self.release(*lists, token, kept_until)?;
                Call::Release {
                    lists: *lists,
                    token,
                    kept_until,
                }
            }
            Step::Listed(ago) => self.listed(now - *ago)?,
            Step::Save { worker, task, page } => {
                let save = Save {
                    after: self.workers[*worker].pages[*task],
                    page: page.clone(),
                    by: self.token(*worker),
                    now,
                };
                self.workers[*worker].last = Some((*task, save.clone()));
                let answer = self.save(*task, &save)?;
                if answer == Saved::Saved {
                    self.workers[*worker].pages[*task] = save.after + 1;
                }
                Call::Save {
                    task: *task,
                    save,
                    answer,
                }
            }
            Step::SaveAgain(worker) => {
                let Some((task, save)) = self.workers[*worker].last.clone() else {
                    return Ok(None);
                };
                let answer = self.save(task, &save)?;
                Call::Save { task, save, answer }
            }
            Step::Set {
                task,
                state,
                reason,
            } => {
                self.set(*task, *state, *reason)?;
                Call::Set {
                    task: *task,
                    state: *state,
                    reason: *reason,
                }
            }
            Step::Failure(task) => {
                self.met.insert("failed");
                let answer = self.model.failure(*task, now);
                Call::Failure {
                    task: *task,
                    answer,
                }
            }
        }))
    }

    fn lease(
        &mut self,
        lists: usize,
        task: usize,
        token: ClaimToken,
    ) -> Result<Lease, TestCaseError> {
        let (now, before) = (self.now(), self.model.leases);
        let answer = self.model.lease(lists, task, token, now);
        let other = 1 - lists;
        prop_assert_eq!(before[other], self.model.leases[other], "the other lease");
        let told = self.told[lists];
        if answer != Lease::Won {
            prop_assert_eq!(before, self.model.leases, "a lost lease changed the item");
            prop_assert!(told.is_some(), "a free mailbox could not be leased");
            self.met.insert(match told {
                Some(Told::Holds(_, of, _)) if of == task => "held by the same task",
                Some(Told::Holds(..)) => "held",
                _ => "kept",
            });
            return Ok(answer);
        }
        self.told[lists] = Some(Told::Holds(token, task, now + TASK_LEASE));
        self.met.insert(match told {
            None => "free",
            Some(Told::Holds(holder, _, _)) if holder == token => "leased again",
            Some(Told::KeptFor(of, until)) if of == task && until > now => "came back",
            Some(Told::Holds(_, _, until) | Told::KeptFor(_, until)) => {
                prop_assert!(
                    until <= now,
                    "{token} leased the mailbox for task {task} before {told:?} ended"
                );
                "taken over"
            }
        });
        Ok(answer)
    }

    fn release(
        &mut self,
        lists: usize,
        token: ClaimToken,
        kept_until: Option<DateTime<Utc>>,
    ) -> Result<(), TestCaseError> {
        let before = self.model.leases;
        self.model.release(lists, token, kept_until);
        match self.told[lists] {
            Some(Told::Holds(holder, task, _)) if holder == token => {
                self.told[lists] = kept_until.map(|until| Told::KeptFor(task, until));
                self.met.insert("released");
            }
            told => {
                prop_assert_eq!(
                    before,
                    self.model.leases,
                    "a worker released a mailbox that it did not hold"
                );
                if told.is_some() {
                    self.met.insert("released too late");
                }
            }
        }
        Ok(())
    }

    fn listed(&mut self, until: DateTime<Utc>) -> Result<Call, TestCaseError> {
        let met = if self.latest < Some(until) {
            "moved on"
        } else {
            "not moved back"
        };
        self.met.insert(met);
        self.latest = self.latest.max(Some(until));
        self.model.listed(until);
        prop_assert_eq!(self.model.watermark, self.latest);
        Ok(Call::Listed(until))
    }

    fn save(&mut self, task: usize, save: &Save) -> Result<Saved, TestCaseError> {
        let before = self.model.tasks[task].clone();
        let answer = self.model.save(task, save);
        let pages = self.saved[task].len() as u64;
        if answer == Saved::Saved && self.model.tasks[task] != before {
            prop_assert_eq!(save.after, pages, "a page was saved twice or left out");
            self.saved[task].push((save.by, save.page.position.clone()));
            self.met.insert("saved");
            if before.is_some_and(|before| before.progress.nylas_failures > 0) {
                self.met.insert("forgiven");
            }
        } else {
            prop_assert_eq!(&self.model.tasks[task], &before, "{:?}", answer);
            let ours = self.saved[task]
                .last()
                .is_some_and(|(by, _)| *by == save.by);
            prop_assert_eq!(
                answer == Saved::Saved,
                ours && save.after + 1 == pages,
                "{:?}",
                answer
            );
            self.met.insert(match answer {
                Saved::Saved => "saved twice",
                Saved::Overtaken => "overtaken",
            });
        }
        let last = self.saved[task].last();
        let position = self.model.progress(task).position;
        prop_assert_eq!(last.map(|(_, position)| position), Some(&position));
        Ok(answer)
    }

    fn set(
        &mut self,
        task: usize,
        state: TaskState,
        reason: Option<&'static str>,
    ) -> Result<(), TestCaseError> {
        let before = self.model.progress(task);
        self.model.set(task, state, reason, self.now());
        let after = self.model.progress(task);
        if before.state.is_final() {
            prop_assert_eq!(before, after, "a finished task changed");
            self.met.insert("finished");
        } else {
            prop_assert_eq!(after.state, state);
            prop_assert_eq!(
                (after.pages, after.position),
                (before.pages, before.position)
            );
            self.met.insert("set");
        }
        Ok(())
    }
}

/// The kinds of events that the walks must meet.
const MET: [&str; 18] = [
    "came back",
    "failed",
    "finished",
    "forgiven",
    "free",
    "held",
    "held by the same task",
    "kept",
    "leased again",
    "moved on",
    "not moved back",
    "overtaken",
    "released",
    "released too late",
    "saved",
    "saved twice",
    "set",
    "taken over",
];

#[test]
fn the_model_of_the_backfill_keeps_its_promises_for_any_order_of_events() {
    take_walks(SEED, 2_000, &steps(), &MET, |_, steps| {
        let mut walk = Walk::default();
        steps
            .iter()
            .try_for_each(|step| walk.step(step).map(drop))?;
        Ok(walk.met)
    });
}

async fn the_ledger_agrees_with_the_model_of_the_backfill_for_any_order_of_events(bench: Bench) {
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

/// Takes the steps on the model and on the ledger, with a mailbox that no other walk uses.
async fn ledger_agrees(
    bench: &Bench,
    number: u32,
    walk: &mut Walk,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let grant: GrantId = format!("grant-{number}").parse().unwrap();
    let tasks = tasks(&grant);
    for (n, step) in steps.iter().enumerate() {
        let Some(call) = walk.step(step)? else {
            continue;
        };
        make(bench, &grant, &tasks, walk.now(), call)
            .await
            .map_err(|error| TestCaseError::fail(format!("step {n}: {error}")))?;
        let found = items::stored(bench, &grant, &tasks).await;
        prop_assert_eq!(found, items::expected(&walk.model), "after step {}", n);
    }
    let records = bench.ledger.mailbox_records(std::slice::from_ref(&grant));
    let watermark = records
        .await
        .unwrap()
        .get(&grant)
        .and_then(|record| record.watermark);
    prop_assert_eq!(watermark, walk.model.watermark);
    for (n, task) in tasks.iter().enumerate() {
        let progress = bench.ledger.progress(task).await.unwrap();
        prop_assert_eq!(progress, walk.model.progress(n));
    }
    Ok(())
}

fn tasks(grant: &GrantId) -> [TaskKey; TASKS] {
    [1, 2].map(|run| TaskKey {
        run_id: RunId::new(Uuid::from_u128(run)),
        grant_id: grant.clone(),
    })
}

fn task_name(task: usize) -> String {
    format!("task-{task}")
}

/// Makes the call to the ledger, and compares the answers.
async fn make(
    bench: &Bench,
    grant: &GrantId,
    tasks: &[TaskKey; TASKS],
    now: DateTime<Utc>,
    call: Call,
) -> Result<(), TestCaseError> {
    let ledger = &bench.ledger;
    match call {
        Call::Lease {
            lists,
            task,
            token,
            answer,
        } => {
            let name = task_name(task);
            let lease = ledger.lease_mailbox(grant, LISTS[lists], &name, token, now);
            prop_assert_eq!(lease.await.unwrap(), answer);
        }
        Call::Release {
            lists,
            token,
            kept_until,
        } => {
            let released = ledger.release_mailbox(grant, LISTS[lists], token, kept_until);
            released.await.unwrap();
        }
        Call::Listed(until) => ledger.advance_watermark(grant, until).await.unwrap(),
        Call::Save { task, save, answer } => {
            let settled = Settled {
                after: save.after,
                position: &save.page.position,
                coverage: &save.page.coverage,
                state: save.page.state,
                scheduled: save.page.scheduled,
            };
            let saved = ledger.save_page(&tasks[task], &settled, save.by, save.now);
            prop_assert_eq!(saved.await.unwrap(), answer);
        }
        Call::Set {
            task,
            state,
            reason,
        } => {
            let set = ledger.set_task(&tasks[task], state, reason, now);
            set.await.unwrap();
        }
        Call::Failure { task, answer } => {
            let failures = ledger.note_nylas_failure(&tasks[task], now);
            prop_assert_eq!(failures.await.unwrap(), answer);
        }
    }
    Ok(())
}
