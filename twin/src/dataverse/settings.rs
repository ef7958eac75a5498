//! What a test can change about the organisation.

use chrono::TimeDelta;

use super::privileges::Privilege;
use super::protection::Limits;
use crate::server::LONGEST_BODY;

/// Something about the organisation that a test can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Longest base64 text of an attachment (`Organization.maxuploadfilesize`); 5,242,880 at first.
    MaxUploadFileSize(usize),
    /// File name endings that are refused, separated by semicolons (`Organization.blockedattachments`).
    BlockedAttachments(String),
    /// A failed change set answers with the bare error part instead of a change set response that holds it. Which
    /// of the two Dataverse does is not known (Dataverse facts §9a); a client must read both. Off at first.
    BareChangeSetErrors(bool),
    /// HTTP requests in the window of service protection before a caller is told to wait; 6,000 at first.
    RequestsPerFiveMinutes(usize),
    /// Length of the window of service protection, in seconds; 300 at first.
    ProtectionWindowSeconds(u32),
    /// Milliseconds of operations in the window before a caller is told to wait; 1,200,000 at first. What an operation
    /// counts is [`Setting::OperationMilliseconds`].
    ExecutionMilliseconds(u64),
    /// HTTP requests of one caller that may be in flight; 52 at first.
    ConcurrentRequests(usize),
    /// What `x-ms-dop-hint` says; 4 at first.
    ParallelismHint(u32),
    /// A batch that meets a limit on requests or execution time is let in, and each of its parts that is over the limit
    /// is refused in its place. Off at first: the whole batch is refused (inferred). A client must read both (Dataverse
    /// facts §9).
    ThrottleParts(bool),
    /// Milliseconds on the way, for each HTTP request; 0 at first.
    NetworkMilliseconds(u64),
    /// Milliseconds of work, for each operation. Those of a batch run one after another, so that their times add up; 0
    /// at first.
    OperationMilliseconds(u64),
    /// Longest body of an HTTP request, in bytes: what is longer is 413 / 0x8004418A. The real number is not known; here
    /// it is 134,217,728 at first, and more is never read.
    LargestRequest(usize),
    /// Whether callers have the privilege to say when a row was made; they have at first. Without it, `overriddencreatedon`
    /// on create is 403 / 0x80040220 (inferred: the privilege from general documents, Dataverse facts §16; the code is that of
    /// any missing privilege, §12).
    MayOverrideCreatedOn(bool),
    /// Privileges that the caller's role lacks, with the table each is about; none at first. Activities, their parties and attachments are one
    /// table, `activity` (Dataverse facts §16).
    Withheld(Vec<(Privilege, &'static str)>),
    /// Privileges that the roles of all users lack for whom an application acts; none at first.
    WithheldFromUsers(Vec<(Privilege, &'static str)>),
    /// Emails whose creation is refused, as by a plug-in of the organisation; none at first.
    RefusedEmails(Option<RefusedEmails>),
    /// Status and code by which everything is refused that makes, changes or removes an activity;
    /// none at first. For a refusal that no privilege explains, such as one that no list of codes
    /// has.
    RefusedWrites(Option<(u16, &'static str)>),
    /// Seconds during which an alternate key that was posted is Pending; 0 at first: Active at once.
    KeyIndexSeconds(u32),
    /// Whether two emails may not have one `messageid`, as server-side synchronization relies on (Dataverse facts §7.3). On
    /// at first. The second one is refused with 412 / 0x80040237, whoever writes it; the code is not known.
    UniqueMessageIds(bool),
}

/// Which emails are refused, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedEmails {
    /// The HTTP status.
    pub status: u16,
    /// The hexadecimal code.
    pub code: &'static str,
    /// A text that their subject holds; all of them when it is empty.
    pub subject: &'static str,
}

/// The settings of an organisation.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own, and every combination of them can be had"
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

/// Endings that an organisation blocks when nobody changed them (inferred: Microsoft's documentation of the setting,
/// shortened to those that have been in the list for many versions).
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
