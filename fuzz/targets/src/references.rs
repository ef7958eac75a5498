//! Which emails a message answers, and which tracking tokens its subject holds.
//!
//! Input: a line, the header In-Reply-To; a line, the header References; a line, the subject; the
//! rest, the pattern of the tokens, which is the default pattern where it is empty.

use mailverse::clients::nylas::wire;
use mailverse::lookup::related_emails::LONGEST_TOKEN;
use mailverse::model::ids::{GrantId, InternetMessageId};
use mailverse::model::message::MOST_ANCESTORS;
use mailverse::policy::token_pattern::{self, TokenPattern};
use serde_json::json;

/// Longest pattern that is tried: what a long one costs is up to whoever writes the policy.
const LONGEST_PATTERN: usize = 200;

/// Reads the headers of a message, and the tokens of its subject.
///
/// # Panics
/// A promise about it does not hold.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (in_reply_to, references, subject, pattern) = (line(), line(), line(), line());
    let object = json!({
        "id": "m",
        "subject": subject,
        "headers": [
            {"name": "Message-ID", "value": references},
            {"name": "In-Reply-To", "value": in_reply_to},
            {"name": "References", "value": references},
        ],
    });
    let Ok(grant) = "g".parse::<GrantId>() else {
        unreachable!("`g` is an id");
    };
    let Ok(message) = wire::message(&grant, &object) else {
        unreachable!("it has an id");
    };
    assert!(message.ancestors.len() <= MOST_ANCESTORS);
    for (place, id) in message.ancestors.iter().enumerate() {
        let others = message.ancestors.iter().skip(place + 1);
        assert!(others.clone().all(|other| other != id), "one id twice");
        assert_sound(id);
    }
    message.internet_message_id.iter().for_each(assert_sound);

    tokens("CRM:[0-9]+", subject);
    if !pattern.is_empty()
        && pattern.len() <= LONGEST_PATTERN
        && token_pattern::check(pattern).is_ok()
    {
        tokens(pattern, subject);
    }
}

fn assert_sound(id: &InternetMessageId) {
    let text = id.as_str();
    assert!(!text.is_empty());
    assert!(
        !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "\u{fffe}\u{ffff}".contains(c)),
        "no column holds this id: {text:?}"
    );
    let again = InternetMessageId::from_header(&id.in_brackets());
    assert!(
        again.as_ref() == Some(id),
        "written and read, another id: {text:?}"
    );
}

fn tokens(pattern: &str, subject: &str) {
    let tokens = TokenPattern::new(pattern).in_subject(subject);
    assert!(tokens.len() <= 3, "more tokens than are looked up");
    for token in &tokens {
        assert!(!token.is_empty() && token.encode_utf16().count() <= LONGEST_TOKEN);
        assert!(
            subject.contains(token),
            "a token that is not in the subject"
        );
        assert!(!token.chars().any(char::is_control));
    }
}
