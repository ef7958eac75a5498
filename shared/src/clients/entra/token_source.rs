//! Reads the access token for Dataverse from the store, as rarely as possible.
//!
//! | Cached token | Then |
//! | --- | --- |
//! | valid for more than five minutes | it is used |
//! | valid for less | the store is read once a minute; until it has another token, the cached one is used, even past its expiry, since Dataverse's clock decides and not ours |
//! | rejected by Dataverse (401) | it is dropped; the store is read at once and, if it still has the same token, once a minute until it has another |
//! | none, and the store has none or does not answer | the store is read once a minute |
//!
//! Without a token, the messages go back to the queue untouched for [`TokenError::WAIT`].

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::client::{EntraClient, EntraError};
use super::token_store::{StoredToken, TokenStore, TokenStoreError};
use crate::clients::dataverse::AccessToken;

/// The cached token is used without reading the store while it is valid for longer than this.
/// Longer than any invocation needs a token.
const REMAINING_LIFE: TimeDelta = TimeDelta::minutes(5);

/// The shortest time between two reads of the origin, whatever the first one returned.
const QUIET: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::minutes(1);

/// No token is available now: let the messages be redelivered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// The store could not be read, or contains no usable token.
    #[error(transparent)]
    Store(#[from] TokenStoreError),
    /// Entra did not issue a token.
    #[error(transparent)]
    Entra(#[from] EntraError),
    /// Dataverse rejected the only token in the store.
    #[error(
        "dataverse rejected the stored token, and there is no newer one yet: run `mailverse token refresh`, or see the log of token-refresher"
    )]
    Refused,
}

impl TokenError {
    /// How long messages go back to the queue. Short enough that a refreshed token is used soon; in
    /// a day without a token a message is delivered about 300 times, without any request to a
    /// service.
    pub const WAIT: Duration = Duration::from_secs(5 * 60);
}

/// Where a token is read from.
pub enum Origin {
    /// The secret that token-refresher writes.
    Store(TokenStore),
    /// Entra itself, for a command that has its own credential.
    Entra(EntraClient),
}

/// Reads the token of one application user through a cache in the process.
pub struct TokenSource {
    origin: Origin,
    kept: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    token: Option<StoredToken>,
    refused: Option<AccessToken>,
    /// When the origin was last asked.
    asked_at: Option<DateTime<Utc>>,
    /// Why it returned no token then.
    problem: Option<TokenError>,
}

impl TokenSource {
    /// Creates a source that has read nothing yet.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            kept: Mutex::default(),
        }
    }

    /// Returns a token that is valid for more than five minutes, or else the last known one.
    ///
    /// # Errors
    /// [`TokenError`]: no token; let the messages be redelivered.
    pub async fn token(&self, now: DateTime<Utc>) -> Result<AccessToken, TokenError> {
        // Locked across the read, so that many waiting tasks cause one read.
        let mut kept = self.kept.lock().await;
        if !kept.suffices(now) {
            let read = match &self.origin {
                // Boxed, because the SDK's future, nested below a handler, is too deep for the
                // compiler's layout computation.
                Origin::Store(store) => Box::pin(store.read()).await.map_err(TokenError::from),
                Origin::Entra(entra) => entra.request(now).await.map_err(TokenError::from),
            };
            kept.take_in(read, now);
        }
        match (&kept.token, &kept.problem) {
            (Some(token), _) => Ok(token.access_token.clone()),
            (None, Some(problem)) => Err(problem.clone()),
            (None, None) => Err(TokenError::Refused),
        }
    }

    /// Drops `token`, because Dataverse rejected it. A different token that was read meanwhile
    /// stays.
    pub async fn refused(&self, token: &AccessToken) {
        self.kept.lock().await.refuse(token);
    }
}

impl Cached {
    fn suffices(&self, now: DateTime<Utc>) -> bool {
        let lives = |token: &StoredToken| token.expires_at - now > REMAINING_LIFE;
        self.token.as_ref().is_some_and(lives)
            || self.asked_at.is_some_and(|at| QUIET.contains(&(now - at)))
    }

    fn take_in(&mut self, read: Result<StoredToken, TokenError>, now: DateTime<Utc>) {
        self.asked_at = Some(now);
        match read {
            Ok(token) if same(self.refused.as_ref(), &token.access_token) => {
                (self.token, self.problem) = (None, Some(TokenError::Refused));
            }
            Ok(token) => (self.token, self.problem) = (Some(token), None),
            Err(problem) => {
                tracing::warn!(%problem, "failed to read a token; keeping the cached one, if any");
                self.problem = Some(problem);
            }
        }
    }

    fn refuse(&mut self, token: &AccessToken) {
        let kept = self.token.as_ref().map(|kept| &kept.access_token);
        if same(kept, token) {
            *self = Self {
                refused: Some(token.clone()),
                ..Self::default()
            };
        }
    }
}

fn same(one: Option<&AccessToken>, other: &AccessToken) -> bool {
    one.is_some_and(|one| one.expose_secret() == other.expose_secret())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn token(text: &str, ends: i64) -> StoredToken {
        StoredToken {
            access_token: text.into(),
            expires_at: at(ends),
            requested_at: at(0),
        }
    }

    fn read(text: &str, ends: i64, now: i64) -> Cached {
        let mut kept = Cached::default();
        kept.take_in(Ok(token(text, ends)), at(now));
        kept
    }

    fn text(kept: &Cached) -> Option<&str> {
        kept.token
            .as_ref()
            .map(|token| token.access_token.expose_secret())
    }

    #[test]
    fn an_expiring_token_stays_in_use_while_the_store_is_read_once_a_minute() {
        let kept = read("a", 3_600, 0);
        assert!(kept.suffices(at(3_299)) && !kept.suffices(at(3_300)));
        let kept = read("a", 3_600, 3_300);
        assert!(kept.suffices(at(3_359)) && !kept.suffices(at(3_360)));
        assert_eq!(text(&kept), Some("a"));
    }

    #[test]
    fn an_unavailable_store_leaves_the_cached_token_in_use() {
        let mut kept = read("a", 3_600, 0);
        kept.take_in(Err(TokenError::Refused), at(3_300));
        assert_eq!(text(&kept), Some("a"));
        assert!(kept.suffices(at(3_359)));
    }

    #[test]
    fn a_rejected_token_is_not_used_again_and_the_store_is_read_once_a_minute() {
        let mut kept = read("a", 3_600, 0);
        kept.refuse(&"a".into());
        assert!(!kept.suffices(at(1)), "the store is asked at once");
        kept.take_in(Ok(token("a", 3_600)), at(1));
        assert!(text(&kept).is_none() && kept.suffices(at(60)) && !kept.suffices(at(61)));
        kept.take_in(Ok(token("a", 3_600)), at(61));
        assert_eq!(text(&kept), None);
        kept.take_in(Ok(token("b", 4_800)), at(121));
        assert_eq!(text(&kept), Some("b"));
    }

    #[test]
    fn a_late_rejection_of_the_previous_token_does_not_affect_the_new_one() {
        let mut kept = read("b", 3_600, 0);
        kept.refuse(&"a".into());
        assert_eq!(text(&kept), Some("b"));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_store_from_being_read() {
        let kept = read("a", 100, 50);
        assert!(!kept.suffices(at(49)));
    }
}
