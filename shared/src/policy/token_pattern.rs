//! Tracking tokens: short texts such as `CRM:0001234` that Dynamics 365 adds to subjects, so that
//! it recognises replies.

use regex_lite::Regex;

use crate::lookup::related_emails::LONGEST_TOKEN;

/// The maximum number of tokens of one subject that are looked up. The sender chooses the subject;
/// a real email has one token, rarely two.
const MOST_TOKENS: usize = 3;

/// A compiled pattern of tracking tokens.
#[derive(Debug, Clone)]
pub struct TokenPattern(Option<Regex>);

impl TokenPattern {
    /// Compiles the pattern of the policy. A pattern that does not compile matches nothing: the
    /// policy check refuses it before it is stored ([`check`]).
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(Regex::new(pattern).ok())
    }

    /// Returns the distinct tokens in a subject, in their order, at most three. A match is ignored
    /// if it is empty, longer than the column `trackingtoken`, or contains control characters.
    #[must_use]
    pub fn in_subject(&self, subject: &str) -> Vec<String> {
        let mut tokens: Vec<String> = Vec::new();
        let Some(pattern) = &self.0 else {
            return tokens;
        };
        for found in pattern.find_iter(subject) {
            let token = found.as_str();
            let sound = !token.is_empty()
                && token.encode_utf16().count() <= LONGEST_TOKEN
                && !token.chars().any(char::is_control)
                && !token.contains(['\u{fffe}', '\u{ffff}']);
            if sound && !tokens.iter().any(|known| known == token) {
                tokens.push(token.to_owned());
            }
            if tokens.len() == MOST_TOKENS {
                break;
            }
        }
        tokens
    }
}

/// Checks that a text is a pattern, in the syntax of the crate `regex-lite`, and does not match
/// every subject.
///
/// # Errors
/// What is wrong with the pattern, as a text for people.
pub fn check(pattern: &str) -> Result<(), String> {
    match Regex::new(pattern) {
        Err(error) => Err(format!("is not a regular expression: {error}")),
        Ok(pattern) if pattern.is_match("") => Err("matches every subject".to_owned()),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(pattern: &str, subject: &str) -> Vec<String> {
        TokenPattern::new(pattern).in_subject(subject)
    }

    #[test]
    fn tokens_are_found_anywhere_in_a_subject_and_listed_once() {
        let subject = "Re: Kites CRM:0001234 (was CRM:77, CRM:0001234)";
        assert_eq!(tokens("CRM:[0-9]+", subject), ["CRM:0001234", "CRM:77"]);
        assert!(tokens("CRM:[0-9]+", "CRM: 0001234, crm:12 or CRM:x").is_empty());
        assert_eq!(tokens("#[A-Z]{2}-[0-9]+", "About #KX-9"), ["#KX-9"]);
    }

    #[test]
    fn text_that_does_not_fit_the_column_is_not_a_token() {
        assert!(tokens("CRM:[0-9]+", &format!("CRM:{}", "1".repeat(47))).is_empty());
        assert_eq!(
            tokens("CRM:[0-9]+", &format!("CRM:{}", "1".repeat(46))).len(),
            1
        );
        assert!(tokens("x*", "yyy").is_empty());
        assert!(tokens("a.b", "a\u{7}b").is_empty());
    }

    #[test]
    fn the_number_of_tokens_of_one_subject_is_limited() {
        let many: Vec<String> = (0..50).map(|n| format!("CRM:{n}")).collect();
        assert_eq!(tokens("CRM:[0-9]+", &many.join(" ")).len(), MOST_TOKENS);
    }

    #[test]
    fn an_invalid_pattern_finds_nothing_and_is_reported_by_the_check() {
        assert!(check("CRM:[0-9]+").is_ok());
        assert!(check("CRM:[0-9").is_err());
        assert!(check("x*").is_err());
        assert!(tokens("CRM:[0-9", "CRM:[0-9").is_empty());
    }
}
