//! Writes and reads the text of a decision record.
//!
//! The text is JSON of at most [`LONGEST`] bytes. From a longer record, parts are dropped in this
//! order until it fits: the candidates that were not chosen, the list of the created rows (the
//! participants name them too), the last participants. `left_out` holds how many of each were
//! dropped.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::DecisionRecord;
use crate::ledger::decisions::DecisionToStore;

/// Maximum length of a record, in bytes. It is short because an item of the ledger is read and
/// written as a whole.
pub const LONGEST: usize = 8 * 1024;

/// How much was dropped from a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// The number of candidates that were not chosen.
    pub candidates: usize,
    /// The number of created rows.
    pub made: usize,
    /// The number of participants, from the end.
    pub people: usize,
}

impl LeftOut {
    /// Returns whether nothing was dropped.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl DecisionRecord {
    /// Parses a text that [`DecisionRecord::decided`] wrote.
    ///
    /// # Errors
    /// The text is not a decision record, so the decision is unknown.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Returns the record as it is stored in the ledger, with `at` as the time of the decision.
    ///
    /// # Errors
    /// The record cannot be serialised as JSON, which its types rule out.
    pub fn decided(mut self, at: DateTime<Utc>) -> Result<DecisionToStore, serde_json::Error> {
        self.at = at.timestamp();
        let row = self.row;
        Ok(DecisionToStore {
            text: self.text()?,
            row,
        })
    }

    /// Returns the record as compact JSON of at most [`LONGEST`] bytes.
    fn text(mut self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string(&self)?;
        let mut lose = [Self::lose_candidates, Self::lose_made].into_iter();
        while text.len() > LONGEST {
            match lose.next() {
                Some(lose) => lose(&mut self),
                None if self.people.is_empty() => break,
                None => self.lose_people(),
            }
            text = serde_json::to_string(&self)?;
        }
        Ok(text)
    }

    fn lose_candidates(&mut self) {
        for person in &mut self.people {
            self.left_out.candidates += person.others.len();
            person.others.clear();
        }
        if let Some(regarding) = &mut self.regarding {
            self.left_out.candidates += regarding.candidates.len();
            regarding.candidates.clear();
        }
    }

    fn lose_made(&mut self) {
        self.left_out.made += self.made.len();
        self.made.clear();
    }

    fn lose_people(&mut self) {
        let lost = self.people.len() / 16 + 1;
        self.left_out.people += lost;
        self.people.truncate(self.people.len() - lost);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::decision_record::{CandidatePart, FORMAT, PersonPart, RegardingPart, Row};

    fn row(n: u128) -> Row {
        Row::of("contact", Uuid::from_u128(n))
    }

    /// Returns the record of a message to this number of recipients, each with three candidate
    /// rows.
    fn record(people: usize) -> DecisionRecord {
        let person = |place| PersonPart {
            role: "to".to_owned(),
            place,
            matched: "exact".to_owned(),
            choice: "most_recent".to_owned(),
            others: vec![row(1), row(2)],
            chosen: vec![row(3)],
        };
        DecisionRecord {
            format: FORMAT,
            people: (0..people).map(person).collect(),
            made: (0..people as u128).map(row).collect(),
            regarding: Some(RegardingPart {
                candidates: vec![CandidatePart::default(); 3],
                chosen: None,
            }),
            ..DecisionRecord::default()
        }
    }

    fn kept(record: &DecisionRecord) -> DecisionRecord {
        let decided = record.clone().decided(DateTime::UNIX_EPOCH).unwrap();
        assert!(
            decided.text.len() <= LONGEST,
            "the record must fit, but has {} bytes",
            decided.text.len()
        );
        DecisionRecord::parse(&decided.text).unwrap()
    }

    #[test]
    fn a_record_that_fits_is_stored_unchanged() {
        let record = record(10);
        assert_eq!(kept(&record), record);
    }

    #[test]
    fn candidates_that_were_not_chosen_are_dropped_first() {
        let kept = kept(&record(30));
        assert_eq!((kept.people.len(), kept.made.len()), (30, 30));
        assert!(
            kept.people
                .iter()
                .all(|person| person.others.is_empty() && person.chosen.len() == 1)
        );
        let lost = LeftOut {
            candidates: 30 * 2 + 3,
            ..LeftOut::default()
        };
        assert_eq!(kept.left_out, lost);
    }

    #[test]
    fn only_the_first_of_very_many_people_are_stored_and_the_rest_are_counted() {
        for count in [60, 500, 5_000] {
            let kept = kept(&record(count));
            assert!(kept.people.len() >= 40, "{} of {count}", kept.people.len());
            assert_eq!(kept.people.len() + kept.left_out.people, count);
            assert_eq!(kept.people[0].place, 0);
            assert_eq!((kept.made.len(), kept.left_out.made), (0, count));
        }
    }

    #[test]
    fn a_record_of_a_later_build_can_be_read() {
        let text = r#"{"format":2,"at":7,"policy":{"version":"v","path":[],"more":1},"people":[{"role":"to","mood":"good"}],"else":{}}"#;
        let read = DecisionRecord::parse(text).unwrap();
        assert_eq!((read.format, read.at, read.people.len()), (2, 7, 1));
    }
}
