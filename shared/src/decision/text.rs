//! The text of a decision record.
//!
//! It is JSON of [`LONGEST`] bytes at most. What is longer loses, in this order, until it fits: the candidates that were not chosen, the list of
//! the rows that were made (the people say so too), the last people. How many of each is said in `left_out`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::DecisionRecord;
use crate::dedupe::kept::Decided;

/// Longest record, in bytes. An item of the ledger is read and written as a whole.
pub const LONGEST: usize = 8 * 1024;

/// How much a record had to lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Candidates that were not chosen.
    pub candidates: usize,
    /// Rows that were made.
    pub made: usize,
    /// People, from the end.
    pub people: usize,
}

impl LeftOut {
    /// Nothing was lost.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl DecisionRecord {
    /// Reads back what [`DecisionRecord::decided`] wrote.
    ///
    /// # Errors
    /// It is no such record: what it is cannot be told.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The record as the ledger takes it, of a decision of this moment.
    ///
    /// # Errors
    /// It cannot be written as JSON, which its types rule out.
    pub fn decided(mut self, at: DateTime<Utc>) -> Result<Decided, serde_json::Error> {
        self.at = at.timestamp();
        let row = self.row;
        Ok(Decided {
            text: self.text()?,
            row,
        })
    }

    /// Compact JSON of [`LONGEST`] bytes at most.
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
    use crate::decision::{CandidatePart, FORMAT, PersonPart, RegardingPart, Row};

    fn row(n: u128) -> Row {
        Row::of("contact", Uuid::from_u128(n))
    }

    /// A record of a mail to so many people, each of whom is one of three rows.
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
            "{} bytes",
            decided.text.len()
        );
        DecisionRecord::parse(&decided.text).unwrap()
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let record = record(10);
        assert_eq!(kept(&record), record);
    }

    #[test]
    fn what_was_not_chosen_goes_first() {
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
    fn of_very_many_people_the_first_are_kept_and_the_others_counted() {
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
