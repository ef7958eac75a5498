//! The policy document: what is tracked, which contacts are created, and what an email regards.
//! Plain data; other modules decide what each setting does.
//!
//! There is one JSON document for the whole organisation. `defaults` applies to every mailbox, and
//! `mailboxes` restricts it for some of them. A setting that is left out keeps its documented
//! default. An unknown setting is an error: if a misspelt rule were ignored, private email would be
//! tracked.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The policy document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// The address of this document's JSON schema. Only editors read it.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The settings of every mailbox.
    pub defaults: Settings,
    /// Restrictions by the mailbox's address. They can only leave out more than `defaults` does.
    // With a plain map, a mailbox that is listed twice would silently lose one of its two
    // overrides.
    #[serde(with = "serde_with::rust::maps_duplicate_key_is_error")]
    #[schemars(with = "BTreeMap<String, Override>")]
    pub mailboxes: BTreeMap<String, Override>,
}

/// The settings of the organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which email is tracked, by direction and participants.
    pub track: Track,
    /// Which folders are tracked.
    pub folders: Folders,
    /// The records that email in these folders regards.
    pub folder_regarding: Vec<FolderRegarding>,
    /// The organisation's domains, besides addresses of mailboxes and users. Excludes subdomains.
    pub internal_domains: Vec<String>,
    /// Leaves out email whose sender and recipients are all internal.
    pub skip_internal: bool,
    /// Addresses and domains that are never tracked.
    pub block: Vec<Block>,
    /// If not empty, only external participants in these domains and their subdomains count.
    pub allow: Vec<String>,
    /// Leaves out newsletters, automatic replies and other bulk mail. Needs all headers.
    pub skip_bulk: bool,
    /// Tracks only the first message of each thread.
    pub(crate) first_of_thread_only: bool,
    /// How much of an email is stored.
    pub content: Content,
    /// How to resolve an address that several rows have.
    pub ambiguous: Ambiguous,
    /// For which participants a contact, and a company, is created.
    pub create_contacts: CreateContacts,
    /// How the record that an email regards is chosen.
    pub regarding: Regarding,
    /// The user as which the row of an email is written.
    pub impersonate: Impersonate,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            track: Track::default(),
            folders: Folders::default(),
            folder_regarding: Vec::new(),
            internal_domains: Vec::new(),
            skip_internal: true,
            block: Vec::new(),
            allow: Vec::new(),
            skip_bulk: false,
            first_of_thread_only: false,
            content: Content::default(),
            ambiguous: Ambiguous::default(),
            create_contacts: CreateContacts::default(),
            regarding: Regarding::default(),
            impersonate: Impersonate::default(),
        }
    }
}

/// Settings that a mailbox adds to the organisation's. They can only restrict, never allow more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// An email has to pass the organisation's setting and this one.
    #[serde(skip_serializing_if = "TrackOverride::is_empty")]
    pub track: TrackOverride,
    /// Both settings have to include a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folders: Option<Folders>,
    /// Checked before the organisation's list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folder_regarding: Vec<FolderRegarding>,
    /// Only `true` has an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_internal: Option<bool>,
    /// Added to the organisation's list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<Block>,
    /// If not empty, a domain has to be in both lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Only `true` has an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_bulk: Option<bool>,
    /// Only `true` has an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_of_thread_only: Option<bool>,
    /// The setting that stores less applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The setting that creates fewer contacts applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_contacts: Option<CreateContacts>,
}

/// Which email is tracked, by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Track {
    /// Email from external senders.
    pub received: TrackWhat,
    /// Email from internal senders.
    pub sent: TrackWhat,
}

/// Further restrictions by direction. A direction that is left out is tracked as in `defaults`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrackOverride {
    /// Email from external senders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<TrackWhat>,
    /// Email from internal senders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<TrackWhat>,
}

impl TrackOverride {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_empty(&self) -> bool {
        self.received.is_none() && self.sent.is_none()
    }
}

/// Which email of one direction is tracked, from most to least.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TrackWhat {
    /// All email.
    #[default]
    All,
    /// Email with at least one external participant who is a contact, an account or a lead.
    Known,
    /// Only replies to email that is already in Dynamics 365.
    Replies,
    /// No email.
    None,
}

/// Which folders are tracked. A folder is given by its name, its path from the root
/// (`Clients/Kites`), its id or its attribute (`\Archive`). Its subfolders are included. Names,
/// paths and attributes are case-insensitive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Folders {
    /// All folders.
    #[default]
    All,
    /// A message has to be in one of these folders.
    Only(Vec<String>),
    /// A message must not be in any of these folders.
    Except(Vec<String>),
}

/// Email in the folder `folder` regards the record with this table and id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderRegarding {
    /// The folder, given as in [`Folders`].
    pub folder: String,
    /// Logical name of the record's table, such as `account` or `opportunity`.
    pub table: String,
    /// The record's primary key.
    pub id: Uuid,
}

/// A participant who is never tracked: exactly one of `address` and `domain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// An email address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A domain, including its subdomains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What is left out.
    pub action: BlockAction,
}

/// What is left out if a blocked participant is on an email.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockAction {
    /// The whole message.
    Drop,
    /// Only this participant.
    Strip,
}

/// How much of an email is stored, from most to least.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Subject, body and attachments.
    #[default]
    Full,
    /// Subject and the provider's snippet of the body.
    Snippet,
    /// Subject only.
    Subject,
    /// Only the participants and the times.
    Participants,
}

/// How to resolve an address that several rows of one table have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ambiguous {
    /// To none of them: the activity party holds only the address.
    #[default]
    Unresolved,
    /// To the row that was changed last.
    MostRecent,
    /// To all of them, with one activity party for each.
    All,
}

/// For which participants a contact is created, from fewest to most.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CreateContacts {
    /// For no participant.
    #[default]
    Never,
    /// For external recipients of email from internal senders.
    Sent,
    /// For all external participants.
    All,
}

/// The user as which the row of an email is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Impersonate {
    /// The application user.
    #[default]
    Nobody,
    /// The Dynamics user of the mailbox, who owns the row.
    Owner,
}

/// How the record that an email regards is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Regarding {
    /// Sources to check, in this order; the first match wins. An omitted source is not checked.
    pub order: Vec<RegardingSource>,
    /// A regular expression that matches the tracking token in a subject.
    pub tracking_token: String,
    /// The records that the source [`RegardingSource::App`] looks for.
    pub app: App,
}

impl Default for Regarding {
    fn default() -> Self {
        Self {
            order: vec![
                RegardingSource::Thread,
                RegardingSource::TrackingToken,
                RegardingSource::Folder,
                RegardingSource::App,
                RegardingSource::Lead,
                RegardingSource::Contact,
                RegardingSource::Account,
            ],
            tracking_token: "CRM:[0-9]+".to_owned(),
            app: App::default(),
        }
    }
}

/// A source of the record that an email regards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegardingSource {
    /// Newest earlier email with the subject's tracking token and a common external participant.
    TrackingToken,
    /// An earlier email of the thread.
    Thread,
    /// The folder of the email.
    Folder,
    /// The only open opportunity, case or custom row of the external participants.
    App,
    /// An external participant who is a lead.
    Lead,
    /// An external participant who is a contact.
    Contact,
    /// The company that an external participant is, or that all contacts with its address share.
    Account,
}

/// The app in which users work on the email.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum App {
    /// No app.
    #[default]
    None,
    /// The only open opportunity of the contact or account.
    Sales,
    /// The only open case of the contact or account.
    Service,
    /// The only active row of a custom table that refers to the contact or account.
    Custom(CustomTable),
}

/// A custom table whose rows email can regard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomTable {
    /// Logical name, such as `new_project`.
    pub table: String,
    /// Entity set name, such as `new_projects`.
    pub set: String,
    /// Primary key column, such as `new_projectid`.
    pub key: String,
    /// The lookup column that refers to a contact or account, such as `new_customerid`.
    pub customer: String,
}
