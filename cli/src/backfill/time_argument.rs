//! A time as an operator writes it: an age, a date, or a date with time.

use std::str::FromStr;

use chrono::{DateTime, Months, NaiveDate, Utc};

use crate::status::age::Age;

/// A time, absolute or relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A number of calendar months ago.
    Months(Months),
    Ago(Age),
    At(DateTime<Utc>),
}

/// The text is not a time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "must be an age (18mo, 2y, 30d, 12h), a date (2025-05-01) or a time (2025-05-01T08:00:00Z)"
)]
pub(crate) struct NoMoment;

impl Moment {
    /// Returns the absolute time, relative to `now`; `None` if it is out of range.
    pub(crate) fn before(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Months(months) => now.checked_sub_months(months),
            Self::Ago(age) => now.checked_sub_signed(age.time()),
            Self::At(at) => Some(at),
        }
    }
}

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        for (unit, months) in [("mo", 1), ("y", 12)] {
            if let Some(number) = text.strip_suffix(unit) {
                let number: u16 = number.parse().map_err(|_| NoMoment)?;
                return Ok(Self::Months(Months::new(u32::from(number) * months)));
            }
        }
        if let Ok(age) = text.parse() {
            return Ok(Self::Ago(age));
        }
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        let date: NaiveDate = text.parse().map_err(|_| NoMoment)?;
        let midnight = date.and_hms_opt(0, 0, 0).ok_or(NoMoment)?;
        Ok(Self::At(midnight.and_utc()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_parsed_from_an_age_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-11-20T06:00:00Z")
            .unwrap()
            .to_utc();
        for (text, expected) in [
            ("18mo", "2025-05-20T06:00:00+00:00"),
            ("2y", "2024-11-20T06:00:00+00:00"),
            ("1d", "2026-11-19T06:00:00+00:00"),
            ("2025-05-01", "2025-05-01T00:00:00+00:00"),
            ("2025-05-01T08:00:00+02:00", "2025-05-01T06:00:00+00:00"),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.before(now).unwrap().to_rfc3339(), expected, "{text}");
        }
        for text in ["", "mo", "-1mo", "yesterday", "2025-13-01", "18 mo"] {
            assert_eq!(text.parse::<Moment>(), Err(NoMoment), "{text}");
        }
    }
}
