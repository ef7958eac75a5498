//! Settings from the environment: read once, checked once, all gaps reported together.
//!
//! Each function has one `Config` with `from_lookup`, which reads its variables through [`Settings`]. Secrets are named
//! here, never held here.
//!
//! ```
//! use mailverse::env::Settings;
//!
//! let mut settings = Settings::new(|name| (name == "LEDGER_TABLE").then(|| "ledger".to_owned()));
//! let table = settings.required("LEDGER_TABLE");
//! let queue = settings.required("SYNC_QUEUE_URL");
//! assert_eq!(table, "ledger");
//! assert_eq!(settings.finish().unwrap_err().to_string(), "the settings are incomplete: SYNC_QUEUE_URL is missing");
//! ```

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use url::Url;

/// Everything that is wrong with the environment, in the order of reading.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<String>,
}

impl SettingsError {
    /// What is wrong, one text for each variable, whose name it begins with.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the settings are incomplete: {}",
            self.problems.join("; ")
        )
    }
}

impl std::error::Error for SettingsError {}

/// Reads variables and collects what is wrong with them.
pub struct Settings<L> {
    lookup: L,
    problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Settings<L> {
    /// Reads through `lookup`, which answers `None` for a variable that is not set.
    pub fn new(lookup: L) -> Self {
        Self {
            lookup,
            problems: Vec::new(),
        }
    }

    /// A variable that has to be there. An empty text stands in for a missing one until [`Self::finish`].
    pub fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is missing"));
            String::new()
        })
    }

    /// A variable that may be missing. Blank counts as missing.
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// The address of a service: `https`, or `http` on the loopback interface. `default` is used when the variable is missing.
    ///
    /// A placeholder stands in for a missing or malformed one until [`Self::finish`].
    pub fn service_url(&mut self, name: &str, default: Option<&str>) -> Url {
        let text = match (self.optional(name), default) {
            (Some(text), _) => text,
            (None, Some(default)) => default.to_owned(),
            (None, None) => self.required(name),
        };
        match Url::parse(&text) {
            Ok(url) if is_safe_service(&url) => return url,
            Ok(_) => self.problems.push(format!(
                "{name} must be an https address without user, path, query or fragment (http only on 127.0.0.1 or localhost)"
            )),
            Err(_) if text.is_empty() => {}
            Err(error) => self.problems.push(format!("{name} is no address: {error}")),
        }
        placeholder()
    }

    /// One of a few named values; the type's default when the variable is missing.
    ///
    /// The default also stands in for a value that is none of them until [`Self::finish`].
    pub fn one_of<T: Copy + Default>(&mut self, name: &str, named: &[(&str, T)]) -> T {
        let Some(text) = self.optional(name) else {
            return T::default();
        };
        if let Some((_, value)) = named.iter().find(|(known, _)| *known == text) {
            return *value;
        }
        let allowed: Vec<&str> = named.iter().map(|(known, _)| *known).collect();
        self.problems.push(format!(
            "{name} must be one of {}, and {text} is none",
            allowed.join(", ")
        ));
        T::default()
    }

    /// A value that is written as text; the type's default when the variable is missing.
    ///
    /// The default also stands in for a text that cannot be read until [`Self::finish`].
    pub fn parsed<T: FromStr<Err: fmt::Display> + Default>(&mut self, name: &str) -> T {
        let Some(text) = self.optional(name) else {
            return T::default();
        };
        text.parse().unwrap_or_else(|error| {
            self.problems.push(format!("{name} {error}"));
            T::default()
        })
    }

    /// A value that is written as text and has to be there; `None` for a missing or unreadable one.
    /// `what` says what to write.
    pub fn required_parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
        what: &str,
    ) -> Option<T> {
        let Some(text) = self.optional(name) else {
            self.problems.push(format!("{name} is missing: {what}"));
            return None;
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("{name} {error}"));
                None
            }
        }
    }

    /// Names, separated by commas, that can be part of another name: letters, digits, `-` and `_`. None when the variable is missing.
    pub fn names(&mut self, name: &str) -> Vec<String> {
        let text = self.optional(name).unwrap_or_default();
        let names: Vec<String> = text
            .split(',')
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let distinct: HashSet<&String> = names.iter().collect();
        if distinct.len() < names.len() || !names.iter().all(|one| one.chars().all(is_plain)) {
            self.problems.push(format!(
                "{name} must be different names of letters, digits, - and _, separated by commas"
            ));
        }
        names
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem: refuse to start.
    pub fn finish(self) -> Result<(), SettingsError> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(SettingsError {
                problems: self.problems,
            })
        }
    }
}

fn is_safe_service(url: &Url) -> bool {
    let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let encrypted = url.scheme() == "https" || (url.scheme() == "http" && loopback);
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    encrypted && url.host_str().is_some() && bare
}

#[expect(clippy::expect_used, reason = "a constant that a test reads")]
fn placeholder() -> Url {
    Url::parse("https://missing.invalid").expect("a constant address")
}

/// The process environment, the lookup that the functions use.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub fn process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        pairs: &'static [(&'static str, &'static str)],
    ) -> Settings<impl Fn(&str) -> Option<String>> {
        Settings::new(move |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_gap_is_reported_at_once() {
        let mut settings = settings(&[
            ("A", "  "),
            ("U", "ftp://x.example"),
            ("P", "https://x.example/api"),
        ]);
        settings.required("A");
        settings.required("B");
        settings.service_url("U", None);
        settings.service_url("P", None);
        settings.service_url("V", None);
        let text = settings.finish().unwrap_err().to_string();
        for part in [
            "A is missing",
            "B is missing",
            "U must be an https address",
            "P must be",
            "V is missing",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_budget_and_names_that_cannot_be_read_are_reported_with_what_they_should_be() {
        let mut settings = settings(&[("B", "6000"), ("N", "one,two/"), ("T", "one, one")]);
        settings.parsed::<crate::governor::Budget>("B");
        settings.names("N");
        settings.names("T");
        assert_eq!(settings.names("U"), [""; 0]);
        let text = settings.finish().unwrap_err().to_string();
        for part in [
            "B must be three numbers",
            "N must be different names",
            "T must be different names",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn an_unencrypted_service_is_accepted_on_the_loopback_interface_only() {
        let mut here = settings(&[("U", "http://127.0.0.1:8080")]);
        assert_eq!(here.service_url("U", None).port(), Some(8080));
        assert_eq!(here.finish(), Ok(()));
        let mut away = settings(&[("U", "http://crm.example.com")]);
        away.service_url("U", None);
        assert!(away.finish().is_err());
    }

    #[test]
    fn a_value_that_is_not_one_of_those_allowed_is_refused_with_their_names() {
        let named = [("no", false), ("yes", true)];
        let mut right = settings(&[("A", " yes "), ("B", "")]);
        assert!(right.one_of("A", &named) && !right.one_of("B", &named));
        assert_eq!(right.finish(), Ok(()));
        let mut wrong = settings(&[("A", "YES")]);
        wrong.one_of("A", &named);
        assert_eq!(
            wrong.finish().unwrap_err().to_string(),
            "the settings are incomplete: A must be one of no, yes, and YES is none"
        );
    }

    #[test]
    fn an_address_with_more_than_a_host_is_refused() {
        for wrong in [
            "https://user:pw@x.example",
            "https://x.example/#a",
            "https://x.example/?a",
            "https://x.example/a",
        ] {
            let mut settings = Settings::new(|_| Some(wrong.to_owned()));
            settings.service_url("U", None);
            assert!(settings.finish().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_default_holds_where_nothing_is_set() {
        let mut settings = settings(&[]);
        assert_eq!(
            settings
                .service_url("U", Some("https://api.us.nylas.com"))
                .host_str(),
            Some("api.us.nylas.com")
        );
        assert_eq!(settings.finish(), Ok(()));
        assert_eq!(placeholder().scheme(), "https");
    }
}
