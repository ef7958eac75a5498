//! The stored tokens: one secret for all application users.
//!
//! ```json
//! {"access_token": "…", "expires_at": 1795158000, "requested_at": 1795154401500,
//!  "application_users": {"second": {"access_token": "…", "expires_at": 1795158000,
//!                            "requested_at": 1795154401500}}}
//! ```
//!
//! `expires_at` is in Unix seconds, `requested_at` in Unix milliseconds. The top level has the
//! primary user's token; it is missing if only other users have one.
//!
//! A token is only ever replaced by one that was requested later. To ensure this, a writer names
//! the version of the secret that it has read. If another writer has replaced that version, it
//! reads and compares again.

use std::collections::BTreeMap;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::clients::aws::secrets;
use crate::clients::aws::secrets::{Replaced, SecretError, Stage, Stored};
use crate::clients::dataverse::AccessToken;

/// How often a writer tries to replace the tokens before another writer does.
const TRIES: usize = 5;

/// A stored token whose request time is this far in the future does not count as newer: the clock
/// of its writer was wrong.
const WRONG_CLOCK: TimeDelta = TimeDelta::hours(1);

/// A token with its expiry.
#[derive(Debug, Clone)]
pub struct StoredToken {
    /// The token.
    pub access_token: AccessToken,
    /// When the token expires, according to Entra.
    pub expires_at: DateTime<Utc>,
    /// When the token was requested from Entra.
    pub requested_at: DateTime<Utc>,
}

/// Tokens by the name of their application user; `None` is the primary user.
pub type Tokens = BTreeMap<Option<String>, StoredToken>;

/// The stored token could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenStoreError {
    /// The secret store did not answer.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// token-refresher has not run yet, or fails.
    #[error("the token secret {id} contains no token yet: see the log of token-refresher")]
    NoToken {
        /// The secret's name.
        id: String,
    },
}

/// The secret with the tokens, for a reader of one of them.
#[derive(Debug, Clone)]
pub struct TokenStore {
    client: Client,
    id: String,
    application_user: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    access_token: SecretString,
    expires_at: i64,
    // Absent in secrets that were written before this field existed: older than any other token.
    #[serde(default)]
    requested_at: i64,
}

impl TokenStore {
    /// Creates a reader of the primary user's token in the secret with this name or ARN.
    #[must_use]
    pub fn new(client: Client, id: String) -> Self {
        Self {
            client,
            id,
            application_user: None,
        }
    }

    /// Returns a reader of another application user's token in the same secret.
    #[must_use]
    pub fn of(self, application_user: String) -> Self {
        Self {
            application_user: Some(application_user),
            ..self
        }
    }

    /// Reads the token.
    ///
    /// # Errors
    /// [`TokenStoreError`]: let the messages be redelivered.
    pub async fn read(&self) -> Result<StoredToken, TokenStoreError> {
        let mut tokens = self.read_all().await?;
        tokens
            .remove(&self.application_user)
            .ok_or_else(|| TokenStoreError::NoToken {
                id: self.id.clone(),
            })
    }

    /// Reads all stored tokens. An entry that is not a valid token is left out.
    ///
    /// # Errors
    /// [`TokenStoreError::Secret`]
    pub async fn read_all(&self) -> Result<Tokens, TokenStoreError> {
        match secrets::read(&self.client, &self.id, Stage::Current).await? {
            Stored::Value { text, .. } => Ok(parse(&text)),
            Stored::Nothing => Ok(Tokens::new()),
        }
    }

    /// Stores each token of `fresh` that was requested later than the stored one, and drops the
    /// tokens of users that are not in `known`. Returns the tokens that are stored afterwards.
    ///
    /// # Errors
    /// [`TokenStoreError::Secret`]: the old tokens are still in force.
    pub async fn replace(
        &self,
        fresh: &Tokens,
        known: &[Option<String>],
        now: DateTime<Utc>,
    ) -> Result<Tokens, TokenStoreError> {
        for _ in 0..TRIES {
            let (stored, version) =
                match secrets::read(&self.client, &self.id, Stage::Current).await? {
                    Stored::Value { text, version } => (parse(&text), Some(version)),
                    Stored::Nothing => (Tokens::new(), None),
                };
            let Some(tokens) = replaced(&stored, fresh, known, now) else {
                return Ok(stored);
            };
            let text = text_of(&tokens);
            let replacing = secrets::replace(&self.client, &self.id, &text, version.as_deref());
            if replacing.await? == Replaced::Yes {
                return Ok(tokens);
            }
        }
        Err(SecretError::contended(&self.id).into())
    }
}

/// Returns the tokens to store, or `None` if the secret already has them.
fn replaced(
    stored: &Tokens,
    fresh: &Tokens,
    known: &[Option<String>],
    now: DateTime<Utc>,
) -> Option<Tokens> {
    let mut tokens = stored.clone();
    tokens.retain(|application_user, _| known.contains(application_user));
    let mut changed = tokens.len() < stored.len();
    for (application_user, token) in fresh {
        let newer = tokens.get(application_user).is_some_and(|stored| {
            stored.requested_at >= token.requested_at && stored.requested_at - now < WRONG_CLOCK
        });
        if !newer {
            tokens.insert(application_user.clone(), token.clone());
            changed = true;
        }
    }
    changed.then_some(tokens)
}

fn parse(text: &SecretString) -> Tokens {
    let document: Value = serde_json::from_str(text.expose_secret()).unwrap_or_default();
    let application_users = document.get("application_users").and_then(Value::as_object);
    let further = application_users.into_iter().flatten();
    let all = further.map(|(name, token)| (Some(name.clone()), token));
    all.chain([(None, &document)])
        .filter_map(|(application_user, token)| {
            Some((application_user, StoredToken::from_json(token)?))
        })
        .collect()
}

fn text_of(tokens: &Tokens) -> SecretString {
    let mut document = Map::new();
    let mut application_users = Map::new();
    for (application_user, token) in tokens {
        let fields = json!({
            "access_token": token.access_token.expose_secret(),
            "expires_at": token.expires_at.timestamp(),
            "requested_at": token.requested_at.timestamp_millis(),
        });
        match (application_user, fields) {
            (Some(name), fields) => drop(application_users.insert(name.clone(), fields)),
            (None, Value::Object(fields)) => document.extend(fields),
            (None, _) => {}
        }
    }
    if !application_users.is_empty() {
        document.insert("application_users".to_owned(), application_users.into());
    }
    Value::Object(document).to_string().into()
}

impl StoredToken {
    fn from_json(json: &Value) -> Option<Self> {
        let wire = Wire::deserialize(json).ok()?;
        Some(Self {
            access_token: wire.access_token,
            expires_at: DateTime::from_timestamp(wire.expires_at, 0)?,
            requested_at: DateTime::from_timestamp_millis(wire.requested_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(1_000_000 + minutes)
    }

    fn token(text: &str, requested: i64) -> StoredToken {
        StoredToken {
            access_token: text.into(),
            expires_at: at(requested + 60),
            requested_at: at(requested),
        }
    }

    fn tokens(list: &[(Option<&str>, StoredToken)]) -> Tokens {
        let owned = list
            .iter()
            .map(|(name, token)| (name.map(str::to_owned), token.clone()));
        owned.collect()
    }

    fn texts(tokens: &Tokens) -> Vec<(Option<&str>, &str)> {
        let texts = tokens
            .iter()
            .map(|(name, token)| (name.as_deref(), token.access_token.expose_secret()));
        texts.collect()
    }

    #[test]
    fn written_tokens_are_read_back_unchanged() {
        for list in [
            vec![(None, token("a", 0))],
            vec![(None, token("a", 0)), (Some("second"), token("b", 1))],
            vec![(Some("second"), token("b", 1))],
            vec![],
        ] {
            let written = tokens(&list);
            let read = parse(&text_of(&written));
            assert_eq!(texts(&read), texts(&written));
            for (name, token) in &read {
                assert_eq!(token.expires_at, written[name].expires_at);
                assert_eq!(token.requested_at, written[name].requested_at);
            }
        }
    }

    #[test]
    fn an_unreadable_token_does_not_affect_the_others() {
        let text = r#"{"access_token": 7, "expires_at": 9, "application_users": {"bad": {}, "good": {"access_token": "t", "expires_at": 9}}}"#;
        assert_eq!(
            texts(&parse(&SecretString::from(text))),
            [(Some("good"), "t")]
        );
        for text in ["", "no JSON", "[]", r#"{"application_users": []}"#] {
            assert!(parse(&SecretString::from(text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_token_is_replaced_only_by_one_that_was_requested_later() {
        let known = [None, Some("second".to_owned())];
        let stored = tokens(&[(None, token("a", 10)), (Some("second"), token("b", 0))]);
        let fresh = tokens(&[(None, token("older", 5)), (Some("second"), token("c", 5))]);
        let after = replaced(&stored, &fresh, &known, at(12)).unwrap();
        assert_eq!(texts(&after), [(None, "a"), (Some("second"), "c")]);
        assert!(replaced(&after, &fresh, &known, at(12)).is_none());
    }

    #[test]
    fn a_token_with_a_request_time_in_the_future_is_replaced() {
        let stored = tokens(&[(None, token("a", 24 * 60))]);
        let fresh = tokens(&[(None, token("b", 0))]);
        let after = replaced(&stored, &fresh, &[None], at(0)).unwrap();
        assert_eq!(texts(&after), [(None, "b")]);
    }

    #[test]
    fn the_token_of_an_application_user_without_a_credential_is_removed() {
        let stored = tokens(&[(None, token("a", 0)), (Some("second"), token("b", 0))]);
        let after = replaced(&stored, &Tokens::new(), &[None], at(0)).unwrap();
        assert_eq!(texts(&after), [(None, "a")]);
    }
}
