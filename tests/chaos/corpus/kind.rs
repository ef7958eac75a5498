//! The kinds of emails in the corpus, and their expected outcomes.

use rand::Rng;
use rand::rngs::StdRng;

use super::Expected;
use crate::incident::Incident;

/// One in this many emails is also written by another client, so that even a small corpus covers
/// each moment.
const RACED: usize = 8;

/// The kind of an email.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    WithoutMessageId,
    /// Another client has already written it.
    Theirs,
    /// Another client writes it at about the same time as we do.
    Raced,
    Spam,
    Draft,
    Trash,
    Internal,
    Refused,
    Gone,
    /// Made for an incident; written like an ordinary email.
    Of(Incident),
}

/// The properties of an email to be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outline {
    pub(super) kind: Kind,
    /// The number of mailboxes that have it.
    pub(super) copies: usize,
    /// Whether scheduled runs list it.
    pub(super) recent: bool,
    /// In seconds.
    pub(super) age: i64,
}

impl Outline {
    /// Returns the outline of the email with this number.
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

    /// Returns the outline of an email for an incident. It has just arrived, except for a file that
    /// is known to be broken for long, and for the scene with large bodies.
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

    /// Returns the outline of an email that can be reserved for scenarios and kills: it is written,
    /// and no run lists it before.
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
    /// Returns the kind of the email with this number.
    fn of(number: usize, rng: &mut StdRng) -> Self {
        let drawn = Self::draw(rng);
        if number % RACED == RACED / 2 {
            Self::Raced
        } else {
            drawn
        }
    }

    /// Draws the number of mailboxes that have it.
    fn copies(self, rng: &mut StdRng) -> usize {
        let one_copy = match self {
            Self::WithoutMessageId | Self::Draft | Self::Gone | Self::Theirs => true,
            // With a second copy, the external row would be found without a list.
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

    /// Draws whether it is recent, so that scheduled runs list it, and its age in seconds.
    fn age(self, rng: &mut StdRng) -> (bool, i64) {
        let recent = rng.random_bool(1.0 / 3.0) || self == Self::Raced;
        let age = if self == Self::Raced {
            // External rows that are written after ours are found because every scheduled run lists
            // the email: it has just arrived.
            rng.random_range(60..3_600)
        } else if recent {
            rng.random_range(3_600..20 * 3_600)
        } else {
            Self::old(rng)
        };
        (recent, age)
    }

    /// Draws an age in seconds at which no scheduled run lists an email.
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
