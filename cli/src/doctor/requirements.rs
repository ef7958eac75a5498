//! The requirements of the policy and the settings beyond what the sync always needs.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::pipeline::created_on::CreatedOn;
use mailverse::policy::document::{App, CreateContacts, Impersonate, RegardingSource, Settings};

use super::privileges::Read;
use super::privileges::write_checks::Append;

/// A table whose open rows can be the regarding of an email.
pub(super) struct AppTable {
    pub(super) read: Read,
    pub(super) append: Append,
}

const OPPORTUNITIES: AppTable = AppTable {
    read: Read {
        name: "read opportunities",
        table: "Opportunity",
        query: "opportunities?$select=opportunityid&$top=1",
        optional: false,
    },
    append: Append {
        name: "append to opportunities",
        from: "read opportunities",
        key: "opportunityid",
        set: "opportunities",
        binding: "regardingobjectid_opportunity_email@odata.bind",
        right: "Append on Activity, Append To on Opportunity",
    },
};

const CASES: AppTable = AppTable {
    read: Read {
        name: "read cases",
        table: "Case",
        query: "incidents?$select=incidentid&$top=1",
        optional: false,
    },
    append: Append {
        name: "append to cases",
        from: "read cases",
        key: "incidentid",
        set: "incidents",
        binding: "regardingobjectid_incident_email@odata.bind",
        right: "Append on Activity, Append To on Case",
    },
};

/// The features in use that need further privileges.
#[derive(Clone, Copy, Default)]
pub(super) struct Requirements {
    /// Contacts and accounts are created.
    pub(super) contacts: bool,
    /// The regarding can be an open row of this table. A custom table is not checked, because only
    /// the policy defines what its rows are.
    pub(super) app: Option<&'static AppTable>,
    /// Rows are written as their owners (impersonation).
    pub(super) impersonate: bool,
    /// The created-on of rows: now, or the original time.
    pub(super) created_on: CreatedOn,
    /// Whether an email is written in one change set or step by step.
    pub(super) write_mode: WriteMode,
}

impl Requirements {
    /// Returns the requirements of the functions' settings.
    pub(super) fn new(write_mode: WriteMode, created_on: CreatedOn) -> Self {
        Self {
            created_on,
            write_mode,
            ..Self::default()
        }
    }

    pub(super) fn is_stepwise(&self) -> bool {
        self.write_mode == WriteMode::Stepwise
    }

    pub(super) fn is_backdated(&self) -> bool {
        self.created_on == CreatedOn::Original
    }

    /// Adds the requirements of the policy's defaults. An override for a mailbox cannot need more.
    pub(super) fn add(&mut self, policy: &Settings) {
        self.contacts = policy.create_contacts != CreateContacts::Never;
        self.impersonate = policy.impersonate == Impersonate::Owner;
        let regarding = &policy.regarding;
        self.app = match regarding.app {
            _ if !regarding.order.contains(&RegardingSource::App) => None,
            App::Sales => Some(&OPPORTUNITIES),
            App::Service => Some(&CASES),
            App::None | App::Custom(_) => None,
        };
    }
}
