//! The users of Dataverse whose limits are kept.

use std::fmt;

/// An application user of Dataverse: by default one does everything; others may share the backfill.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ApplicationUser(Option<String>);

impl ApplicationUser {
    /// Returns the user whose token is in the secret `TOKEN_SECRET_ID`.
    #[must_use]
    pub const fn primary() -> Self {
        Self(None)
    }

    /// Returns the user with this name in `DATAVERSE_APPLICATION_USERS`.
    #[must_use]
    pub const fn named(name: String) -> Self {
        Self(Some(name))
    }

    /// Returns the suffix that makes the primary user's name of something the name for this user:
    /// empty for the primary user, else `separator` and the user's name.
    #[must_use]
    pub fn suffix(&self, separator: char) -> String {
        self.0
            .as_ref()
            .map_or_else(String::new, |name| format!("{separator}{name}"))
    }
}

impl fmt::Display for ApplicationUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("primary"))
    }
}
