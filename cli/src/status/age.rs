//! An age as an operator writes it: a number and a unit, such as `30m`.

use std::fmt;
use std::str::FromStr;

use chrono::TimeDelta;

/// The longest age allowed, 100 years: longer than any message waits, and safe to subtract from
/// now.
const LONGEST: TimeDelta = TimeDelta::days(36_500);

/// The units with their seconds, largest first.
const UNITS: [(char, i64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A span of time, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Age(TimeDelta);

/// The text is not an age.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be a number and a unit, such as 45s, 30m, 1h or 2d, and at most 36500d")]
pub(crate) struct NoAge;

impl Age {
    /// Returns the age as a duration.
    pub(crate) fn time(self) -> TimeDelta {
        self.0
    }
}

impl FromStr for Age {
    type Err = NoAge;

    fn from_str(text: &str) -> Result<Self, NoAge> {
        let (unit, seconds) = UNITS
            .into_iter()
            .find(|(unit, _)| text.ends_with(*unit))
            .ok_or(NoAge)?;
        let number = text.strip_suffix(unit).ok_or(NoAge)?;
        // `parse` would accept a sign.
        if !number.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(NoAge);
        }
        let number: i64 = number.parse().map_err(|_| NoAge)?;
        let age = number.checked_mul(seconds).and_then(TimeDelta::try_seconds);
        age.filter(|age| *age <= LONGEST).map(Self).ok_or(NoAge)
    }
}

/// Writes the age in the largest unit that gives a whole number.
impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.num_seconds();
        let fitting = UNITS
            .into_iter()
            .find(|(_, seconds)| all > 0 && all % seconds == 0);
        let (unit, seconds) = fitting.unwrap_or(('s', 1));
        write!(f, "{}{unit}", all / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_a_unit_is_parsed_as_an_age() {
        for (text, seconds) in [
            ("0s", 0),
            ("45s", 45),
            ("30m", 1_800),
            ("1h", 3_600),
            ("007h", 25_200),
            ("2d", 172_800),
            ("36500d", 3_153_600_000),
        ] {
            assert_eq!(text.parse(), Ok(Age(TimeDelta::seconds(seconds))), "{text}");
        }
    }

    #[test]
    fn any_other_text_is_rejected_with_the_expected_format() {
        for text in [
            "",
            "h",
            "1",
            "60",
            "1 h",
            "-1h",
            "+1h",
            "1.5h",
            "1H",
            "1h30m",
            "1w",
            "1hour",
            "٣h",
            "36501d",
            "9223372036854775807d",
            "99999999999999999999s",
        ] {
            assert_eq!(text.parse::<Age>(), Err(NoAge), "{text}");
        }
        assert!(NoAge.to_string().contains("30m, 1h or 2d"));
    }

    #[test]
    fn an_age_is_shown_in_the_largest_unit_that_divides_it() {
        for (text, shown) in [
            ("90m", "90m"),
            ("60m", "1h"),
            ("48h", "2d"),
            ("61s", "61s"),
            ("0d", "0s"),
        ] {
            let age: Age = text.parse().unwrap();
            assert_eq!(age.to_string(), shown);
        }
    }
}
