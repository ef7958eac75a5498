//! Incidents: faults that affect everyone or last long, each behind a switch (`--fault NAME`). An
//! incident may delay messages but never lose them.
//!
//! | Incident | What happens | Where it is played |
//! | --- | --- | --- |
//! | `disabled-user`, `missing-privilege`, `unlisted-refusal` | Dataverse rejects every request, or every write | a phase of several rounds ([`Run::begin_stretch`]) |
//! | `nylas-scopes`, `nylas-key` | Nylas rejects calls for one mailbox, or every call | the same |
//! | `late-files` | a file answers 404 to its first requests | files of some recent emails |
//! | `broken-files` | a file answers 500 for the whole run | the same |
//! | `crowds` | an email has thousands of recipients, while each operation of Dataverse takes long | some emails |
//! | `large-bodies` | ten emails in a batch have 15 MB each | a scene |
//! | `postponements` | pauses use up the queue's receive count several times between a few real failures | a scene ([`crate::scenes`]) |
//! | `throttled-mailbox` | Nylas asks for a pause for one mailbox | a scene |
//!
//! [`Run::begin_stretch`]: crate::run::Run::begin_stretch

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use clap::ValueEnum;

use crate::asked::{Asked, asked_of_dataverse};
use crate::http::Message;
use crate::plan::Service;

/// The incidents that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Incident {
    /// Dataverse: the application user is disabled, so every request gets 403 / 0x80072560.
    DisabledUser,
    /// Dataverse: the application user lost the privilege to create activities, so every write gets
    /// 403 / 0x80040220.
    MissingPrivilege,
    /// Dataverse: every write gets 400 with a code that is in no table.
    UnlistedRefusal,
    /// Nylas: the calls for one mailbox get 403 `insufficient_scopes`.
    NylasScopes,
    /// Nylas: every call gets 401, as with a revoked key.
    NylasKey,
    /// Files that are not available yet.
    LateFiles,
    /// Files that never become available.
    BrokenFiles,
    /// Emails with thousands of recipients.
    Crowds,
    /// Emails of many megabytes, ten in a batch.
    LargeBodies,
    /// Many postponed deliveries between a few real failures.
    Postponements,
    /// Nylas throttles one mailbox.
    ThrottledMailbox,
}

impl Incident {
    /// The incidents that are on if none is named. Empty until the product handles each of them;
    /// add an incident here once it does.
    pub(crate) const BY_DEFAULT: &'static [Self] = &[];

    /// The incidents that last for a phase of the run, in this order.
    pub(crate) const STRETCHES: [Self; 5] = [
        Self::DisabledUser,
        Self::MissingPrivilege,
        Self::UnlistedRefusal,
        Self::NylasScopes,
        Self::NylasKey,
    ];

    /// Returns the number of rounds without deliveries at the end of the phase. A revoked key is
    /// only replaced after more deliveries than a message has.
    pub(crate) fn idle_rounds(self) -> usize {
        if self == Self::NylasKey { 12 } else { 3 }
    }

    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The mailbox for which Nylas lacks a permission, or that Nylas throttles.
pub(crate) const MAILBOX: &str = "grant-2";

/// The code of [`Incident::UnlistedRefusal`].
pub(crate) const UNLISTED: &str = "0x80099999";

/// With [`Incident::Crowds`], the time that Dataverse takes for one operation of a lookup.
const OPERATION: Duration = Duration::from_millis(20);

/// Every file is available this long after the first request for it.
const LATEST: Duration = Duration::from_secs(10 * 60);

/// The timeout of a client. The harness does not wait for it: the connection breaks at once.
const PATIENCE: Duration = Duration::from_secs(15);

/// What happens instead of the service's answer.
pub(crate) enum Instead {
    Answer(Message),
    /// The client's timeout has expired.
    Silence,
}

/// The current incidents, and how often each met a request.
#[derive(Default)]
pub(crate) struct Incidents {
    /// The incident of the current phase.
    pub(crate) stretch: Option<Incident>,
    /// Files that are not available yet, by id.
    pub(crate) late: HashMap<String, Late>,
    /// The ids of files that never become available.
    pub(crate) broken: HashSet<String>,
    /// The keys of messages with such files: their timestamps move back as time passes.
    pub(crate) emails: Vec<String>,
    pub(crate) crowds: bool,
    pub(crate) throttle: Option<Throttle>,
    /// How often each incident met a request.
    met: HashMap<Incident, u64>,
}

/// A file that is not available yet: for a number of requests, and for a limited time.
pub(crate) struct Late {
    requests: u32,
    /// When it becomes available, on the harness' clock; `None` before the first request.
    until: Option<Duration>,
}

impl Late {
    pub(crate) fn by(requests: u32) -> Self {
        Self {
            requests,
            until: None,
        }
    }

    /// Returns whether the file is not available yet. Counts the request.
    fn is_missing(&mut self, now: Duration) -> bool {
        let until = *self.until.get_or_insert(now + LATEST);
        let is_missing = self.requests > 0 && now < until;
        self.requests = self.requests.saturating_sub(1);
        is_missing
    }
}

/// The pause that Nylas requests for [`MAILBOX`].
pub(crate) struct Throttle {
    pub(crate) seconds: u64,
    /// The end of the pause on the harness' clock; `None` before the first request was throttled.
    until: Option<Duration>,
    /// Requests during the pause, after the one that started it.
    pub(crate) early: u64,
}

impl Throttle {
    pub(crate) fn of(seconds: u64) -> Self {
        Self {
            seconds,
            until: None,
            early: 0,
        }
    }
}

impl Incidents {
    /// Returns what happens to a request that meets an incident; `None` if it meets none.
    pub(crate) fn instead(
        &mut self,
        service: Service,
        request: &Message,
        now: Duration,
    ) -> Option<Instead> {
        match service {
            Service::Dataverse => self.at_dataverse(request),
            Service::Nylas => self.at_nylas(request, now).map(Instead::Answer),
            Service::Ledger | Service::Queue => None,
        }
    }

    /// Counts the incidents in an answer of the emulator, which plays those that concern the parts
    /// of a batch.
    pub(crate) fn answered(&mut self, service: Service, answer: &Message) {
        let code = match (service, self.stretch) {
            (Service::Dataverse, Some(Incident::MissingPrivilege)) => "0x80040220",
            (Service::Dataverse, Some(Incident::UnlistedRefusal)) => UNLISTED,
            _ => return,
        };
        if let Some(incident) = self.stretch
            && String::from_utf8_lossy(&answer.body).contains(code)
        {
            self.meets(incident);
        }
    }

    /// Returns how often an incident met a request.
    pub(crate) fn met(&self, incident: Incident) -> u64 {
        self.met.get(&incident).copied().unwrap_or(0)
    }

    pub(crate) fn meets(&mut self, incident: Incident) {
        *self.met.entry(incident).or_default() += 1;
    }

    fn at_dataverse(&mut self, request: &Message) -> Option<Instead> {
        if self.stretch == Some(Incident::DisabledUser) {
            self.meets(Incident::DisabledUser);
            return Some(Instead::Answer(Message::dataverse_refuses(
                403,
                "0x80072560",
            )));
        }
        if self.crowds && matches!(asked_of_dataverse(request), Asked::LookUp) {
            let body = String::from_utf8_lossy(&request.body);
            let operations = u32::try_from(body.matches("\r\nGET ").count()).unwrap();
            if OPERATION * operations > PATIENCE {
                return Some(Instead::Silence);
            }
        }
        None
    }

    fn at_nylas(&mut self, request: &Message, now: Duration) -> Option<Message> {
        if self.stretch == Some(Incident::NylasKey) {
            self.meets(Incident::NylasKey);
            return Some(Message::nylas_error(401, "unauthorized", None));
        }
        if of_mailbox(request) && self.stretch == Some(Incident::NylasScopes) {
            self.meets(Incident::NylasScopes);
            return Some(Message::nylas_error(403, "insufficient_scopes", None));
        }
        if of_mailbox(request)
            && let Some(answer) = self.throttled(now)
        {
            return Some(answer);
        }
        let file = file(request)?;
        if self.broken.contains(file) {
            self.meets(Incident::BrokenFiles);
            return Some(Message::nylas_error(500, "internal_server_error", None));
        }
        let late = self.late.get_mut(file)?;
        if !late.is_missing(now) {
            return None;
        }
        self.meets(Incident::LateFiles);
        Some(Message::nylas_error(404, "not_found_error", None))
    }

    fn throttled(&mut self, now: Duration) -> Option<Message> {
        let throttle = self.throttle.as_mut()?;
        let left = match throttle.until {
            None => {
                let pause = Duration::from_secs(throttle.seconds);
                throttle.until = Some(now + pause);
                pause
            }
            Some(until) if now < until => {
                throttle.early += 1;
                until.saturating_sub(now)
            }
            Some(_) => return None,
        };
        self.meets(Incident::ThrottledMailbox);
        Some(Message::nylas_error(
            429,
            "rate_limit_error",
            Some(left.as_secs() + 1),
        ))
    }
}

/// Returns whether a request to Nylas concerns messages of [`MAILBOX`]. Its grant can be read
/// nevertheless.
fn of_mailbox(request: &Message) -> bool {
    let rest = request.start().split_once("/v3/grants/");
    rest.and_then(|(_, rest)| rest.strip_prefix(MAILBOX))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Returns the id of the file that a request downloads.
fn file(request: &Message) -> Option<&str> {
    let (_, rest) = request.start().split_once("/attachments/")?;
    let (id, _) = rest.split_once("/download")?;
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn request(start: &str) -> Message {
        with_body(start, "").await
    }

    async fn with_body(start: &str, body: &str) -> Message {
        let length = body.len();
        let text = format!("{start} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut reader = tokio::io::BufReader::new(text.as_bytes());
        crate::http::read(&mut reader).await.unwrap().unwrap()
    }

    fn status(instead: Option<Instead>) -> Option<u16> {
        match instead? {
            Instead::Answer(answer) => Some(answer.status()),
            Instead::Silence => Some(0),
        }
    }

    const AT_ONCE: Duration = Duration::ZERO;

    #[tokio::test]
    async fn a_late_file_appears_after_several_requests_and_other_files_at_once() {
        let mut incidents = Incidents::default();
        let names = ["file-0-of-m1", "file-2-of-m1"].map(str::to_owned);
        incidents.late.extend(names.map(|name| (name, Late::by(2))));
        let path =
            |n| format!("GET /v3/grants/grant-1/attachments/file-{n}-of-m1/download?message_id=m1");
        let (late, other) = (request(&path(0)).await, request(&path(1)).await);
        let mut ask =
            |request: &Message, now| status(incidents.instead(Service::Nylas, request, now));
        assert_eq!(
            [&late, &other, &late, &late].map(|request| ask(request, AT_ONCE)),
            [Some(404), None, Some(404), None]
        );
        let once = request(&path(2)).await;
        assert_eq!(
            [ask(&once, AT_ONCE), ask(&once, LATEST)],
            [Some(404), None],
            "the file must be available long after the first request"
        );
        assert_eq!(incidents.met(Incident::LateFiles), 3);
    }

    #[tokio::test]
    async fn later_requests_of_a_throttled_mailbox_during_its_pause_count_as_early() {
        let mut incidents = Incidents {
            throttle: Some(Throttle::of(60)),
            ..Incidents::default()
        };
        let of = async |grant: &str| request(&format!("GET /v3/grants/{grant}/messages/m1")).await;
        let (throttled, other, longer) =
            (of(MAILBOX).await, of("grant-1").await, of("grant-22").await);
        let mut ask = |request: &Message, seconds| {
            let now = Duration::from_secs(seconds);
            status(incidents.instead(Service::Nylas, request, now))
        };
        assert_eq!(ask(&other, 0), None);
        assert_eq!(ask(&throttled, 0), Some(429));
        assert_eq!(ask(&longer, 1), None);
        assert_eq!(ask(&throttled, 59), Some(429));
        assert_eq!(ask(&throttled, 60), None);
        assert_eq!(incidents.throttle.unwrap().early, 1);
    }

    #[tokio::test]
    async fn a_stretch_rejects_only_the_requests_that_it_concerns() {
        let mut incidents = Incidents::default();
        let mine = request(&format!("GET /v3/grants/{MAILBOX}/messages/m1")).await;
        let other = request("GET /v3/grants/grant-1/messages/m1").await;
        let grant = request(&format!("GET /v3/grants/{MAILBOX}?x=1")).await;
        let dataverse = request("GET /api/data/v9.2/WhoAmI").await;
        let cases = [
            (None, [None; 4]),
            (Some(Incident::NylasScopes), [Some(403), None, None, None]),
            (
                Some(Incident::NylasKey),
                [Some(401), Some(401), Some(401), None],
            ),
            (Some(Incident::DisabledUser), [None, None, None, Some(403)]),
        ];
        for (stretch, expected) in cases {
            incidents.stretch = stretch;
            let mut ask =
                |service, request: &Message| status(incidents.instead(service, request, AT_ONCE));
            let answers = [
                ask(Service::Nylas, &mine),
                ask(Service::Nylas, &other),
                ask(Service::Nylas, &grant),
                ask(Service::Dataverse, &dataverse),
            ];
            assert_eq!(answers, expected, "{stretch:?}");
        }
    }
    #[tokio::test]
    async fn a_lookup_with_very_many_queries_times_out_and_a_small_one_does_not() {
        let mut incidents = Incidents {
            crowds: true,
            ..Incidents::default()
        };
        let mut asked = Vec::new();
        for queries in [200, 1_000] {
            let body = "\r\nGET /api/data/v9.2/contacts HTTP/1.1\r\n".repeat(queries);
            let request = with_body("POST /api/data/v9.2/$batch", &body).await;
            asked.push(status(incidents.instead(
                Service::Dataverse,
                &request,
                AT_ONCE,
            )));
        }
        assert_eq!(asked, [None, Some(0)]);
    }
}
