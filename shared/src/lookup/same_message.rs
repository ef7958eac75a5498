//! Decides whether two messages that share Message-ID and sender are the same email. Pure.
//!
//! A Message-ID is meant to be unique. Devices, invoice programs and campaign tools give several
//! emails the same one, so the Message-ID alone does not prove that a row holds a message. What
//! copies of one email have in common is compared:
//!
//! | What | Counts as the same | Because |
//! | --- | --- | --- |
//! | date | the same second | a row has the date of the copy that it was written from |
//! | subject | equal words, without marks such as `[list]`, `EXTERNAL:` and tracking tokens | lists and gateways add them |
//! | body | the words of one appear in the other, in order and without a gap | footers, banners, snippets and truncated bodies |
//!
//! Only what both have is compared: a row may have no date, no subject or no body, because the
//! policy or another client omitted it. The first line that applies decides. An empty cell means
//! any value, and "missing" that at least one of the two lacks it:
//!
//! | Date | Subject | Body | Result |
//! | --- | --- | --- | --- |
//! | same second | | | same email, however a user changed the row's texts |
//! | | | same | same email: a copy that was moved, or whose subject a user changed |
//! | more than [`NEAR`] apart | same | shares less than half of its phrases, or each has a number that the other lacks | different emails |
//! | | same | | same email |
//! | more than [`NEAR`] apart | different | | different emails |
//! | | different | different | different emails |
//! | more than [`NEAR`] apart | missing | different | different emails |
//! | | | | same email |
//!
//! There is one exception to "same email": the dates are more than [`NEAR`] apart, both have
//! equally many files, and no file name of one is among those of the other. These are different
//! emails: a scanner sends each page with the same subject and text.
//!
//! Copies of one email reach several mailboxes within seconds, and Nylas dates each by its arrival
//! (Nylas facts §5), so a short time between two dates proves nothing. A long time alone proves
//! nothing either: providers give moved email a new date.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::clients::dataverse::records::ExistingEmail;
use crate::model::ids::ActivityId;
use crate::model::keys;
use crate::model::message::Message;

/// Two dates at most this far apart may be those of one email in two mailboxes.
pub const NEAR: TimeDelta = TimeDelta::minutes(2);

/// The number of words in a phrase.
const PHRASE: usize = 3;

/// A text of at least this many words may end within a word, because it was truncated.
const MAY_BE_CUT: usize = 8;

/// Words before a colon that mail programs put in front of a subject.
const SUBJECT_MARKS: [&str; 18] = [
    "re", "aw", "antw", "fw", "fwd", "wg", "sv", "vs", "tr", "rv", "ext", "extern", "external",
    "spam", "junk", "bulk", "caution", "suspect",
];

/// The subject of a row if the email has none.
pub(crate) const NO_SUBJECT: &str = "(no subject)";

/// The subject of a row if the policy does not allow storing the email's subject.
pub(crate) const NOT_STORED: &str = "(not stored)";

/// The properties of a message or of a row that are compared.
#[derive(Debug, Clone, Default)]
pub struct Traits<'a> {
    /// Its dates; a row may have several.
    pub dates: Vec<DateTime<Utc>>,
    /// May be empty, or [`NO_SUBJECT`] or [`NOT_STORED`].
    pub subject: &'a str,
    /// HTML or text; `None` if it has not been read yet.
    pub body: Option<&'a str>,
    /// The number of files.
    pub files: usize,
    /// The file names as stored in a row, in lower case; `None` if they have not been read yet, or
    /// one file has no name.
    pub names: Option<HashSet<String>>,
}

impl<'a> From<&'a Message> for Traits<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            dates: message.date.into_iter().collect(),
            subject: &message.subject,
            body: Some(&message.body),
            files: message.attachments.len(),
            names: None,
        }
    }
}

impl<'a> Traits<'a> {
    /// Returns the traits of a row. Its body is read in a separate request, and only if it matters.
    #[must_use]
    pub(crate) fn of_row(row: &'a ExistingEmail, body: Option<&'a str>) -> Self {
        Self {
            dates: row.dates.clone(),
            subject: &row.subject,
            body,
            files: usize::try_from(row.attachments).unwrap_or_default(),
            names: None,
        }
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// They are copies of one email, or there is no evidence against it.
    Same,
    /// They are different emails.
    Other,
    /// It depends on a body that has not been read.
    ReadBody,
    /// It depends on file names that have not been read.
    ReadNames,
}

/// Compares a message with a row, which users may have changed.
#[must_use]
pub fn compare(message: &Traits<'_>, row: &Traits<'_>) -> Comparison {
    match dates(&message.dates, &row.dates) {
        Dates::Same => Comparison::Same,
        dates => match by_texts(dates, message, row) {
            Comparison::Same if dates == Dates::Far => by_files(message, row),
            verdict => verdict,
        },
    }
}

/// Compares two messages as their mailboxes have them, unchanged by users. So two messages of the
/// same second are different emails if their texts or files differ: a program that reuses an id may
/// send several emails in one second.
#[must_use]
pub(crate) fn compare_mails(one: &Traits<'_>, other: &Traits<'_>) -> Comparison {
    match by_texts(dates(&one.dates, &other.dates), one, other) {
        Comparison::Same => by_files(one, other),
        verdict => verdict,
    }
}

/// Compares the files of two messages that are otherwise the same. If no files of the message have
/// known names, files do not distinguish it.
fn by_files(message: &Traits<'_>, row: &Traits<'_>) -> Comparison {
    let Some(names) = message.names.as_ref().filter(|names| !names.is_empty()) else {
        return Comparison::Same;
    };
    if message.files != row.files {
        // Files were omitted or added.
        return Comparison::Same;
    }
    match &row.names {
        None => Comparison::ReadNames,
        Some(others) if others.is_empty() || !names.is_disjoint(others) => Comparison::Same,
        Some(_) => Comparison::Other,
    }
}

fn by_texts(dates: Dates, message: &Traits<'_>, row: &Traits<'_>) -> Comparison {
    let far = dates == Dates::Far;
    let subject = subjects(message.subject, row.subject);
    let depends = match subject {
        Subjects::Same | Subjects::Unknown => far,
        Subjects::Other => true,
    };
    if !depends {
        return Comparison::Same;
    }
    let (Some(message), Some(row)) = (message.body, row.body) else {
        return Comparison::ReadBody;
    };
    let bodies = bodies(message, row);
    let is_other = match subject {
        Subjects::Same => bodies == Bodies::Other,
        Subjects::Unknown => matches!(bodies, Bodies::Similar | Bodies::Other),
        Subjects::Other => match bodies {
            Bodies::Same => false,
            Bodies::Similar | Bodies::Other => true,
            Bodies::Unknown => far,
        },
    };
    if is_other {
        Comparison::Other
    } else {
        Comparison::Same
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dates {
    Same,
    Near,
    Far,
    Unknown,
}

fn dates(some: &[DateTime<Utc>], others: &[DateTime<Utc>]) -> Dates {
    let pairs = some
        .iter()
        .flat_map(|one| others.iter().map(move |other| (*one - *other).abs()));
    match pairs.min() {
        None => Dates::Unknown,
        // Dates of rows are whole seconds.
        Some(apart) if apart < TimeDelta::seconds(1) => Dates::Same,
        Some(apart) if apart <= NEAR => Dates::Near,
        Some(_) => Dates::Far,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subjects {
    Same,
    Other,
    Unknown,
}

fn subjects(one: &str, other: &str) -> Subjects {
    let (one, other) = (words(without_marks(one)), words(without_marks(other)));
    if one.is_empty() || other.is_empty() {
        return Subjects::Unknown;
    }
    // The row's subject may be truncated at the length of its column.
    if one == other || is_cut_from(&one, &other) || is_cut_from(&other, &one) {
        Subjects::Same
    } else {
        Subjects::Other
    }
}

/// Returns whether a long text is a truncated beginning of another.
fn is_cut_from(short: &[String], long: &[String]) -> bool {
    let Some((last, rest)) = short.split_last().filter(|_| short.len() >= 2 * MAY_BE_CUT) else {
        return false;
    };
    long.starts_with(rest)
        && long
            .get(rest.len())
            .is_some_and(|word| word.starts_with(last.as_str()))
}

/// Returns a subject without the marks that lists, gateways and clients add; empty for a
/// placeholder such as [`NO_SUBJECT`].
fn without_marks(subject: &str) -> &str {
    let mut rest = subject.trim();
    if [NO_SUBJECT, NOT_STORED].contains(&rest) {
        return "";
    }
    loop {
        let before = rest;
        rest = without_bracketed(rest, '[', ']');
        rest = without_bracketed(rest, '{', '}');
        rest = without_bracketed(rest, '*', '*');
        if let Some((word, after)) = rest.split_once(':')
            && is_mark(word)
        {
            rest = after.trim_start();
        }
        if let Some((front, last)) = rest.rsplit_once(char::is_whitespace)
            && (is_tracking_token(last) || (last.starts_with('[') && last.ends_with(']')))
        {
            rest = front.trim_end();
        }
        if rest.len() == before.len() {
            return rest;
        }
    }
}

/// Returns whether a word before a colon is a mark, such as `AW`, `Re[2]` or `EXTERNAL`.
fn is_mark(word: &str) -> bool {
    let word = word.split('[').next().unwrap_or_default().trim();
    SUBJECT_MARKS
        .iter()
        .any(|mark| word.eq_ignore_ascii_case(mark))
}

/// Returns whether a word is a tracking token such as `CRM:0001001`, which Dataverse appends to a
/// subject.
fn is_tracking_token(word: &str) -> bool {
    word.split_once(':').is_some_and(|(prefix, number)| {
        prefix.chars().all(char::is_alphabetic)
            && number.len() >= 4
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

/// Removes a bracketed beginning, if something follows it.
fn without_bracketed(text: &str, open: char, close: char) -> &str {
    let inner = text
        .strip_prefix(open)
        .map(|rest| rest.trim_start_matches(open));
    let Some((_, after)) = inner.and_then(|inner| inner.split_once(close)) else {
        return text;
    };
    let after = after.trim_start_matches(close).trim_start();
    if after.is_empty() { text } else { after }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bodies {
    /// One is part of the other.
    Same,
    /// At least half of the phrases are shared, and the numbers do not indicate two cases.
    Similar,
    Other,
    /// One contains no words.
    Unknown,
}

fn bodies(one: &str, other: &str) -> Bodies {
    let (one, other) = (words(one), words(other));
    let (short, long) = if one.len() <= other.len() {
        (one, other)
    } else {
        (other, one)
    };
    if short.is_empty() {
        return Bodies::Unknown;
    }
    let whole = format!(" {} ", long.join(" "));
    let part = format!(" {}", short.join(" "));
    let may_be_cut = short.len() >= MAY_BE_CUT;
    if whole.contains(&format!("{part} ")) || (may_be_cut && whole.contains(&part)) {
        return Bodies::Same;
    }
    let size = PHRASE.min(short.len());
    let phrases = |words: &[String]| words.windows(size).map(hash).collect::<HashSet<u64>>();
    let (some, others) = (phrases(&short), phrases(&long));
    let shares_half = some.intersection(&others).count() * 2 >= some.len();
    if shares_half && !each_has_a_number_of_its_own(&short, &long) {
        Bodies::Similar
    } else {
        Bodies::Other
    }
}

/// Returns whether each text has a number that the other lacks, as in a form that was filled in for
/// two cases. What a list or a gateway adds has numbers on one side only.
fn each_has_a_number_of_its_own(one: &[String], other: &[String]) -> bool {
    let numbers = |words: &[String]| -> HashSet<String> {
        let numbers = words
            .iter()
            .filter(|word| word.contains(|c: char| c.is_numeric()));
        numbers.cloned().collect()
    };
    let (one, other) = (numbers(one), numbers(other));
    !one.is_subset(&other) && !other.is_subset(&one)
}

fn hash(words: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    words
}

/// Returns a digest of what all copies of an email share: the words of subject and body, and the
/// file names. It is the same for every copy to which nothing was added. `None` if the email has
/// none of these.
///
/// After a change of this function or of `each_word`, messages that share a Message-ID are written
/// a second time if the ledger is lost.
#[must_use]
pub fn content(message: &Message) -> Option<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut is_empty = true;
    let mut add = |text: &str, end: &[u8]| {
        is_empty &= text.is_empty();
        digest.update(text);
        digest.update(end);
    };
    for text in [without_marks(&message.subject), &message.body] {
        each_word(text, |word| add(word, b" "));
        add("", b"\0");
    }
    let names = message.attachments.iter();
    let mut names: Vec<String> = names
        .map(|file| file.file_name.trim().to_lowercase())
        .collect();
    names.sort_unstable();
    for name in names {
        add(&name, b"\0");
    }
    (!is_empty).then(|| digest.finalize().into())
}

/// Returns the key of the row if another message of the same sender has the same Message-ID; `None`
/// for a message without one. Ask before the policy removes subject and body.
#[must_use]
pub(crate) fn key_by_content(message: &Message) -> Option<ActivityId> {
    let id = message.internet_message_id.as_ref()?;
    Some(keys::activity_id_by_content(
        &message.key,
        id,
        message.author(),
        content(message),
    ))
}

/// Calls `found` with each word that a reader sees, in lower case: no tags, style sheets, scripts
/// or comments. URLs are omitted, because gateways rewrite them.
fn each_word(text: &str, mut found: impl FnMut(&str)) {
    let mut plain = |text: &str| {
        for chunk in text
            .split_whitespace()
            .filter(|chunk| !chunk.contains("://"))
        {
            let words = chunk.split(|c: char| !c.is_alphanumeric());
            for word in words.filter(|word| !word.is_empty()) {
                found(&word.to_lowercase());
            }
        }
    };
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once('<') {
        plain(&unescaped(before));
        if !tag.starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c)) {
            // A less-than sign, not a tag.
            rest = tag;
            continue;
        }
        let hidden = [("style", "</style"), ("script", "</script"), ("!--", "-->")];
        let hidden = hidden.iter().find(|(name, _)| has_prefix(tag, name));
        let after = match hidden {
            Some((_, end)) => find_ignoring_case(tag, end).and_then(|at| tag.get(at..)),
            None => Some(tag),
        };
        // If a tag has no end, the text was truncated within it.
        rest = after
            .and_then(|after| Some(after.split_once('>')?.1))
            .unwrap_or_default();
    }
    plain(&unescaped(rest));
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn find_ignoring_case(text: &str, part: &str) -> Option<usize> {
    let mut places = text.char_indices().map(|(at, _)| at);
    places.find(|at| text.get(*at..).is_some_and(|rest| has_prefix(rest, part)))
}

/// Resolves the most common character references; any other one ends a word.
fn unescaped(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&nbsp;", " ")
        .replace("&#160;", " ")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests;
