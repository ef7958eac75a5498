//! What the caller's role allows (Dataverse facts §12 and §16). A caller has every privilege but
//! those that a test withholds.
//!
//! Inferred: which privilege an operation needs where the facts only name them, that `AppendTo` is
//! asked of the table that a binding leads to, and that the code is 0x80040220, the first of the
//! three that §12 lists for a missing privilege.

use super::org::Work;
use super::refusal::Refusal;

/// What a role allows with the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// To make them.
    Create,
    /// To see them.
    Read,
    /// To change them.
    Write,
    /// To remove them.
    Delete,
    /// To bind them to others.
    Append,
    /// To bind others to them.
    AppendTo,
    /// To give them to another owner.
    Assign,
    /// To act for another user; of the table `systemuser`. Impersonated users need none for
    /// themselves.
    ActOnBehalf,
}

impl Work<'_> {
    /// Refuses what the caller's role lacks.
    pub(crate) fn require(&self, privilege: Privilege, table: &str) -> Result<(), Refusal> {
        let (privilege, table) = match (privilege, table) {
            // A file changes the activity that it is added to.
            (Privilege::Create | Privilege::Delete, "activitymimeattachment") => {
                (Privilege::Write, "activity")
            }
            (_, "email" | "appointment" | "activityparty" | "activitymimeattachment") => {
                (privilege, "activity")
            }
            other => other,
        };
        let settings = &self.org.settings;
        let writes = matches!(
            privilege,
            Privilege::Create | Privilege::Write | Privilege::Delete
        );
        if writes
            && table == "activity"
            && let Some((status, code)) = settings.refused_writes
        {
            return Err(Refusal::new(status, code, "as the test asked".to_owned()));
        }
        let is_in = |withheld: &[(Privilege, &str)]| withheld.contains(&(privilege, table));
        // The application needs what it does for another user, and so does that user (Dataverse
        // facts §13).
        let for_another = self.org.caller.on_behalf.is_some();
        let of_user = for_another && is_in(&settings.withheld_from_users);
        if !of_user && !is_in(&settings.withheld) {
            return Ok(());
        }
        let message = format!(
            "Principal user (Id={}) is missing the privilege to {privilege:?} {table}.",
            self.org.caller.user
        );
        Err(Refusal::new(403, "0x80040220", message))
    }
}
