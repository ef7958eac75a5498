//! What a run must have covered for its verdict to mean something: a kill at each boundary in each
//! kind of worker, and each scenario, twice.
//!
//! Chance covers most of it during the run. What is missing at the end is done on purpose, while
//! nothing else goes wrong: a reserved message is delivered, and the worker that receives it is
//! killed. This continues until nothing is missing or no reserved message is left. So it is bounded
//! by work and not by time, and a slow machine takes longer but gets the same result.

use std::fmt;

use crate::figures::Figures;
use crate::plan::{Cell, Mode};
use crate::run::Run;
use crate::scenarios::{SCENARIOS, Scenario};

/// The most attempts for each time that something is required. On purpose, the first attempt
/// succeeds unless something is wrong.
const TRIES: u64 = 4;

/// Something that must happen in a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Demand {
    Kill(Mode, Cell),
    Play(Scenario),
}

impl Demand {
    /// Returns everything that must happen in a run with these kinds of workers.
    fn all(modes: &[Mode]) -> impl Iterator<Item = Self> {
        let there = Mode::WORKERS.into_iter();
        let there = there.filter(|mode| modes.contains(mode));
        let kills = there.flat_map(|mode| {
            let cells = Cell::MATRIX.into_iter();
            let met = cells.filter(move |cell| cell.is_met_by(mode));
            met.map(move |cell| Self::Kill(mode, cell))
        });
        kills.chain(SCENARIOS.map(Self::Play))
    }

    fn met(self, figures: &Figures) -> u64 {
        match self {
            Self::Kill(mode, cell) => figures.kills_at(mode, cell),
            Self::Play(scenario) => {
                let played = figures.scenarios.get(scenario.name());
                played.copied().unwrap_or(0)
            }
        }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(mode, cell) => write!(f, "a kill {cell} ({mode:?})"),
            Self::Play(scenario) => f.write_str(scenario.name()),
        }
    }
}

/// Returns what happened less than `wanted` times, as text.
pub(crate) fn unmet(figures: &Figures, modes: &[Mode], wanted: u64) -> Vec<String> {
    let short = Demand::all(modes).filter(|demand| demand.met(figures) < wanted);
    short
        .map(|demand| format!("{demand}: {} of {wanted}", demand.met(figures)))
        .collect()
}

impl Run {
    /// Makes what is missing happen. Reserved messages that are not needed are then delivered like
    /// the rest.
    pub(crate) async fn meet_demands(&mut self) {
        self.calm().await;
        let mut number = self.shape.scenarios * SCENARIOS.len();
        let modes = self.shape.modes;
        for demand in Demand::all(&modes) {
            for _ in 0..TRIES * self.shape.wanted {
                if !self.is_missing(demand) || !self.has_mail_for(demand) {
                    break;
                }
                let tried = match demand {
                    Demand::Kill(mode, cell) => self.kill_at(mode, cell).await,
                    Demand::Play(scenario) => self.play_scenario(scenario, number).await,
                };
                // Use another pair of workers the next time.
                number += SCENARIOS.len();
                self.findings.extend(tried.err());
                self.cloud.shared.figures.lock().unwrap().on_purpose += 1;
            }
        }
        let kept = self.corpus.single.drain(..);
        let kept = kept.chain(self.corpus.pairs.drain(..).flatten());
        self.left.extend(kept);
    }

    fn is_missing(&self, demand: Demand) -> bool {
        demand.met(&self.cloud.shared.figures.lock().unwrap()) < self.shape.wanted
    }

    fn has_mail_for(&self, demand: Demand) -> bool {
        if matches!(demand, Demand::Play(Scenario::TwoCopies)) {
            !self.corpus.pairs.is_empty()
        } else {
            !self.corpus.single.is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_demands_below_the_wanted_number_are_unmet() {
        let mut figures = Figures::default();
        for demand in Demand::all(&Mode::WORKERS) {
            for _ in 0..2 {
                match demand {
                    Demand::Kill(mode, cell) => figures.killed(mode, Some(cell)),
                    Demand::Play(scenario) => {
                        *figures.scenarios.entry(scenario.name()).or_default() += 1;
                    }
                }
            }
        }
        let unmet = |figures: &Figures, wanted| unmet(figures, &Mode::WORKERS, wanted);
        assert_eq!(unmet(&figures, 2), [""; 0]);
        *figures
            .scenarios
            .get_mut(Scenario::TwoCopies.name())
            .unwrap() -= 1;
        assert_eq!(unmet(&figures, 2), ["two copies at once: 1 of 2"]);
        assert_eq!(unmet(&figures, 1), [""; 0]);
    }

    #[test]
    fn a_change_set_worker_is_not_killed_between_the_steps_of_a_write() {
        let between = Demand::all(&Mode::WORKERS).filter(
            |demand| matches!(demand, Demand::Kill(_, cell) if *cell == Cell::BetweenSteps),
        );
        let modes: Vec<String> = between.map(|demand| demand.to_string()).collect();
        assert_eq!(modes, ["a kill between the steps of a write (Stepwise)"]);
    }

    #[test]
    fn no_demand_names_a_worker_mode_that_does_not_run() {
        let demands: Vec<String> = Demand::all(&[Mode::ChangeSet])
            .map(|demand| demand.to_string())
            .collect();
        assert!(demands.iter().all(|demand| !demand.contains("Stepwise")));
        assert_eq!(demands.len(), Cell::MATRIX.len() - 1 + SCENARIOS.len());
    }
}
