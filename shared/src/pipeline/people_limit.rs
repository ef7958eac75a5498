//! Limits how many people of one message are looked up, and how many become parties of its row.
//!
//! Looking up a person takes a share of five queries, and a message may name ten thousand people.
//! Without a limit, one such message would use up the time of its whole batch.
//!
//! | Of a message with more people | Then |
//! | --- | --- |
//! | the sender, then internal people, then the others in the message's order, up to the limit | they are looked up, and may become contacts |
//! | the others | they are parties with only their address ([`Omission::Resolution`]) |
//! | those beyond [`MOST_PARTIES`] | they are not parties ([`Omission::Recipient`]) |
//!
//! Here, mailboxes and internal domains decide who is internal: users and queues are known only
//! after the lookup.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use crate::model::address::EmailAddress;
use crate::model::message::{Message, Omission};
use crate::resolve::parties::{Choice, Match, Party, Resolution};

/// The most parties that the row of a message is given.
///
/// Dataverse documents no limit (facts §5). Exchange Online takes at most 1,000 recipients for a
/// message, so emails that server-side synchronization writes have no more. Source: Microsoft,
/// "Exchange Online limits"; whether Dataverse accepts more is *unknown*.
pub(crate) const MOST_PARTIES: usize = 1_000;

/// The most people of one message that are looked up: 1 to [`MOST_PARTIES`], 250 unless set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedPeopleLimit(usize);

impl Default for ResolvedPeopleLimit {
    fn default() -> Self {
        Self(250)
    }
}

/// The text is not a number from 1 to [`MOST_PARTIES`].
#[derive(Debug, thiserror::Error)]
#[error("must be a whole number from 1 to {MOST_PARTIES} (got `{given}`)")]
pub struct InvalidLimit {
    given: String,
}

impl FromStr for ResolvedPeopleLimit {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        match text.parse() {
            Ok(number) if (1..=MOST_PARTIES).contains(&number) => Ok(Self(number)),
            _ => Err(InvalidLimit {
                given: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for ResolvedPeopleLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The people of a message who are looked up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PeopleLookedUp {
    /// `None`: all of them. An address with a tag is also listed without the tag, because both are
    /// looked up.
    only: Option<HashSet<EmailAddress>>,
}

impl PeopleLookedUp {
    /// Chooses the people to look up. Also returns how many are left out. `is_out` says whether the
    /// policy removes a person from the message; of those, only the author is looked up.
    pub(super) fn of(
        message: &Message,
        limit: ResolvedPeopleLimit,
        is_internal: impl Fn(&EmailAddress) -> bool,
        is_out: impl Fn(&EmailAddress) -> bool,
    ) -> (Self, usize) {
        let author = message.author();
        let others = message.participants().filter(|address| !is_out(address));
        let mut seen = HashSet::new();
        let mut people: Vec<&EmailAddress> = author
            .into_iter()
            .chain(others)
            .filter(|address| seen.insert(*address))
            .collect();
        let unresolved = people.len().saturating_sub(limit.0);
        if unresolved == 0 {
            return (Self::default(), 0);
        }
        // A stable sort keeps the order of the message within each rank.
        people.sort_by_key(|address| match author {
            Some(author) if author == *address => 0,
            _ if is_internal(address) => 1,
            _ => 2,
        });
        people.truncate(limit.0);
        let only = people
            .into_iter()
            .flat_map(|address| [Some(address.clone()), address.without_tag()]);
        let only = Some(only.flatten().collect());
        (Self { only }, unresolved)
    }

    /// Returns whether this person is looked up.
    pub(super) fn contains(&self, address: &EmailAddress) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(address))
    }

    /// Limits the parties of the message to [`MOST_PARTIES`], preferring people who were looked up;
    /// the order stays the same.
    ///
    /// A person who was not looked up keeps only the address, even if the lookup for another
    /// message of the batch found a row.
    pub(super) fn limit(&self, parties: Vec<Party>) -> Vec<Party> {
        let mut parties = if self.only.is_some() {
            self.without_chance_finds(&parties)
        } else {
            parties
        };
        let mut room = MOST_PARTIES;
        let mut kept = vec![false; parties.len()];
        for first_choice in [true, false] {
            for (party, keep) in parties.iter().zip(&mut kept) {
                if self.contains(&party.address) == first_choice && room > 0 {
                    *keep = true;
                    room -= 1;
                }
            }
        }
        let mut kept = kept.into_iter();
        parties.retain(|_| kept.next() == Some(true));
        parties
    }

    fn without_chance_finds(&self, parties: &[Party]) -> Vec<Party> {
        let same =
            |one: &Party, other: &Party| one.role == other.role && one.address == other.address;
        let persons = parties.chunk_by(same).flat_map(|rows| match rows {
            [first, ..] if !self.contains(&first.address) => vec![Party {
                record: None,
                resolution: Resolution {
                    matched: Match::Exact,
                    choice: Choice::Unknown,
                    candidates: Vec::new(),
                },
                ..first.clone()
            }],
            rows => rows.to_vec(),
        });
        persons.collect()
    }
}

/// Returns one omission for each person of the message who is not a party.
pub(super) fn left_out(
    message: &Message,
    parties: &[Party],
) -> impl Iterator<Item = Omission> + use<> {
    let same = |one: &Party, other: &Party| one.role == other.role && one.address == other.address;
    let people = parties.chunk_by(same).count();
    let left = message.participants().count().saturating_sub(people);
    std::iter::repeat_n(Omission::Recipient, left)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::resolve::parties::Role;

    fn people(names: &[String]) -> Value {
        names.iter().map(|name| json!({"email": name})).collect()
    }

    fn external(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("p{n}@x.example")).collect()
    }

    fn message(from: &str, to: &[String]) -> Message {
        let object = json!({"id": "m", "from": [{"email": from}], "to": people(to)});
        crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap()
    }

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    fn limit(number: usize) -> ResolvedPeopleLimit {
        number.to_string().parse().unwrap()
    }

    fn is_internal(address: &EmailAddress) -> bool {
        address.domain() == "ours.example"
    }

    fn looked_up(message: &Message, most: usize) -> (PeopleLookedUp, usize) {
        PeopleLookedUp::of(message, limit(most), is_internal, |_| false)
    }

    #[test]
    fn all_people_of_a_message_within_the_limit_are_looked_up() {
        let message = message("s@x.example", &external(9));
        assert_eq!(looked_up(&message, 10), (PeopleLookedUp::default(), 0));
    }

    #[test]
    fn the_limit_prefers_the_sender_then_internal_people_then_message_order() {
        let mut to = external(5);
        to.push("ada@ours.example".to_owned());
        let message = message("s@x.example", &to);
        let (people, unresolved) = looked_up(&message, 3);
        assert_eq!(unresolved, 4);
        for chosen in ["s@x.example", "ada@ours.example", "p0@x.example"] {
            assert!(people.contains(&address(chosen)), "{chosen}");
        }
        assert!(!people.contains(&address("p1@x.example")));
    }

    #[test]
    fn an_external_sender_comes_before_internal_people() {
        let message = message("s@x.example", &["ada@ours.example".to_owned()]);
        let (people, _) = looked_up(&message, 1);
        assert!(people.contains(&address("s@x.example")));
        assert!(!people.contains(&address("ada@ours.example")));
    }

    #[test]
    fn people_stripped_by_the_policy_do_not_count_towards_the_limit() {
        let mut to = vec!["gone@x.example".to_owned()];
        to.extend(external(3));
        let message = message("s@x.example", &to);
        let gone = address("gone@x.example");
        let (people, unresolved) =
            PeopleLookedUp::of(&message, limit(3), is_internal, |address| *address == gone);
        assert_eq!(unresolved, 1);
        assert!(people.contains(&address("p1@x.example")) && !people.contains(&gone));
    }

    fn party(text: &str) -> Party {
        Party {
            role: Role::To,
            address: address(text),
            record: Some(crate::clients::dataverse::records::PartyReference {
                table: crate::clients::dataverse::records::Table::Contact,
                id: uuid::Uuid::from_u128(1),
            }),
            resolution: Resolution {
                matched: Match::Exact,
                choice: Choice::All,
                candidates: Vec::new(),
            },
        }
    }

    #[test]
    fn a_person_beyond_the_limit_is_one_unresolved_party_despite_known_rows() {
        let message = message("s@x.example", &external(2));
        let (people, _) = looked_up(&message, 2);
        let both = [
            "p0@x.example",
            "p0@x.example",
            "p1@x.example",
            "p1@x.example",
        ];
        let limited = people.limit(both.map(party).into());
        let resolved: Vec<bool> = limited.iter().map(|party| party.record.is_some()).collect();
        assert_eq!(resolved, [true, true, false]);
    }

    #[test]
    fn parties_that_were_looked_up_stay_and_others_fill_the_row_in_order() {
        let mut to = external(MOST_PARTIES + 10);
        to.push("ada@ours.example".to_owned());
        let message = message("s@x.example", &to);
        let (people, unresolved) = looked_up(&message, 2);
        assert_eq!(unresolved, MOST_PARTIES + 10);
        let parties: Vec<Party> = to.iter().map(|text| party(text)).collect();
        let limited = people.limit(parties);
        assert_eq!(limited.len(), MOST_PARTIES);
        assert_eq!(limited[0].address, address("p0@x.example"));
        assert_eq!(
            limited[MOST_PARTIES - 1].address,
            address("ada@ours.example")
        );
        // The message has the sender, who is not among these parties, and eleven recipients too
        // many.
        assert_eq!(left_out(&message, &limited).count(), 12);
    }

    #[test]
    fn the_limit_is_a_whole_number_from_1_to_1000() {
        assert_eq!(ResolvedPeopleLimit::default().to_string(), "250");
        for wrong in ["0", "1001", "-1", "many", ""] {
            assert!(wrong.parse::<ResolvedPeopleLimit>().is_err(), "{wrong}");
        }
        let error = "many".parse::<ResolvedPeopleLimit>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "must be a whole number from 1 to 1000 (got `many`)"
        );
    }
}
