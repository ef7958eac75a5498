//! What the policy and the settings ask for that needs more than the sync does otherwise.

use mailverse::dataverse::write::WriteMode;
use mailverse::pipeline::created_on::CreatedOn;
use mailverse::policy::document::{App, CreateContacts, Impersonate, RegardingSource, Settings};

use super::privileges::Read;
use super::privileges::trials::Append;

/// The table whose open rows mail concerns.
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

/// What is asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Wants {
    /// Contacts and companies are made.
    pub(super) contacts: bool,
    /// Mail concerns the open rows of this table. A custom one is not looked at: which rows it has is the policy's own business.
    pub(super) app: Option<&'static AppTable>,
    /// Rows are written in their owners' names.
    pub(super) impersonate: bool,
    /// What rows say of when they were made.
    pub(super) created_on: CreatedOn,
    /// In how many calls a mail is written.
    pub(super) write_mode: WriteMode,
}

impl Wants {
    /// Of the settings of the functions.
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

    /// And of the policy. A mailbox's part asks for nothing more.
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
