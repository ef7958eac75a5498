//! The boundaries at which a worker can be killed, and the faults planned for one invocation.

use std::fmt;

use tokio::sync::oneshot;

/// A boundary of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// A claim arrives at the ledger. Only for the scenarios.
    BeforeClaim,
    /// The ledger has stored a claim; the worker has no answer yet.
    ClaimUnanswered,
    /// The first message of the batch is requested.
    AfterClaim,
    /// The lookup arrives at Dataverse.
    AfterFetch,
    /// A write arrives at Dataverse.
    AfterLookUp,
    /// Half of a write has arrived at Dataverse.
    HalfAWrite,
    /// Stepwise: the row was created but not yet completed.
    BetweenSteps,
    /// Dataverse has committed; the worker has no answer yet.
    CommitUnanswered,
    /// A settlement arrives at the ledger.
    BeforeSettle,
    /// The ledger has stored a settlement; the worker has no answer yet.
    SettleUnanswered,
    /// The worker has answered; the queue still has the batch.
    BeforeDeletion,
}

impl Cell {
    /// The boundaries of the kill matrix, in the order of the pipeline.
    pub(crate) const MATRIX: [Self; 10] = [
        Self::ClaimUnanswered,
        Self::AfterClaim,
        Self::AfterFetch,
        Self::AfterLookUp,
        Self::HalfAWrite,
        Self::BetweenSteps,
        Self::CommitUnanswered,
        Self::BeforeSettle,
        Self::SettleUnanswered,
        Self::BeforeDeletion,
    ];

    /// Returns whether a batch with several messages reaches this boundary several times, whatever
    /// the kind of worker.
    pub(crate) fn is_met_often(self) -> bool {
        matches!(
            self,
            Self::ClaimUnanswered | Self::AfterClaim | Self::BeforeSettle | Self::SettleUnanswered
        )
    }

    /// Returns whether a worker of this kind normally reaches this boundary.
    pub(crate) fn is_met_by(self, mode: Mode) -> bool {
        self != Self::BetweenSteps || mode == Mode::Stepwise
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeClaim => "before the claim",
            Self::ClaimUnanswered => "claim committed, not answered",
            Self::AfterClaim => "after the claim",
            Self::AfterFetch => "after the fetch",
            Self::AfterLookUp => "after the lookup",
            Self::HalfAWrite => "half of a write",
            Self::BetweenSteps => "between the steps of a write",
            Self::CommitUnanswered => "write committed, not answered",
            Self::BeforeSettle => "before the settlement",
            Self::SettleUnanswered => "settlement committed, not answered",
            Self::BeforeDeletion => "answered, not deleted from the queue",
        })
    }
}

/// The kind of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// A worker with `WRITE_MODE=changeset`.
    ChangeSet,
    /// A worker with `WRITE_MODE=stepwise`.
    Stepwise,
    Backfill,
    Receiver,
}

impl Mode {
    /// The kinds of workers.
    pub(crate) const WORKERS: [Self; 2] = [Self::ChangeSet, Self::Stepwise];
}

/// The service that a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ledger,
    Dataverse,
    Nylas,
    Queue,
}

/// How a request or its answer gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Before,
    /// After the service has processed the request.
    AfterCommit,
    /// The service rejects the request, and an immediate retry is not worthwhile.
    Refused,
}

/// A request that gets lost: the one after `skip` others to the same service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) service: Service,
    pub(crate) loss: Loss,
    pub(crate) skip: u32,
}

/// What a scenario does with a request that it held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Forward,
    Cut,
}

/// A request that waits at a boundary until the scenario continues.
pub(crate) struct Hold {
    pub(crate) cell: Cell,
    pub(crate) arrived: oneshot::Sender<()>,
    pub(crate) release: oneshot::Receiver<Release>,
}

/// The faults planned for one invocation. Each is used up when it happens.
#[derive(Default)]
pub(crate) struct Plan {
    /// The process is killed at this boundary, after it was passed this many times.
    pub(crate) kill: Option<(Cell, u32)>,
    pub(crate) cut: Option<Cut>,
    pub(crate) hold: Option<Hold>,
}

impl Plan {
    /// Returns whether the process is killed at this boundary now.
    pub(crate) fn kills_at(&mut self, cell: Cell) -> bool {
        match &mut self.kill {
            Some((planned, 0)) if *planned == cell => {
                self.kill = None;
                true
            }
            Some((planned, skip)) if *planned == cell => {
                *skip -= 1;
                false
            }
            _ => false,
        }
    }

    /// Returns the loss of this request, if it is the planned one. Must be called once for each
    /// request.
    pub(crate) fn cuts(&mut self, service: Service) -> Option<Loss> {
        match &mut self.cut {
            Some(cut) if cut.service == service && cut.skip == 0 => {
                self.cut.take().map(|cut| cut.loss)
            }
            Some(cut) if cut.service == service => {
                cut.skip -= 1;
                None
            }
            _ => None,
        }
    }

    pub(crate) fn holds_at(&mut self, cell: Cell) -> Option<Hold> {
        self.hold.take_if(|hold| hold.cell == cell)
    }
}
