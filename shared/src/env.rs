//! Reads settings from the environment: each variable once, with all problems reported together.
//!
//! Each function has one `Config` with `from_lookup`, which reads its variables through
//! [`Settings`]. Variables contain the names of secrets, never the secrets.
//!
//! ```
//! use mailverse::env::Settings;
//!
//! let mut settings = Settings::new(|name| (name == "LEDGER_TABLE").then(|| "ledger".to_owned()));
//! let table = settings.required("LEDGER_TABLE");
//! let queue = settings.required("SYNC_QUEUE_URL");
//! assert_eq!(table, "ledger");
//! assert_eq!(
//!     settings.finish().unwrap_err().to_string(),
//!     "invalid settings: SYNC_QUEUE_URL is missing"
//! );
//! ```

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use url::Url;

/// All problems of the environment, in the order in which the variables were read.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<String>,
}

impl SettingsError {
    /// Returns the problems: one text for each variable, which starts with its name.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid settings: {}", self.problems.join("; "))
    }
}

impl std::error::Error for SettingsError {}

/// Reads variables and collects their problems.
pub struct Settings<L> {
    lookup: L,
    problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Settings<L> {
    /// Creates a reader on `lookup`, which returns `None` for a variable that is not set.
    pub fn new(lookup: L) -> Self {
        Self {
            lookup,
            problems: Vec::new(),
        }
    }

    /// Reads a required variable. If it is missing, returns an empty text, and [`Self::finish`]
    /// reports it.
    pub fn required(&mut self, name: &str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problems.push(format!("{name} is missing"));
            String::new()
        })
    }

    /// Reads an optional variable; `None` if it is missing or blank.
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// Reads the base URL of a service: `https`, or `http` on the loopback interface. `default` is
    /// used if the variable is missing.
    ///
    /// If it is missing or malformed, returns a placeholder, and [`Self::finish`] reports it.
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
            Err(error) => self.problems.push(format!("{name} is not a valid URL: {error}")),
        }
        placeholder()
    }

    /// Reads one of several named values; returns the type's default if the variable is missing.
    ///
    /// For any other value, returns the default too, and [`Self::finish`] reports it.
    pub fn one_of<T: Copy + Default>(&mut self, name: &str, named: &[(&str, T)]) -> T {
        let Some(text) = self.optional(name) else {
            return T::default();
        };
        if let Some((_, value)) = named.iter().find(|(known, _)| *known == text) {
            return *value;
        }
        let allowed: Vec<&str> = named.iter().map(|(known, _)| *known).collect();
        self.problems.push(format!(
            "{name} must be one of {} (got `{text}`)",
            allowed.join(", ")
        ));
        T::default()
    }

    /// Parses a variable; returns the type's default if it is missing.
    ///
    /// If it cannot be parsed, returns the default too, and [`Self::finish`] reports it.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display> + Default>(&mut self, name: &str) -> T {
        let Some(text) = self.optional(name) else {
            return T::default();
        };
        text.parse().unwrap_or_else(|error| {
            self.problems.push(format!("{name} {error}"));
            T::default()
        })
    }

    /// Parses a required variable; `None` if it is missing or cannot be parsed, which
    /// [`Self::finish`] reports. `what` tells an operator what to write if it is missing.
    pub(crate) fn required_parsed<T: FromStr<Err: fmt::Display>>(
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

    /// Reads names that can be part of another name, separated by commas: letters, digits, `-` and
    /// `_`. Returns none if the variable is missing.
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
                "{name} must be distinct names of letters, digits, `-` and `_`, separated by commas"
            ));
        }
        names
    }

    /// Ends reading and reports the problems.
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

#[expect(clippy::expect_used, reason = "a constant that a test parses")]
fn placeholder() -> Url {
    Url::parse("https://missing.invalid").expect("the placeholder is a valid URL")
}

/// Reads the process environment. The functions use this as their lookup.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the only place that reads the environment"
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
    fn every_missing_or_invalid_setting_is_reported_at_once() {
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
    fn invalid_limits_and_names_are_reported_with_the_expected_format() {
        let mut settings = settings(&[("B", "6000"), ("N", "one,two/"), ("T", "one, one")]);
        settings.parsed::<crate::rate_limit::Limits>("B");
        settings.names("N");
        settings.names("T");
        assert_eq!(settings.names("U"), [""; 0]);
        let text = settings.finish().unwrap_err().to_string();
        for part in [
            "B must be three numbers",
            "N must be distinct names",
            "T must be distinct names",
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
    fn a_value_that_is_not_allowed_is_rejected_with_the_allowed_values() {
        let named = [("no", false), ("yes", true)];
        let mut right = settings(&[("A", " yes "), ("B", "")]);
        assert!(right.one_of("A", &named) && !right.one_of("B", &named));
        assert_eq!(right.finish(), Ok(()));
        let mut wrong = settings(&[("A", "YES")]);
        wrong.one_of("A", &named);
        assert_eq!(
            wrong.finish().unwrap_err().to_string(),
            "invalid settings: A must be one of no, yes (got `YES`)"
        );
    }

    #[test]
    fn a_service_url_with_more_than_a_host_is_rejected() {
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
    fn a_default_applies_if_nothing_is_set() {
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
