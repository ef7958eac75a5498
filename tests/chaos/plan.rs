//! Where a worker can be struck, and what is to happen there in one invocation.

use std::fmt;

use tokio::sync::oneshot;

/// A boundary of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cell {
    /// A claim arrives at the ledger. For the scenarios only.
    BeforeClaim,
    /// The ledger has a claim, the worker does not know yet.
    ClaimUnanswered,
    /// The first message of the batch is asked for.
    AfterClaim,
    /// The look-up arrives at Dataverse.
    AfterFetch,
    /// A write arrives at Dataverse.
    AfterLookUp,
    /// Half of a write has arrived.
    HalfAWrite,
    /// Step by step: the row is created and not yet completed.
    BetweenSteps,
    /// Dataverse has committed, the worker does not know yet.
    CommitUnanswered,
    /// A settlement arrives at the ledger.
    BeforeSettle,
    /// The ledger has a settlement, the worker does not know yet.
    SettleUnanswered,
    /// The worker has answered, the queue still has the batch.
    BeforeDeletion,
}

impl Cell {
    /// The cells of the kill matrix in the order of the pipeline.
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

    /// Whether a batch of some messages comes there several times, whatever its kind of worker.
    pub(crate) fn is_met_often(self) -> bool {
        matches!(
            self,
            Self::ClaimUnanswered | Self::AfterClaim | Self::BeforeSettle | Self::SettleUnanswered
        )
    }

    /// Whether a worker of this kind comes there in the ordinary course.
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
            Self::AfterLookUp => "after the look-up",
            Self::HalfAWrite => "half of a write",
            Self::BetweenSteps => "between the steps of a write",
            Self::CommitUnanswered => "write committed, not answered",
            Self::BeforeSettle => "before the settlement",
            Self::SettleUnanswered => "settlement committed, not answered",
            Self::BeforeDeletion => "answered, not deleted from the queue",
        })
    }
}

/// What a process is.
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

/// Which service a line leads to.
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
    /// After the service did what was asked.
    AfterCommit,
    /// The service refuses it, and it is not worth repeating at once.
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

/// A request that waits at a cell until the scenario goes on.
pub(crate) struct Hold {
    pub(crate) cell: Cell,
    pub(crate) arrived: oneshot::Sender<()>,
    pub(crate) release: oneshot::Receiver<Release>,
}

/// What is to happen in one invocation. Each part is used up where it happens.
#[derive(Default)]
pub(crate) struct Plan {
    /// The process is killed when it comes to this cell for the time after so many others.
    pub(crate) kill: Option<(Cell, u32)>,
    pub(crate) cut: Option<Cut>,
    pub(crate) hold: Option<Hold>,
}

impl Plan {
    /// Whether the process dies at this cell now.
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

    /// The loss of this request, if it is the one. Asked once for each request.
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
