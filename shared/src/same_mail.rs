//! Whether two that share Message-ID and sender are one mail. Pure.
//!
//! A Message-ID is meant to be unique. Devices, invoice programs and campaign tools give several mails one, so the
//! Message-ID alone does not prove that a row holds this mail. What is compared is what copies of one mail share:
//!
//! | What | Counts as the same | Because |
//! | --- | --- | --- |
//! | date | the same second | a row has the date of the copy that it was written from |
//! | subject | equal words, without marks such as `[list]`, `EXTERNAL:` and tracking tokens | lists and gateways add them |
//! | body | the words of one stand in the other, in order and without a gap | footers, banners, snippets and cut bodies |
//!
//! Only what both have is compared: a row may have no date, no subject or no body, because the policy or another client
//! left it out. The first line that applies decides:
//!
//! | Date | Subject | Body | Then |
//! | --- | --- | --- | --- |
//! | same second | | | one mail, whatever somebody did to the row's texts |
//! | | | same | one mail: a copy that was moved, or whose subject somebody changed |
//! | more than [`NEAR`] apart | same | shares less than half of its phrases, or each has a number that the other lacks | another mail |
//! | | same | | one mail |
//! | more than [`NEAR`] apart | another | | another mail |
//! | | another | another | another mail |
//! | more than [`NEAR`] apart | none | another | another mail |
//! | | | | one mail |
//!
//! What would be one mail by that is another one still where the dates are more than [`NEAR`] apart, both have equally many
//! files, and no file of the one has a name that the other's have: a scanner sends each page with one subject and one text.
//!
//! Copies of one mail reach several mailboxes within seconds, and Nylas dates each by its arrival (Nylas facts §5), so a
//! short time between two dates says nothing. A long one alone says nothing either: providers date moved mail anew.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::dataverse::rows::ExistingEmail;
use crate::ids::ActivityId;
use crate::keys;
use crate::message::Message;

/// Two dates that are no further apart may be those of one mail in two mailboxes.
pub const NEAR: TimeDelta = TimeDelta::minutes(2);

/// Words of a phrase.
const PHRASE: usize = 3;

/// A text of at least so many words may end within a word, because it was cut.
const MAY_BE_CUT: usize = 8;

/// Words before a colon that programs put before a subject.
const SUBJECT_MARKS: [&str; 18] = [
    "re", "aw", "antw", "fw", "fwd", "wg", "sv", "vs", "tr", "rv", "ext", "extern", "external",
    "spam", "junk", "bulk", "caution", "suspect",
];

/// The subject of a row whose mail has none.
pub const NO_SUBJECT: &str = "(no subject)";

/// The subject of a row where the policy does not let the mail's be stored.
pub const NOT_STORED: &str = "(not stored)";

/// What is compared of a mail or of a row.
#[derive(Debug, Clone, Default)]
pub struct Traits<'a> {
    /// The dates that are given for it; a row may have several.
    pub dates: Vec<DateTime<Utc>>,
    /// May be empty, or [`NO_SUBJECT`] or [`NOT_STORED`].
    pub subject: &'a str,
    /// HTML or text; `None` when it was not read yet.
    pub body: Option<&'a str>,
    /// How many files it has.
    pub files: usize,
    /// Their names as a row has them, in lower case; `None` when they were not read yet, or one has no name.
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
    /// Those of a row, whose body is read in a request of its own, and only where it matters.
    #[must_use]
    pub fn of_row(row: &'a ExistingEmail, body: Option<&'a str>) -> Self {
        Self {
            dates: row.dates.clone(),
            subject: &row.subject,
            body,
            files: usize::try_from(row.attachments).unwrap_or_default(),
            names: None,
        }
    }
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are copies of one mail, or nothing speaks against it.
    Same,
    /// They are two mails.
    Other,
    /// It depends on a body that was not read.
    ReadBody,
    /// It depends on names of files that were not read.
    ReadNames,
}

/// Whether a mail is the one that a row holds. People may have changed the row.
#[must_use]
pub fn compare(mail: &Traits<'_>, row: &Traits<'_>) -> Verdict {
    match dates(&mail.dates, &row.dates) {
        Dates::Same => Verdict::Same,
        dates => match by_texts(dates, mail, row) {
            Verdict::Same if dates == Dates::Far => by_files(mail, row),
            verdict => verdict,
        },
    }
}

/// Whether two mails are one, both as their mailboxes have them: so a mail of the same second is another one where both
/// texts, or the files, say so. A program that repeats an id may send several mails in one second.
#[must_use]
pub fn compare_mails(one: &Traits<'_>, other: &Traits<'_>) -> Verdict {
    match by_texts(dates(&one.dates, &other.dates), one, other) {
        Verdict::Same => by_files(one, other),
        verdict => verdict,
    }
}

/// What is one mail by everything else may have other files. A mail whose files have no names is not told apart by them.
fn by_files(mail: &Traits<'_>, row: &Traits<'_>) -> Verdict {
    let Some(names) = mail.names.as_ref().filter(|names| !names.is_empty()) else {
        return Verdict::Same;
    };
    if mail.files != row.files {
        // Files were left out, or added.
        return Verdict::Same;
    }
    match &row.names {
        None => Verdict::ReadNames,
        Some(others) if others.is_empty() || !names.is_disjoint(others) => Verdict::Same,
        Some(_) => Verdict::Other,
    }
}

fn by_texts(dates: Dates, mail: &Traits<'_>, row: &Traits<'_>) -> Verdict {
    let far = dates == Dates::Far;
    let subject = subjects(mail.subject, row.subject);
    let depends = match subject {
        Subjects::Same | Subjects::Unknown => far,
        Subjects::Other => true,
    };
    if !depends {
        return Verdict::Same;
    }
    let (Some(mail), Some(row)) = (mail.body, row.body) else {
        return Verdict::ReadBody;
    };
    let bodies = bodies(mail, row);
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
        Verdict::Other
    } else {
        Verdict::Same
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
        // Rows have whole seconds.
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
    // The row's may be cut at the length of its column.
    if one == other || is_cut_from(&one, &other) || is_cut_from(&other, &one) {
        Subjects::Same
    } else {
        Subjects::Other
    }
}

/// Whether a long text is the beginning of another.
fn is_cut_from(short: &[String], long: &[String]) -> bool {
    let Some((last, rest)) = short.split_last().filter(|_| short.len() >= 2 * MAY_BE_CUT) else {
        return false;
    };
    long.starts_with(rest)
        && long
            .get(rest.len())
            .is_some_and(|word| word.starts_with(last.as_str()))
}

/// A subject without what lists, gateways and clients put around it; empty for one that stands for none.
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

/// `AW`, `Re[2]`, `EXTERNAL`: what stands before a colon.
fn is_mark(word: &str) -> bool {
    let word = word.split('[').next().unwrap_or_default().trim();
    SUBJECT_MARKS
        .iter()
        .any(|mark| word.eq_ignore_ascii_case(mark))
}

/// `CRM:0001001`, as Dataverse puts at the end of a subject.
fn is_tracking_token(word: &str) -> bool {
    word.split_once(':').is_some_and(|(prefix, number)| {
        prefix.chars().all(char::is_alphabetic)
            && number.len() >= 4
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

/// Without a bracketed beginning, if something follows it.
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
    /// At least half of the phrases are shared, and the numbers are not those of two cases.
    Similar,
    Other,
    /// One has no words.
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

/// Whether each has a number that the other lacks, as forms do that were filled in for two cases. What a list or a
/// gateway adds has numbers on one side.
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

/// The content of a mail, as far as its copies share it: a digest of the words of subject and body and of the names of
/// its files. The same for every copy that nothing was added to. `None` for a mail without any of these.
///
/// Changing this, or `each_word`, writes mails that share a Message-ID a second time, should the ledger be lost.
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
pub fn key_by_content(message: &Message) -> Option<ActivityId> {
    let id = message.internet_message_id.as_ref()?;
    Some(keys::activity_id_by_content(
        &message.key,
        id,
        message.author(),
        content(message),
    ))
}

/// The words that a reader sees, in lower case: no tags, style sheets, scripts and comments. Addresses of pages are left
/// out, because gateways rewrite them.
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
            // A sign, and no tag.
            rest = tag;
            continue;
        }
        let hidden = [("style", "</style"), ("script", "</script"), ("!--", "-->")];
        let hidden = hidden.iter().find(|(name, _)| has_prefix(tag, name));
        let after = match hidden {
            Some((_, end)) => find_ignoring_case(tag, end).and_then(|at| tag.get(at..)),
            None => Some(tag),
        };
        // A tag without an end: the text was cut within it.
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

/// With the commonest character references resolved; the others end words.
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
