//! Which mailboxes are connected and take part, whose addresses they have, and what their folders
//! are.
//!
//! Read from Nylas and kept in the process for a while, since every message needs both and neither changes often.
//!
//! Which of the application's grants take part is a setting ([`AllowList`]). Of the others, nothing
//! but their line in the list of grants is ever asked for, and none of their addresses is our own.

mod allow_list;
mod folders;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;

pub use self::allow_list::{Admission, AllowList, AllowListError, Entry, SETTING};
pub use self::folders::{Folders, Place};
use crate::ids::{EmailAddress, GrantId};
use crate::message::Message;
use crate::nylas::NylasClient;
use crate::nylas::error::NylasError;
use crate::nylas::wire::Grant;

/// How long the list of mailboxes and a mailbox's folders are kept.
const KEEP: TimeDelta = TimeDelta::minutes(30);

/// How long to wait before an unknown grant has the list read again, or a folder that a list did not show.
const REREAD_AFTER: TimeDelta = TimeDelta::minutes(1);

/// Grants that are asked for their aliases at the same time, of the 50 a second that Nylas allows (Nylas facts §14).
const ALIAS_CALLS: usize = 4;

/// Whether a mailbox takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Participation {
    /// It does.
    In,
    /// The application has it, and the setting does not name it.
    Excluded,
    /// Nylas does not list it: it was connected a moment ago, was deleted, or is another
    /// application's.
    Unlisted,
}

/// The mailboxes that take part, at one moment.
#[derive(Default)]
pub struct Mailboxes {
    /// Every grant that Nylas lists, and whether it takes part.
    listed: HashMap<GrantId, bool>,
    addresses: HashMap<GrantId, EmailAddress>,
    /// Each address and alias, with the main address of its mailbox; an alias of a mailbox that has no address of its own stands for itself.
    own: HashMap<EmailAddress, EmailAddress>,
    with_all_headers: HashSet<GrantId>,
}

impl Mailboxes {
    /// The mailboxes of these grants, all of which take part.
    #[must_use]
    pub fn new(grants: &[Grant]) -> Self {
        Self::selected(grants, &[])
    }

    /// The mailboxes of `grants`, which take part, beside `excluded`, which do not.
    #[must_use]
    pub fn selected(grants: &[Grant], excluded: &[Grant]) -> Self {
        let ids = |grants: &[Grant], takes_part| {
            let ids = grants.iter().map(|grant| (grant.id.clone(), takes_part));
            ids.collect::<Vec<_>>()
        };
        let listed = [ids(excluded, false), ids(grants, true)].concat();
        let addresses: HashMap<_, _> = grants
            .iter()
            .filter_map(|grant| Some((grant.id.clone(), grant.address.clone()?)))
            .collect();
        let mut own: HashMap<_, _> = addresses
            .values()
            .map(|address| (address.clone(), address.clone()))
            .collect();
        for grant in grants {
            for alias in grant.aliases.iter().flatten() {
                // What is the main address of one mailbox is no alias of another.
                own.entry(alias.clone())
                    .or_insert_with(|| grant.address.as_ref().unwrap_or(alias).clone());
            }
        }
        let with_all_headers = grants
            .iter()
            .filter(|grant| grant.shows_all_headers())
            .map(|grant| grant.id.clone())
            .collect();
        Self {
            listed: listed.into_iter().collect(),
            addresses,
            own,
            with_all_headers,
        }
    }

    /// Whether the mailbox takes part.
    #[must_use]
    pub fn participation(&self, grant_id: &GrantId) -> Participation {
        match self.listed.get(grant_id) {
            Some(true) => Participation::In,
            Some(false) => Participation::Excluded,
            None => Participation::Unlisted,
        }
    }

    /// Whether the list says all that there is to know of a mailbox: one that takes part has an
    /// address.
    fn is_known(&self, grant_id: &GrantId) -> bool {
        match self.participation(grant_id) {
            Participation::In => self.addresses.contains_key(grant_id),
            Participation::Excluded => true,
            Participation::Unlisted => false,
        }
    }

    /// The mailbox's own address.
    #[must_use]
    pub fn address(&self, grant_id: &GrantId) -> Option<&EmailAddress> {
        self.addresses.get(grant_id)
    }

    /// Whether all headers of its messages can be had.
    #[must_use]
    pub fn shows_all_headers(&self, grant_id: &GrantId) -> bool {
        self.with_all_headers.contains(grant_id)
    }

    /// The main address of the mailbox taking part that has this address, as its own or an alias,
    /// with or without a tag.
    #[must_use]
    pub fn main_address(&self, address: &EmailAddress) -> Option<&EmailAddress> {
        let exactly = self.own.get(address);
        exactly.or_else(|| self.own.get(&address.without_tag()?))
    }

    /// Whether this is the address, or an alias, of any mailbox that takes part, with or without a
    /// tag.
    #[must_use]
    pub fn is_own(&self, address: &EmailAddress) -> bool {
        self.main_address(address).is_some()
    }
}

/// When it was read, and what.
type Kept<T> = (DateTime<Utc>, Arc<T>);

/// Reads mailboxes and folders through a cache in the process.
pub struct MailboxDirectory {
    nylas: NylasClient,
    allowed: AllowList,
    mailboxes: Mutex<Option<Kept<Mailboxes>>>,
    aliases: Mutex<HashMap<GrantId, Kept<Vec<EmailAddress>>>>,
    folders: Mutex<HashMap<GrantId, Kept<Folders>>>,
}

impl MailboxDirectory {
    /// A directory that has read nothing yet, for the mailboxes that `allowed` names.
    #[must_use]
    pub fn new(nylas: NylasClient, allowed: AllowList) -> Self {
        Self {
            nylas,
            allowed,
            mailboxes: Mutex::new(None),
            aliases: Mutex::new(HashMap::new()),
            folders: Mutex::new(HashMap::new()),
        }
    }

    /// Whether a grant takes part, by what the grant itself says.
    #[must_use]
    pub fn admits(&self, grant: &Grant) -> bool {
        self.allowed.admits(grant)
    }

    /// The connected mailboxes. Read again when old, or when one of `wanted` is not among them and
    /// the list is over a minute old. So a mailbox that was added is known after a minute; one that
    /// was moved, renamed or deleted, after half an hour.
    ///
    /// # Errors
    /// [`NylasError`]: nobody can tell inside from outside without the list, so the messages have to wait.
    pub async fn mailboxes(
        &self,
        wanted: &[&GrantId],
        now: DateTime<Utc>,
    ) -> Result<Arc<Mailboxes>, NylasError> {
        // Held across the calls, so that a burst of work reads the list once.
        let mut kept = self.mailboxes.lock().await;
        if let Some((read_at, mailboxes)) = kept.as_ref() {
            let complete = wanted.iter().all(|grant| mailboxes.is_known(grant));
            if now - *read_at < if complete { KEEP } else { REREAD_AFTER } {
                return Ok(Arc::clone(mailboxes));
            }
        }
        let listed = self.nylas.grants().await?;
        // Before anybody is asked for aliases.
        let (grants, excluded): (Vec<Grant>, Vec<Grant>) =
            listed.into_iter().partition(|grant| self.admits(grant));
        let grants: Vec<Grant> = stream::iter(grants)
            .map(|grant| self.with_aliases(grant, now))
            .buffered(ALIAS_CALLS)
            .try_collect()
            .await?;
        let fresh = Arc::new(Mailboxes::selected(&grants, &excluded));
        *kept = Some((now, Arc::clone(&fresh)));
        Ok(fresh)
    }

    /// The grant with its aliases, which are kept grant by grant: a failure half-way does not start all over.
    async fn with_aliases(&self, grant: Grant, now: DateTime<Utc>) -> Result<Grant, NylasError> {
        if grant.aliases.is_some() || !grant.valid || !grant.may_have_aliases() {
            return Ok(grant);
        }
        let known = self.aliases.lock().await.get(&grant.id).cloned();
        if let Some((_, aliases)) = known.as_ref().filter(|(read_at, _)| now - *read_at < KEEP) {
            return Ok(grant.with_aliases(aliases));
        }
        match (self.nylas.grant(&grant.id).await, known) {
            (Ok(fresh), _) => {
                let aliases = Arc::new(fresh.aliases.unwrap_or_default());
                self.aliases
                    .lock()
                    .await
                    .insert(grant.id.clone(), (now, Arc::clone(&aliases)));
                Ok(grant.with_aliases(&aliases))
            }
            // Aliases change rarely: those of half an hour ago are better than none.
            (Err(_), Some((_, aliases))) => Ok(grant.with_aliases(&aliases)),
            // A grant that cannot be asked (expired meanwhile, aliases not in its scope) still has its own address.
            (Err(NylasError::Rejected { .. } | NylasError::SignInNeeded { .. }), None) => Ok(grant),
            // Without knowing them, mail among colleagues could be taken for mail from outside and tracked.
            (Err(error), None) => Err(error),
        }
    }

    /// The folders of the mailbox that `message` lies in. Read again at once when the message lies in one that is not among them, since the policy may
    /// leave that one out; what a fresh list does not show either is not looked for again for a minute.
    ///
    /// # Errors
    /// [`NylasError`]: a draft cannot be told from a sent mail without them, so the message has to wait.
    pub async fn folders(
        &self,
        message: &Message,
        now: DateTime<Utc>,
    ) -> Result<Arc<Folders>, NylasError> {
        let grant_id = &message.key.grant_id;
        let mut kept = self.folders.lock().await;
        if let Some((read_at, folders)) = kept.get(grant_id)
            && folders.knows(message)
            && now - *read_at
                < if folders.lists(message) {
                    KEEP
                } else {
                    REREAD_AFTER
                }
        {
            return Ok(Arc::clone(folders));
        }
        let mut fresh = Folders::new(self.nylas.folders(grant_id).await?);
        let before = kept.get(grant_id).map(|(_, folders)| folders.as_ref());
        fresh.note_unlisted(message, before);
        let fresh = Arc::new(fresh);
        kept.insert(grant_id.clone(), (now, Arc::clone(&fresh)));
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nylas::wire;

    #[test]
    fn addresses_and_aliases_of_every_mailbox_are_our_own() {
        let grants = [
            json!({"id": "g", "email": "Ada@example.com", "provider": "google", "grant_status": "valid",
                             "email_aliases": ["sales@example.com"]}),
            json!({"id": "h", "provider": "imap"}),
        ];
        let mailboxes = Mailboxes::new(&grants.iter().filter_map(wire::grant).collect::<Vec<_>>());
        let is_own = |text| mailboxes.is_own(&EmailAddress::parse(text).unwrap());
        assert!(
            is_own("ada@example.com") && is_own("SALES@example.com") && !is_own("bob@example.com")
        );
        assert_eq!(mailboxes.address(&"h".parse().unwrap()), None);
    }

    #[test]
    fn what_is_excluded_is_known_and_is_not_our_own() {
        let grants = |email| wire::grant(&json!({"id": email, "email": email})).into_iter();
        let ours: Vec<Grant> = grants("ada@ours.example").collect();
        let theirs: Vec<Grant> = grants("eve@theirs.example").collect();
        let mailboxes = Mailboxes::selected(&ours, &theirs);
        let of = |id: &str| mailboxes.participation(&id.parse().unwrap());
        assert_eq!(of("ada@ours.example"), Participation::In);
        assert_eq!(of("eve@theirs.example"), Participation::Excluded);
        assert_eq!(of("sam@else.example"), Participation::Unlisted);
        let eve = EmailAddress::parse("eve@theirs.example").unwrap();
        assert!(!mailboxes.is_own(&eve));
        assert_eq!(
            mailboxes.address(&"eve@theirs.example".parse().unwrap()),
            None
        );
        assert!(mailboxes.is_known(&"eve@theirs.example".parse().unwrap()));
    }

    #[test]
    fn an_alias_and_a_tag_lead_to_the_main_address_of_their_mailbox() {
        let grants = [
            json!({"id": "g", "email": "ada@example.com", "email_aliases": ["sales@example.com", "ben@example.com"]}),
            json!({"id": "h", "email": "ben@example.com"}),
            json!({"id": "i", "email_aliases": ["nobody@example.com"]}),
        ];
        let mailboxes = Mailboxes::new(&grants.iter().filter_map(wire::grant).collect::<Vec<_>>());
        let main = |text| {
            let main = mailboxes.main_address(&EmailAddress::parse(text).unwrap());
            main.map(EmailAddress::as_str)
        };
        for of_ada in [
            "ada@example.com",
            "sales@example.com",
            "Ada+x@example.com",
            "sales+x@example.com",
        ] {
            assert_eq!(main(of_ada), Some("ada@example.com"), "{of_ada}");
        }
        assert_eq!(
            main("ben@example.com"),
            Some("ben@example.com"),
            "a mailbox of its own"
        );
        assert_eq!(main("nobody@example.com"), Some("nobody@example.com"));
        assert_eq!(main("eve+ada@example.com"), None);
    }
}
