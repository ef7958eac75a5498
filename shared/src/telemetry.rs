//! Logs and counts on standard output, as Lambda collects them.
//!
//! Logs are JSON lines. Counts are CloudWatch's embedded metric format: one JSON line, from which CloudWatch makes the
//! metric, so that counting costs no call. Neither ever holds a subject, body, name, address or token; every line about one
//! message carries `sync.key` (grant id and message id).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::prelude::*;

/// The CloudWatch namespace of every count.
const NAMESPACE: &str = "mailverse";

/// The dimension of every count: several stacks of one account share the namespace, and each has alarms of its own.
const STACK: &str = "Stack";

/// The stack's name, from `STACK_NAME`. Without it, counts have no dimension.
static STACK_NAME: OnceLock<String> = OnceLock::new();

/// Whether counts are printed: yes in a function, no in the command, whose standard output is for people.
static PRINTS_COUNTS: AtomicBool = AtomicBool::new(false);

/// Starts logging for a function. `filter` is the text of `RUST_LOG`; an absent or malformed one means `info`.
/// `stack` is the text of `STACK_NAME`, the dimension of every count; without it, counts have none.
///
/// Other crates may log what they transport when they are asked to be verbose, so they are held to `info` whatever the filter says.
///
/// From here on, panics are logged by `report_panics`.
pub fn init(filter: Option<&str>, stack: Option<&str>) {
    report_panics();
    PRINTS_COUNTS.store(true, Ordering::Relaxed);
    if let Some(stack) = stack {
        STACK_NAME.get_or_init(|| stack.to_owned());
    }
    let chosen = filter
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::default().add_directive(LevelFilter::INFO.into()));
    let ours = filter_fn(|meta| {
        *meta.level() <= Level::INFO || OURS.iter().any(|name| meta.target().starts_with(name))
    });
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(chosen.and(ours)))
        .try_init();
}

/// From here on, a panic is logged by its place in the program alone. What it says may quote a message: a text that was cut
/// at the wrong byte, for one, is printed with the panic.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        let file = place.map_or("unknown", std::panic::Location::file);
        let line = place.map_or(0, std::panic::Location::line);
        tracing::error!(
            code.file = file,
            code.line = line,
            "the program panicked, which is a fault of the program"
        );
    }));
}

/// Targets that may log below `info`: our own crates.
const OURS: [&str; 5] = [
    "mailverse",
    "webhook_receiver",
    "sync_worker",
    "backfill",
    "token_refresher",
];

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A notification went on the queue.
    NotificationQueued,
    /// A notification whose type nobody handles was answered 200.
    NotificationIgnored,
    /// A notification whose type has a suffix that we do not know was queued all the same.
    NotificationSuffixUnknown,
    /// A notification of another Nylas application was answered 200 and not queued.
    NotificationOfAnotherApplication,
    /// A notification that is older than a week was answered 200 and not queued.
    NotificationTooOld,
    /// A notification that this process has queued within a day was answered 200 and not queued again.
    NotificationDuplicate,
    /// A delivery was refused for its signature.
    SignatureRefused,
    /// A delivery was refused for its signature, and its body shows that something changed it on its way.
    DeliveryAltered,
    /// A delivery was verified but could not be read.
    NotificationUnreadable,
    /// The queue or the secret store did not answer the receiver.
    ReceiverUnavailable,
    /// A message reached `written`.
    Written,
    /// A message reached `skipped`, and not for its mailbox.
    Skipped,
    /// A message was skipped because its mailbox does not take part.
    MailboxExcluded,
    /// A message was skipped because Nylas does not list its mailbox.
    MailboxUnknown,
    /// A message goes back to the queue.
    Waiting,
    /// A message reached `dead`.
    Dead,
    /// A queue message could not be read.
    RequestUnreadable,
    /// A stored token was replaced.
    TokenRefreshed,
    /// The backfill's list of a mailbox showed a message.
    Listed,
    /// A listed message has a state.
    Accounted,
    /// A listed message had no state before: nothing had told of it.
    Repaired,
    /// Entra refused a credential: a person has to change something.
    TokenRefused,
    /// Entra, or the store, could not be reached to replace a token.
    TokenNotRefreshed,
    /// A batch went back because there is no token.
    TokenMissing,
    /// Dataverse refused messages for want of a privilege.
    PrivilegeMissing,
    /// Dataverse refused everybody who asks as its user, and everybody pauses.
    CallerRefused,
    /// Nylas refused the API key, and everybody pauses.
    ApiKeyRefused,
    /// Nylas refused a mailbox, and everybody who asks for it pauses.
    MailboxRefused,
    /// The stored policy is older than one that this process has read before.
    PolicyVersionBackwards,
}

impl Count {
    const fn name(self) -> &'static str {
        match self {
            Self::NotificationQueued => "NotificationQueued",
            Self::NotificationIgnored => "NotificationIgnored",
            Self::NotificationSuffixUnknown => "NotificationSuffixUnknown",
            Self::NotificationOfAnotherApplication => "NotificationOfAnotherApplication",
            Self::NotificationTooOld => "NotificationTooOld",
            Self::NotificationDuplicate => "NotificationDuplicate",
            Self::SignatureRefused => "SignatureRefused",
            Self::DeliveryAltered => "DeliveryAltered",
            Self::NotificationUnreadable => "NotificationUnreadable",
            Self::ReceiverUnavailable => "ReceiverUnavailable",
            Self::Written => "Written",
            Self::Skipped => "Skipped",
            Self::MailboxExcluded => "MailboxExcluded",
            Self::MailboxUnknown => "MailboxUnknown",
            Self::Waiting => "Waiting",
            Self::Dead => "Dead",
            Self::RequestUnreadable => "RequestUnreadable",
            Self::TokenRefreshed => "TokenRefreshed",
            Self::Listed => "Listed",
            Self::Accounted => "Accounted",
            Self::Repaired => "Repaired",
            Self::TokenRefused => "TokenRefused",
            Self::TokenNotRefreshed => "TokenNotRefreshed",
            Self::TokenMissing => "TokenMissing",
            Self::PrivilegeMissing => "PrivilegeMissing",
            Self::CallerRefused => "CallerRefused",
            Self::ApiKeyRefused => "ApiKeyRefused",
            Self::MailboxRefused => "MailboxRefused",
            Self::PolicyVersionBackwards => "PolicyVersionBackwards",
        }
    }
}

/// Adds `by` to a count.
pub fn count(what: Count, by: usize) {
    if by > 0 && PRINTS_COUNTS.load(Ordering::Relaxed) {
        let stack = STACK_NAME.get().map(String::as_str);
        let now_ms = chrono::Utc::now().timestamp_millis();
        println!("{}", embedded_metric(what, by, stack, now_ms));
    }
}

/// Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".
fn embedded_metric(what: Count, by: usize, stack: Option<&str>, now_ms: i64) -> serde_json::Value {
    let name = what.name();
    let dimensions: &[&str] = match stack {
        Some(_) => &[STACK],
        None => &[],
    };
    let mut metric = serde_json::json!({
        "_aws": {
            "Timestamp": now_ms,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": [dimensions],
                "Metrics": [{"Name": name, "Unit": "Count"}],
            }],
        },
        name: by,
    });
    if let (Some(stack), Some(metric)) = (stack, metric.as_object_mut()) {
        metric.insert(STACK.to_owned(), stack.into());
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_one_line_of_the_embedded_metric_format() {
        let line = embedded_metric(Count::Dead, 2, None, 1_700_000_000_000);
        assert_eq!(line["Dead"], 2);
        assert_eq!(line["_aws"]["Timestamp"], 1_700_000_000_000_i64);
        assert_eq!(
            line["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Name"],
            "Dead"
        );
        let dimensions = &line["_aws"]["CloudWatchMetrics"][0]["Dimensions"];
        assert_eq!(dimensions, &serde_json::json!([[]]));
    }

    #[test]
    fn a_count_of_a_stack_has_its_name_as_the_dimension() {
        let line = embedded_metric(Count::Dead, 2, Some("north"), 0);
        let dimensions = &line["_aws"]["CloudWatchMetrics"][0]["Dimensions"];
        assert_eq!(dimensions, &serde_json::json!([["Stack"]]));
        assert_eq!(
            (&line["Stack"], &line["Dead"]),
            (&"north".into(), &2.into())
        );
    }
}
