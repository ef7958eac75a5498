//! Reads the connected mailboxes from Nylas: which of them take part, their addresses, and their
//! folders.
//!
//! The lists of mailboxes and folders are cached in the process for a while, since every message
//! needs them and they rarely change.
//!
//! A setting selects which of the application's grants take part ([`AllowList`]). Of the others,
//! only the entry in the list of grants is read, and their addresses are not internal.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Mutex;

use super::{AllowList, Folders};
use crate::clients::nylas::NylasClient;
use crate::clients::nylas::error::NylasError;
use crate::clients::nylas::wire::Grant;
use crate::model::address::EmailAddress;
use crate::model::ids::GrantId;
use crate::model::message::Message;

/// How long the list of mailboxes and a mailbox's folders are cached.
const KEEP: TimeDelta = TimeDelta::minutes(30);

/// How old a cached list must be before an unknown grant, or a folder that was not listed, causes
/// it to be read again.
const REREAD_AFTER: TimeDelta = TimeDelta::minutes(1);

/// How many grants are queried for their aliases at the same time, of the 50 requests per second
/// that Nylas allows (Nylas facts §14).
const ALIAS_CALLS: usize = 4;

/// Whether a mailbox takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Participation {
    /// The mailbox takes part.
    In,
    /// The application has the mailbox, but the setting does not select it.
    Excluded,
    /// Nylas does not list the mailbox: it was connected within the last minute, was deleted, or
    /// belongs to another application.
    Unlisted,
}

/// The listed mailboxes at one point in time.
#[derive(Default)]
pub struct Mailboxes {
    /// Every grant that Nylas lists, and whether it takes part.
    listed: HashMap<GrantId, bool>,
    addresses: HashMap<GrantId, EmailAddress>,
    /// Each address and alias of a mailbox that takes part, with the main address of its mailbox.
    /// If a mailbox has no main address, an alias maps to itself.
    own: HashMap<EmailAddress, EmailAddress>,
    with_all_headers: HashSet<GrantId>,
}

impl Mailboxes {
    /// Creates the list of these grants, all of which take part.
    #[must_use]
    pub fn new(grants: &[Grant]) -> Self {
        Self::with_excluded(grants, &[])
    }

    /// Creates the list of `grants`, which take part, and of `excluded`, which do not.
    #[must_use]
    pub fn with_excluded(grants: &[Grant], excluded: &[Grant]) -> Self {
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
                // The main address of one mailbox is not an alias of another.
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

    /// Returns whether the mailbox takes part.
    #[must_use]
    pub fn participation(&self, grant_id: &GrantId) -> Participation {
        match self.listed.get(grant_id) {
            Some(true) => Participation::In,
            Some(false) => Participation::Excluded,
            None => Participation::Unlisted,
        }
    }

    /// Returns whether the list is complete for a mailbox: if it takes part, it has an address.
    fn is_known(&self, grant_id: &GrantId) -> bool {
        match self.participation(grant_id) {
            Participation::In => self.addresses.contains_key(grant_id),
            Participation::Excluded => true,
            Participation::Unlisted => false,
        }
    }

    /// Returns the main address of a mailbox that takes part; `None` if it has none or does not
    /// take part.
    #[must_use]
    pub fn address(&self, grant_id: &GrantId) -> Option<&EmailAddress> {
        self.addresses.get(grant_id)
    }

    /// Returns whether all headers of the mailbox's messages are available.
    #[must_use]
    pub(crate) fn shows_all_headers(&self, grant_id: &GrantId) -> bool {
        self.with_all_headers.contains(grant_id)
    }

    /// Returns the main address of the participating mailbox that has this address, as its main
    /// address or an alias, with or without a tag; `None` if there is none.
    #[must_use]
    pub(crate) fn main_address(&self, address: &EmailAddress) -> Option<&EmailAddress> {
        let exactly = self.own.get(address);
        exactly.or_else(|| self.own.get(&address.without_tag()?))
    }

    /// Returns whether this is the main address or an alias of a mailbox that takes part, with or
    /// without a tag.
    #[must_use]
    pub(crate) fn is_own(&self, address: &EmailAddress) -> bool {
        self.main_address(address).is_some()
    }
}

/// A cached value and when it was read.
type Cached<T> = (DateTime<Utc>, Arc<T>);

/// Reads mailboxes and folders through a cache in the process.
pub struct MailboxDirectory {
    nylas: NylasClient,
    allowed: AllowList,
    mailboxes: Mutex<Option<Cached<Mailboxes>>>,
    aliases: Mutex<HashMap<GrantId, Cached<Vec<EmailAddress>>>>,
    folders: Mutex<HashMap<GrantId, Cached<Folders>>>,
}

impl MailboxDirectory {
    /// Creates a directory with an empty cache, for the mailboxes that `allowed` selects.
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

    /// Returns whether a grant takes part. This uses only the grant itself.
    #[must_use]
    pub fn admits(&self, grant: &Grant) -> bool {
        self.allowed.admits(grant)
    }

    /// Returns the connected mailboxes. The list is read again if it is older than half an hour, or
    /// if it lacks one of `wanted` and is older than a minute. So a new mailbox is known after a
    /// minute; a moved, renamed or deleted one after half an hour.
    ///
    /// # Errors
    /// [`NylasError`]: without the list, internal and external addresses cannot be distinguished,
    /// so the messages have to wait.
    pub async fn mailboxes(
        &self,
        wanted: &[&GrantId],
        now: DateTime<Utc>,
    ) -> Result<Arc<Mailboxes>, NylasError> {
        // The lock is held across the calls, so that concurrent batches read the list once.
        let mut kept = self.mailboxes.lock().await;
        if let Some((read_at, mailboxes)) = kept.as_ref() {
            let complete = wanted.iter().all(|grant| mailboxes.is_known(grant));
            if now - *read_at < if complete { KEEP } else { REREAD_AFTER } {
                return Ok(Arc::clone(mailboxes));
            }
        }
        let listed = self.nylas.grants().await?;
        // Excluded grants are removed before aliases are read.
        let (grants, excluded): (Vec<Grant>, Vec<Grant>) =
            listed.into_iter().partition(|grant| self.admits(grant));
        let grants: Vec<Grant> = stream::iter(grants)
            .map(|grant| self.with_aliases(grant, now))
            .buffered(ALIAS_CALLS)
            .try_collect()
            .await?;
        let fresh = Arc::new(Mailboxes::with_excluded(&grants, &excluded));
        *kept = Some((now, Arc::clone(&fresh)));
        Ok(fresh)
    }

    /// Returns the grant with its aliases. They are cached per grant, so that a failure does not
    /// discard those that were read already.
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
            // Aliases change rarely: those read over half an hour ago are better than none.
            (Err(_), Some((_, aliases))) => Ok(grant.with_aliases(&aliases)),
            // A grant whose aliases cannot be read (expired meanwhile, or the scope is missing)
            // still has its main address.
            (Err(NylasError::Rejected { .. } | NylasError::SignInNeeded { .. }), None) => Ok(grant),
            // Without its aliases, email between colleagues could be taken for external email and
            // tracked.
            (Err(error), None) => Err(error),
        }
    }

    /// Returns the folders of the message's mailbox. The list is read again immediately if the
    /// message is in a folder that is not listed, since the policy may exclude that folder. A
    /// folder that the fresh list lacks too is not looked for again for a minute.
    ///
    /// # Errors
    /// [`NylasError`]: without folders, a draft cannot be distinguished from a sent message, so the
    /// message has to wait.
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
    use crate::clients::nylas::wire;

    #[test]
    fn the_address_and_aliases_of_every_mailbox_count_as_own() {
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
    fn an_excluded_mailbox_is_known_but_its_address_is_not_own() {
        let grants = |email| wire::grant(&json!({"id": email, "email": email})).into_iter();
        let ours: Vec<Grant> = grants("ada@ours.example").collect();
        let external_row: Vec<Grant> = grants("eve@theirs.example").collect();
        let mailboxes = Mailboxes::with_excluded(&ours, &external_row);
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
    fn an_alias_or_a_tagged_address_leads_to_the_main_address_of_its_mailbox() {
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
            "it is the main address of another mailbox"
        );
        assert_eq!(main("nobody@example.com"), Some("nobody@example.com"));
        assert_eq!(main("eve+ada@example.com"), None);
    }
}
