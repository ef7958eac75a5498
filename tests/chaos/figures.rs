//! The counts of a run.

use std::collections::HashMap;

use crate::plan::{Cell, Mode};

/// The counts.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) deliveries: u64,
    pub(crate) invocations: u64,
    /// The kills by kind of process and boundary; `None` if the time of a function ran out.
    kills: HashMap<(Mode, Option<Cell>), u64>,
    /// Requests or answers that were lost on a connection.
    pub(crate) cuts: u64,
    /// Faults of the services.
    pub(crate) faults: u64,
    /// How often the harness made time pass.
    pub(crate) jumps: u64,
    pub(crate) dead_letters: u64,
    /// Messages that a scheduled run found stranded and queued again.
    pub(crate) stranded: u64,
    /// Kills and scenarios on purpose, for what chance had not covered.
    pub(crate) on_purpose: u64,
    /// How often each scenario was completed.
    pub(crate) scenarios: HashMap<&'static str, u64>,
}

impl Figures {
    pub(crate) fn killed(&mut self, mode: Mode, cell: Option<Cell>) {
        *self.kills.entry((mode, cell)).or_default() += 1;
    }

    pub(crate) fn kills_at(&self, mode: Mode, cell: Cell) -> u64 {
        self.kills.get(&(mode, Some(cell))).copied().unwrap_or(0)
    }

    pub(crate) fn kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// Returns the kill matrix as text.
    pub(crate) fn matrix(&self) -> String {
        let mut text = format!("{:<38}{:>10}{:>10}\n", "killed", "changeset", "stepwise");
        for cell in Cell::MATRIX {
            text.push_str(&format!("{:<38}", cell.to_string()));
            for mode in Mode::WORKERS {
                text.push_str(&format!("{:>10}", self.kills_at(mode, cell)));
            }
            text.push('\n');
        }
        let others = |mode| -> u64 {
            let of = self.kills.iter().filter(|((m, _), _)| *m == mode);
            of.map(|(_, kills)| kills).sum()
        };
        let at_deadline: u64 = self
            .kills
            .iter()
            .filter(|((_, cell), _)| cell.is_none())
            .map(|(_, kills)| kills)
            .sum();
        text.push_str(&format!(
            "at a short deadline {at_deadline}, backfill {}, receiver {}",
            others(Mode::Backfill),
            others(Mode::Receiver)
        ));
        text
    }
}
