//! Writes logs and counts to standard output, where Lambda collects them.
//!
//! Logs are JSON lines. Counts use CloudWatch's embedded metric format: one JSON line, from which
//! CloudWatch makes the metric, so that counting needs no call. Neither ever contains a subject,
//! body, name, address or token. Every line about one message has the field `sync.key` (grant id
//! and message id).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::prelude::*;

/// The CloudWatch namespace of every count.
const NAMESPACE: &str = "mailverse";

/// The dimension of every count: several stacks of one account share the namespace, and each has
/// separate alarms.
const STACK: &str = "Stack";

/// The stack's name, from `STACK_NAME`. Without it, counts have no dimension.
static STACK_NAME: OnceLock<String> = OnceLock::new();

/// Whether counts are printed: yes in a function, no in the command, whose standard output is for
/// operators.
static PRINTS_COUNTS: AtomicBool = AtomicBool::new(false);

/// Starts logging for a function. `filter` is the text of `RUST_LOG`; `info` is used if it is
/// absent or malformed. `stack` is the text of `STACK_NAME`, the dimension of every count; without
/// it, counts have none.
///
/// At verbose levels, other crates may log the data that they transport, so they are limited to
/// `info` whatever the filter is.
///
/// From then on, panics are logged by `report_panics`.
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
    // A second call in one process (tests) keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(chosen.and(ours)))
        .try_init();
}

/// Logs only the source location of panics from now on. The panic message may quote email content:
/// for example, a text that was cut at the wrong byte is printed with the panic.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        let file = place.map_or("unknown", std::panic::Location::file);
        let line = place.map_or(0, std::panic::Location::line);
        tracing::error!(
            code.file = file,
            code.line = line,
            "the program panicked, which is a bug in the program"
        );
    }));
}

/// Targets that may log below `info`: our crates.
const OURS: [&str; 5] = [
    "mailverse",
    "webhook_receiver",
    "sync_worker",
    "backfill",
    "token_refresher",
];

/// A metric that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A notification was queued.
    NotificationQueued,
    /// A notification of a type that is not processed was answered with 200.
    NotificationIgnored,
    /// A notification whose type has an unknown suffix was queued nevertheless.
    NotificationSuffixUnknown,
    /// A notification of another Nylas application was answered with 200 and not queued.
    NotificationOfAnotherApplication,
    /// A notification older than a week was answered with 200 and not queued.
    NotificationTooOld,
    /// A notification that this process queued within the last day was answered with 200 and not
    /// queued again.
    NotificationDuplicate,
    /// A delivery was rejected because of its signature.
    SignatureRefused,
    /// A delivery was rejected because of its signature, and its body shows that it was changed in
    /// transit.
    DeliveryAltered,
    /// A delivery was verified, but its body could not be parsed.
    NotificationUnreadable,
    /// The queue or the secret store did not respond to the receiver.
    ReceiverUnavailable,
    /// The outcome of a message is `written`.
    Written,
    /// The outcome of a message is `skipped`, for a reason other than its mailbox.
    Skipped,
    /// A message was skipped because its mailbox does not take part.
    MailboxExcluded,
    /// A message was skipped because Nylas does not list its mailbox.
    MailboxUnknown,
    /// A message returns to the queue.
    Waiting,
    /// The outcome of a message is `dead`.
    Dead,
    /// A queue message could not be parsed.
    RequestUnreadable,
    /// A stored token was replaced.
    TokenRefreshed,
    /// The backfill listed a message.
    Listed,
    /// A listed message has a state.
    Accounted,
    /// A listed message had no state before: no notification had reported it.
    Repaired,
    /// Entra rejected a credential: an operator has to change something.
    TokenRefused,
    /// Entra or the token store could not be reached, so a token was not replaced.
    TokenNotRefreshed,
    /// A batch returned to the queue because there is no token.
    TokenMissing,
    /// Dataverse refused messages because a privilege is missing.
    PrivilegeMissing,
    /// Dataverse refused every call of an application user, and all workers with that user pause.
    CallerRefused,
    /// Nylas refused the API key, and all workers pause.
    ApiKeyRefused,
    /// Nylas refused a mailbox, and all requests for that mailbox pause.
    MailboxRefused,
    /// The stored policy is older than one that this process read before.
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

/// Adds `by` to a count, unless it is zero.
pub fn count(what: Count, by: usize) {
    if by > 0 && PRINTS_COUNTS.load(Ordering::Relaxed) {
        let stack = STACK_NAME.get().map(String::as_str);
        let now_ms = chrono::Utc::now().timestamp_millis();
        println!("{}", embedded_metric(what, by, stack, now_ms));
    }
}

/// Returns a line of the embedded metric format. Source: Amazon CloudWatch User Guide,
/// "Specification: Embedded metric format".
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
