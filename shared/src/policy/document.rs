//! The policy document: what is tracked, who is created, and what a mail is about. Plain data; what each setting means is decided elsewhere.
//!
//! One JSON document for the whole organisation. `defaults` holds for every mailbox; `mailboxes` narrows it for some. A setting that is left out keeps the
//! documented default. An unknown setting is refused, since a misspelt rule that is silently ignored lets private mail through.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Where the schema of this document is, for editors; nothing else reads it.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// For every mailbox.
    pub defaults: Settings,
    /// By the mailbox's own address. A mailbox's part can only leave out more than `defaults` does.
    // A mailbox that is named twice would lose one of its two parts without a word.
    #[serde(with = "serde_with::rust::maps_duplicate_key_is_error")]
    #[schemars(with = "BTreeMap<String, Override>")]
    pub mailboxes: BTreeMap<String, Override>,
}

/// The settings of the organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which mail is tracked, by who takes part in it.
    pub track: Track,
    /// Which folders are tracked.
    pub folders: Folders,
    /// Mail in these folders concerns these records.
    pub folder_regarding: Vec<FolderRegarding>,
    /// Mail domains of the own company, besides the addresses of mailboxes and users. A domain below one of these is another.
    pub internal_domains: Vec<String>,
    /// Mail whose sender and recipients are all inside is left out.
    pub skip_internal: bool,
    /// Who is never tracked.
    pub block: Vec<Block>,
    /// When not empty, only outside participants of these domains, and of those below them, count as such.
    pub allow: Vec<String>,
    /// Newsletters, automatic answers and other bulk mail are left out. Needs all headers of a message.
    pub skip_bulk: bool,
    /// Of each thread only its first mail is tracked.
    pub first_of_thread_only: bool,
    /// What of a mail is stored.
    pub content: Content,
    /// What an address is that several rows have.
    pub ambiguous: Ambiguous,
    /// For whom a contact, and a company, is created.
    pub create_contacts: CreateContacts,
    /// Which record a mail concerns.
    pub regarding: Regarding,
    /// In whose name the row of a mail is written.
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

/// What a mailbox leaves out besides: each setting is applied on top of the organisation's, and none can take anything back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// A mail has to pass the organisation's setting and this one.
    #[serde(skip_serializing_if = "TrackOverride::is_empty")]
    pub track: TrackOverride,
    /// Both have to let a folder through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folders: Option<Folders>,
    /// Asked before the organisation's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folder_regarding: Vec<FolderRegarding>,
    /// Only `true` changes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_internal: Option<bool>,
    /// In addition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<Block>,
    /// When not empty: both lists have to have the domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Only `true` changes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_bulk: Option<bool>,
    /// Only `true` changes anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_of_thread_only: Option<bool>,
    /// The lesser of the two is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The lesser of the two holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_contacts: Option<CreateContacts>,
}

/// Which mail is tracked, by its direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Track {
    /// Mail from outside.
    pub received: TrackWhat,
    /// Mail that somebody inside sent.
    pub sent: TrackWhat,
}

/// Which mail of one mailbox is tracked besides, by its direction. What is left out stays as `defaults` has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrackOverride {
    /// Mail from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<TrackWhat>,
    /// Mail that somebody inside sent.
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

/// Which mail of one direction is tracked: from the most to the least.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TrackWhat {
    /// All of it.
    #[default]
    All,
    /// At least one outside participant is a contact, an account, a lead or another record of the organisation.
    Known,
    /// Only answers to mail that is already in Dynamics 365.
    Replies,
    /// None of it.
    None,
}

/// Which folders are tracked. A folder is named by its name, its path from the root (`Clients/Kites`), its id or its attribute (`\Archive`); what lies
/// below a named folder is named too. Names, paths and attributes are compared without case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Folders {
    /// All folders.
    #[default]
    All,
    /// A message has to lie in one of these.
    Only(Vec<String>),
    /// A message must not lie in any of these.
    Except(Vec<String>),
}

/// Mail in `folder` concerns `record`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderRegarding {
    /// As in [`Folders`].
    pub folder: String,
    /// Logical name of the record's table, such as `account` or `opportunity`.
    pub table: String,
    /// Its primary key.
    pub id: Uuid,
}

/// Somebody who is never tracked: exactly one of `address` and `domain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// One address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A domain and all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What is left out.
    pub action: BlockAction,
}

/// What is left out when somebody blocked takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockAction {
    /// The whole message.
    Drop,
    /// Only that party.
    Strip,
}

/// What of a mail is stored: from the most to the least.
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
    /// Who wrote to whom, and when.
    Participants,
}

/// What an address is that several rows of one table have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ambiguous {
    /// None of them: the party is the address alone.
    #[default]
    Unresolved,
    /// The one that was changed last.
    MostRecent,
    /// Each of them, as a party of its own.
    All,
}

/// For whom a contact is created: from the least to the most.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CreateContacts {
    /// Nobody.
    #[default]
    Never,
    /// Somebody we wrote to.
    Sent,
    /// Everybody outside.
    All,
}

/// In whose name the row of a mail is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Impersonate {
    /// In the application user's own.
    #[default]
    Nobody,
    /// In that of the mailbox's user, who owns it.
    Owner,
}

/// Which record a mail concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Regarding {
    /// Where to look, in this order; the first hit wins. What is left out is not looked at.
    pub order: Vec<RegardingSource>,
    /// A regular expression for the tracking token in a subject.
    pub tracking_token: String,
    /// What [`RegardingSource::App`] looks for.
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

/// Where the regarding record of a mail comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegardingSource {
    /// The newest earlier mail that has the token of the subject, if somebody outside is on both.
    TrackingToken,
    /// An earlier mail of the thread.
    Thread,
    /// The folder that the mail lies in.
    Folder,
    /// The one open opportunity, case or custom row of the people outside.
    App,
    /// A lead outside.
    Lead,
    /// A contact outside.
    Contact,
    /// A company outside.
    Account,
}

/// The app that mail is worked on in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum App {
    /// None.
    #[default]
    None,
    /// The one open opportunity of the contact or account.
    Sales,
    /// The one open case of the contact or account.
    Service,
    /// The one active row of a custom table that refers to the contact or account.
    Custom(CustomTable),
}

/// A custom table that mail may concern.
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
