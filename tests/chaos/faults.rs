//! The random faults, drawn from the seed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulators::{Dataverse, Emulators, FaultPlan, Nylas, Privilege, Setting};
use mailverse::clients::retry::RECEIVE_LIMIT;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::cloud::WITHHELD;
use crate::fault_proxy::Shared;
use crate::incident::{Incident, UNLISTED};
use crate::plan::{Cell, Cut, Loss, Mode, Plan, Service};
use crate::run::Shape;

/// The mailbox whose user has to sign in again at times.
const LOST_MAILBOX: &str = "grant-4";

/// The fault of one invocation of a worker.
#[derive(Default)]
pub(crate) struct Strike {
    pub(crate) plan: Plan,
    /// The time after which the invocation is stopped; `None` for no limit.
    pub(crate) short: Option<Duration>,
}

impl Strike {
    /// Kills the process at this boundary, after `skip` other times.
    pub(crate) fn killed_at(cell: Cell, skip: u32) -> Self {
        let plan = Plan {
            kill: Some((cell, skip)),
            ..Plan::default()
        };
        Self { plan, short: None }
    }
}

/// The faults of a run.
pub(crate) struct Faults {
    seed: u64,
    dataverse: Dataverse,
    nylas: Nylas,
    shared: Arc<Shared>,
    on: AtomicBool,
    /// The incident of the current phase of the run.
    stretch: Mutex<Option<Incident>>,
    /// How often the fault plan of the services was started, so that it never starts with the same
    /// faults.
    begun: AtomicU64,
}

impl Faults {
    pub(crate) fn new(shape: &Shape, emulators: &Emulators, shared: Arc<Shared>) -> Self {
        Self {
            seed: shape.seed,
            dataverse: emulators.dataverse().clone(),
            nylas: emulators.nylas().clone(),
            shared,
            on: AtomicBool::new(false),
            stretch: Mutex::default(),
            begun: AtomicU64::new(0),
        }
    }

    /// Starts the faults.
    pub(crate) fn start(&self) {
        self.on.store(true, Ordering::SeqCst);
        let begun = self.begun.fetch_add(1, Ordering::SeqCst);
        self.count();
        self.play(*self.stretch.lock().unwrap());
        self.dataverse.set_fault_plan(FaultPlan {
            seed: self.seed.wrapping_mul(1_000).wrapping_add(begun),
            server_error: 16,
            server_error_after_commit: 16,
            reset_before: 10,
            reset_after_commit: 24,
            slow: 10,
            slow_milliseconds: 20,
            token_expired: 1,
            deadlock: 3,
        });
    }

    /// Stops all faults.
    pub(crate) fn stop(&self) {
        self.on.store(false, Ordering::SeqCst);
        *self.shared.storm.lock().unwrap() = (0, None);
        self.play(None);
        self.mailbox_is_lost(false);
        self.count();
        self.dataverse.set_fault_plan(FaultPlan::default());
    }

    /// Sets the incident that affects everyone while faults are on; `None` ends it.
    pub(crate) fn stretch(&self, incident: Option<Incident>) {
        *self.stretch.lock().unwrap() = incident;
        self.play(incident.filter(|_| self.are_on()));
    }

    fn play(&self, incident: Option<Incident>) {
        self.shared.incidents.lock().unwrap().stretch = incident;
        let mut withheld = WITHHELD.to_vec();
        withheld.extend(
            (incident == Some(Incident::MissingPrivilege))
                .then_some((Privilege::Create, "activity")),
        );
        self.dataverse.set_setting(Setting::Withheld(withheld));
        let refusal = (incident == Some(Incident::UnlistedRefusal)).then_some((400, UNLISTED));
        self.dataverse.set_setting(Setting::RefusedWrites(refusal));
    }

    /// Adds the faults of the services to the counts, before their plan starts again.
    fn count(&self) {
        let done = self.dataverse.injected();
        self.shared.figures.lock().unwrap().faults += done.server_errors
            + done.server_errors_after_commit
            + done.resets_before
            + done.resets_after_commit
            + done.slow
            + done.tokens_expired
            + done.deadlocks;
    }

    fn are_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Draws the fault of a batch. `tried` is the highest receive count in it.
    pub(crate) fn for_batch(&self, mode: Mode, tried: u32, rng: &mut StdRng) -> Strike {
        let mut strike = Strike::default();
        // Always drawn, so that an omitted fault does not change later ones.
        let (kind, cut, skip) = (
            rng.random_range(0..100),
            draw_cut(rng),
            rng.random_range(0..4),
        );
        let short = Duration::from_millis(rng.random_range(10..600));
        let dies_at_last = rng.random_bool(0.5);
        if tried >= RECEIVE_LIMIT {
            // At this boundary everything in the batch is claimed, and the claim is stored as
            // `dead` in case it is never settled. A worker that dies before it claims leaves the
            // state `waiting`, also for dead letters, until a scheduled run finds it stranded.
            return if dies_at_last {
                Strike::killed_at(Cell::BeforeSettle, 0)
            } else {
                strike
            };
        }
        if !self.are_on() {
            return strike;
        }
        match kind {
            0..24 => {
                let cell = self.least_met(mode, rng);
                strike = Strike::killed_at(cell, if cell.is_met_often() { skip } else { 0 });
            }
            24..26 => strike.short = Some(short),
            26..38 => strike.plan.cut = Some(cut),
            38 | 39 => self.storm(rng),
            _ => {}
        }
        strike
    }

    /// Draws the fault of a delivery by Nylas.
    pub(crate) fn for_delivery(&self, rng: &mut StdRng) -> Plan {
        let mut plan = Plan::default();
        let (kind, refused) = (rng.random_range(0..1_000), rng.random_bool(0.7));
        if !self.are_on() {
            return plan;
        }
        match kind {
            0..4 => plan.kill = Some((Cell::CommitUnanswered, 0)),
            4..16 => {
                plan.cut = Some(Cut {
                    service: Service::Queue,
                    loss: if refused {
                        Loss::Refused
                    } else {
                        Loss::AfterCommit
                    },
                    skip: 0,
                });
            }
            _ => {}
        }
        plan
    }

    /// Draws the fault of a backfill task.
    pub(crate) fn for_listing(&self, rng: &mut StdRng) -> Plan {
        let cell = *Cell::MATRIX.choose(rng).unwrap();
        let skip = rng.random_range(0..30);
        Plan {
            kill: self.are_on().then_some((cell, skip)),
            ..Plan::default()
        }
    }

    /// Returns one of the boundaries with the fewest kills, so that chance leaves none out.
    fn least_met(&self, mode: Mode, rng: &mut StdRng) -> Cell {
        let figures = self.shared.figures.lock().unwrap();
        let cells: Vec<Cell> = Cell::MATRIX
            .into_iter()
            .filter(|cell| cell.is_met_by(mode))
            .collect();
        let least = cells.iter().map(|cell| figures.kills_at(mode, *cell)).min();
        let least: Vec<Cell> = cells
            .into_iter()
            .filter(|cell| Some(figures.kills_at(mode, *cell)) == least)
            .collect();
        *least.choose(rng).unwrap()
    }

    /// Makes Dataverse throttle a number of requests, or be unavailable for them, from all workers.
    fn storm(&self, rng: &mut StdRng) {
        let seconds = rng.random_bool(0.6).then(|| rng.random_range(10..300));
        *self.shared.storm.lock().unwrap() = (rng.random_range(3..12), seconds);
    }

    /// Sets whether the user of one mailbox has to sign in again.
    pub(crate) fn mailbox_is_lost(&self, lost: bool) {
        let status = if lost { "invalid" } else { "valid" };
        self.nylas.set_grant_status(LOST_MAILBOX, status);
        self.shared.figures.lock().unwrap().faults += u64::from(lost);
    }
}

fn draw_cut(rng: &mut StdRng) -> Cut {
    let services = [
        Service::Ledger,
        Service::Dataverse,
        Service::Nylas,
        Service::Nylas,
        Service::Queue,
    ];
    let losses = [
        Loss::Before,
        Loss::AfterCommit,
        Loss::AfterCommit,
        Loss::Refused,
    ];
    Cut {
        service: *services.choose(rng).unwrap(),
        loss: *losses.choose(rng).unwrap(),
        skip: rng.random_range(0..12),
    }
}
