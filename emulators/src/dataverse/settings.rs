//! The settings of an emulated organisation that a test can change.

use chrono::TimeDelta;

use super::privileges::Privilege;
use super::protection::Limits;
use crate::server::LONGEST_BODY;

/// A change to one setting of the organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// The largest base64 text of an attachment, in characters (`Organization.maxuploadfilesize`);
    /// default 5,242,880.
    MaxUploadFileSize(usize),
    /// File name extensions that are rejected, separated by semicolons
    /// (`Organization.blockedattachments`).
    BlockedAttachments(String),
    /// Whether a failed change set is answered with only the error part, instead of a change set
    /// response with that part inside. It is not known which of the two Dataverse does (Dataverse
    /// facts §9a), so a client must read both. Default off.
    BareChangeSetErrors(bool),
    /// The number of HTTP requests that one caller may send in the window of service protection;
    /// more are rejected with 429. Default 6,000.
    RequestsPerFiveMinutes(usize),
    /// The length of the window of service protection, in seconds; default 300.
    ProtectionWindowSeconds(u32),
    /// The execution time that one caller may use in the window, in milliseconds. Once it is used
    /// up, requests are rejected with 429. Default 1,200,000. [`Setting::OperationMilliseconds`]
    /// sets the time of an operation.
    ExecutionMilliseconds(u64),
    /// The largest number of HTTP requests of one caller in flight; default 52.
    ConcurrentRequests(usize),
    /// The value of `x-ms-dop-hint`; default 4.
    ParallelismHint(u32),
    /// Whether a batch over a limit on requests or execution time is accepted and only its parts
    /// over the limit are rejected. Default off: the whole batch is rejected (inferred). A client
    /// must handle both (Dataverse facts §9).
    ThrottleParts(bool),
    /// The network time of each HTTP request, in milliseconds; default 0.
    NetworkMilliseconds(u64),
    /// The execution time of each operation, in milliseconds; default 0. The operations of a batch
    /// run one after another, so their times add up.
    OperationMilliseconds(u64),
    /// The largest body of an HTTP request, in bytes; a longer one is rejected with 413 /
    /// 0x8004418A. The real limit is not known. The default is 134,217,728, and no more than that
    /// is ever read.
    LargestRequest(usize),
    /// Whether callers have the privilege to set when a row was created; default on. Without it,
    /// `overriddencreatedon` on create is rejected with 403 / 0x80040220 (inferred: the privilege
    /// from general documents, Dataverse facts §16; the code is the one for any missing privilege,
    /// §12).
    MayOverrideCreatedOn(bool),
    /// The privileges that the caller's role lacks, each with its table; default none. Activities,
    /// parties and attachments count as one table, `activity` (Dataverse facts §16).
    Withheld(Vec<(Privilege, &'static str)>),
    /// The privileges that the roles of all impersonated users lack, each with its table; default
    /// none.
    WithheldFromUsers(Vec<(Privilege, &'static str)>),
    /// The emails whose creation is rejected, as by a plug-in of the organisation; default none.
    RefusedEmails(Option<RefusedEmails>),
    /// The status and code with which every create, update and delete of an activity is rejected;
    /// default none. For an error that no privilege explains, such as a code that is in no list.
    RefusedWrites(Option<(u16, &'static str)>),
    /// The time for which a new alternate key is `Pending`, in seconds; default 0, so that it is
    /// `Active` at once.
    KeyIndexSeconds(u32),
    /// Whether `messageid` is unique among emails, as server-side synchronization relies on
    /// (Dataverse facts §7.3); default on. A second email with the same value is rejected with 412
    /// / 0x80040237 for every writer. The real code is not known.
    UniqueMessageIds(bool),
}

/// Which emails are rejected, and with what error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEmails {
    /// The HTTP status.
    pub status: u16,
    /// The hexadecimal code.
    pub code: &'static str,
    /// A text that the subject must contain. An empty text matches every email.
    pub subject: &'static str,
}

/// The current settings of an organisation.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent setting, and every combination is allowed"
)]
pub(crate) struct Settings {
    pub(crate) max_upload: usize,
    pub(crate) blocked: Vec<String>,
    pub(crate) bare_change_set_errors: bool,
    pub(crate) limits: Limits,
    pub(crate) throttle_parts: bool,
    pub(crate) network_ms: u64,
    pub(crate) operation_ms: u64,
    pub(crate) largest_request: usize,
    pub(crate) key_index: TimeDelta,
    pub(crate) may_override_created_on: bool,
    pub(crate) withheld: Vec<(Privilege, &'static str)>,
    pub(crate) withheld_from_users: Vec<(Privilege, &'static str)>,
    pub(crate) refused_emails: Option<RefusedEmails>,
    pub(crate) unique_message_ids: bool,
    pub(crate) refused_writes: Option<(u16, &'static str)>,
}

impl Settings {
    pub(crate) fn change(&mut self, setting: Setting) {
        match setting {
            Setting::MaxUploadFileSize(size) => self.max_upload = size,
            Setting::BlockedAttachments(list) => self.blocked = endings(&list),
            Setting::BareChangeSetErrors(bare) => self.bare_change_set_errors = bare,
            Setting::RequestsPerFiveMinutes(most) => self.limits.requests = most,
            Setting::ProtectionWindowSeconds(seconds) => {
                self.limits.window = TimeDelta::seconds(seconds.into());
            }
            Setting::ExecutionMilliseconds(most) => self.limits.execution_ms = most,
            Setting::ConcurrentRequests(most) => self.limits.in_flight = most,
            Setting::ParallelismHint(hint) => self.limits.parallelism = hint,
            Setting::ThrottleParts(parts) => self.throttle_parts = parts,
            Setting::NetworkMilliseconds(time) => self.network_ms = time,
            Setting::OperationMilliseconds(time) => self.operation_ms = time,
            Setting::LargestRequest(size) => self.largest_request = size,
            Setting::MayOverrideCreatedOn(may) => self.may_override_created_on = may,
            Setting::Withheld(withheld) => self.withheld = withheld,
            Setting::WithheldFromUsers(withheld) => self.withheld_from_users = withheld,
            Setting::RefusedEmails(refused) => self.refused_emails = refused,
            Setting::RefusedWrites(refusal) => self.refused_writes = refusal,
            Setting::KeyIndexSeconds(seconds) => {
                self.key_index = TimeDelta::seconds(seconds.into());
            }
            Setting::UniqueMessageIds(unique) => self.unique_message_ids = unique,
        }
    }
}

/// The extensions that an organisation blocks by default (inferred: Microsoft's documentation of
/// the setting, shortened to those that have been in the list for many versions).
const BLOCKED: &str = "ade;adp;app;asa;ashx;asmx;asp;bas;bat;cdx;cer;chm;class;cmd;com;config;cpl;crt;csh;dll;exe;fxp;hlp;\
                       hta;htr;htw;ida;idc;idq;inf;ins;isp;its;jar;js;jse;ksh;lnk;mad;maf;mag;mam;maq;mar;mas;mat;mau;\
                       mav;maw;mda;mdb;mde;mdt;mdw;mdz;msc;msh;msh1;msh1xml;msh2;msh2xml;mshxml;msi;msp;mst;ops;pcd;pif;\
                       prf;prg;printer;pst;reg;rem;scf;scr;sct;shb;shs;shtm;shtml;soap;stm;tmp;url;vb;vbe;vbs;vsmacros;\
                       vss;vst;vsw;ws;wsc;wsf;wsh";

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_upload: 5_242_880,
            blocked: endings(BLOCKED),
            bare_change_set_errors: false,
            limits: Limits::default(),
            throttle_parts: false,
            network_ms: 0,
            operation_ms: 0,
            largest_request: LONGEST_BODY,
            key_index: TimeDelta::zero(),
            may_override_created_on: true,
            withheld: Vec::new(),
            withheld_from_users: Vec::new(),
            refused_emails: None,
            unique_message_ids: true,
            refused_writes: None,
        }
    }
}

fn endings(list: &str) -> Vec<String> {
    list.split(';')
        .map(|ending| ending.trim().to_ascii_lowercase())
        .filter(|ending| !ending.is_empty())
        .collect()
}
