//! What a mail of the corpus is, and what has to become of it.

use rand::Rng;
use rand::rngs::StdRng;

use super::Expected;
use crate::incident::Incident;

/// Of so many mails one is raced for, so that a small corpus has some of each moment.
const RACED: usize = 8;

/// What a mail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    WithoutMessageId,
    /// Another client has written it before.
    Theirs,
    /// Another client writes it about when we do.
    Raced,
    Spam,
    Draft,
    Trash,
    Internal,
    Refused,
    Gone,
    /// What an incident is about: written like an ordinary one.
    Of(Incident),
}

/// A mail to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline {
    pub(super) kind: Kind,
    /// In how many mailboxes it lies.
    pub(super) copies: usize,
    /// Whether the schedule lists it.
    pub(super) recent: bool,
    /// In seconds.
    pub(super) age: i64,
}

impl Outline {
    /// The mail of this number.
    pub(super) fn of(number: usize, rng: &mut StdRng) -> Self {
        let kind = Kind::of(number, rng);
        let copies = kind.copies(rng);
        let (recent, age) = kind.age(rng);
        Self {
            kind,
            copies,
            recent,
            age,
        }
    }

    /// One that an incident is about. It has just come, unless that a file cannot be had is no news
    /// any more, or the scene of large bodies has it.
    pub(super) fn for_incident(incident: Incident, rng: &mut StdRng) -> Self {
        let age = match incident {
            Incident::BrokenFiles => rng.random_range(8 * 3_600..20 * 3_600),
            Incident::LargeBodies => Kind::old(rng),
            _ => rng.random_range(30..60),
        };
        Self {
            kind: Kind::Of(incident),
            copies: 1,
            recent: incident != Incident::LargeBodies,
            age,
        }
    }

    /// One that can be kept for what is done on purpose: it is written, and nobody lists it before.
    pub(super) fn kept(copies: usize, rng: &mut StdRng) -> Self {
        Self {
            kind: Kind::Ordinary,
            copies,
            recent: false,
            age: Kind::old(rng),
        }
    }
}

impl Kind {
    /// What the mail of this number is.
    fn of(number: usize, rng: &mut StdRng) -> Self {
        let drawn = Self::draw(rng);
        if number % RACED == RACED / 2 {
            Self::Raced
        } else {
            drawn
        }
    }

    /// In how many mailboxes it lies.
    fn copies(self, rng: &mut StdRng) -> usize {
        let one_copy = match self {
            Self::WithoutMessageId | Self::Draft | Self::Gone | Self::Theirs => true,
            // A second copy would find the other client's row without the list.
            Self::Raced => rng.random_bool(0.7),
            _ => false,
        };
        match rng.random_range(0..20) {
            _ if one_copy => 1,
            0..10 => 1,
            10..15 => 2,
            15..18 => 3,
            _ => 4,
        }
    }

    /// Whether it is recent, so that the schedule lists it, and its age in seconds.
    fn age(self, rng: &mut StdRng) -> (bool, i64) {
        let recent = rng.random_bool(1.0 / 3.0) || self == Self::Raced;
        let age = if self == Self::Raced {
            // The rows of other clients that come after ours are found where every run of the schedule lists the mail: it has just come.
            rng.random_range(60..3_600)
        } else if recent {
            rng.random_range(3_600..20 * 3_600)
        } else {
            Self::old(rng)
        };
        (recent, age)
    }

    /// An age at which no run of the schedule lists a mail.
    fn old(rng: &mut StdRng) -> i64 {
        rng.random_range(2 * 86_400..20 * 86_400)
    }

    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..100) {
            0..3 => Self::Spam,
            3..5 => Self::Draft,
            5..7 => Self::Trash,
            7..11 => Self::Internal,
            11..13 => Self::Refused,
            13 => Self::Gone,
            14..16 => Self::Theirs,
            16..21 => Self::WithoutMessageId,
            _ => Self::Ordinary,
        }
    }

    pub(super) fn incident(self) -> Option<Incident> {
        match self {
            Self::Of(incident) => Some(incident),
            _ => None,
        }
    }

    pub(super) fn expected(self) -> Expected {
        match self {
            Self::Ordinary | Self::WithoutMessageId | Self::Theirs | Self::Raced | Self::Of(_) => {
                Expected::Written
            }
            Self::Spam => Expected::Skipped("spam"),
            Self::Draft => Expected::Skipped("draft"),
            Self::Trash => Expected::Skipped("trash"),
            Self::Internal => Expected::Skipped("internal_only"),
            Self::Refused => Expected::Dead,
            Self::Gone => Expected::Skipped("gone"),
        }
    }

    pub(super) fn folder(self, outgoing: bool) -> &'static str {
        match self {
            Self::Spam => "\\Junk",
            Self::Draft => "\\Drafts",
            Self::Trash => "\\Trash",
            _ if outgoing => "\\Sent",
            _ => "\\Inbox",
        }
    }
}
