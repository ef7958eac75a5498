//! Incidents: what goes wrong for everybody or for long, each behind a switch (`--fault NAME`). An
//! incident is a pause and never a loss.
//!
//! | Incident | What happens | Where it is played |
//! | --- | --- | --- |
//! | `disabled-user`, `missing-privilege`, `unlisted-refusal` | Dataverse refuses every request, or every write | a stretch of rounds ([`Run::begin_stretch`]) |
//! | `nylas-scopes`, `nylas-key` | Nylas refuses one mailbox, or every call | the same |
//! | `late-files` | a file is 404 for its first requests | files of some young mails |
//! | `broken-files` | a file is 500 for the whole run | the same |
//! | `crowds` | a mail has thousands of recipients, while Dataverse takes long for each operation | some mails |
//! | `large-bodies` | ten mails in a batch are 15 MB long each | a scene |
//! | `postponements` | pauses use up the queue's receive count several times around a few real failures | a scene ([`crate::scenes`]) |
//! | `throttled-mailbox` | Nylas asks for a pause for one mailbox | a scene |
//!
//! [`Run::begin_stretch`]: crate::run::Run::begin_stretch

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use clap::ValueEnum;

use crate::asked::{Asked, asked_of_dataverse};
use crate::http::Message;
use crate::plan::Service;

/// What can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Incident {
    /// Dataverse: the application user is disabled, so every request is 403 / 0x80072560.
    DisabledUser,
    /// Dataverse: the application user may not make activities any more, so every write is 403 /
    /// 0x80040220.
    MissingPrivilege,
    /// Dataverse: every write is 400 with a code that no table lists.
    UnlistedRefusal,
    /// Nylas: the calls for one mailbox are 403 `insufficient_scopes`.
    NylasScopes,
    /// Nylas: every call is 401, as with a key that was revoked.
    NylasKey,
    /// Files that are not there yet.
    LateFiles,
    /// Files that never can be had.
    BrokenFiles,
    /// Mails with thousands of recipients.
    Crowds,
    /// Mails of many megabytes, ten in a batch.
    LargeBodies,
    /// Many postponed deliveries around few real failures.
    Postponements,
    /// Nylas throttles one mailbox.
    ThrottledMailbox,
}

impl Incident {
    /// Those that are on when nobody says which. Empty while the engine's side of each is under
    /// way: whoever builds one adds it here.
    pub(crate) const BY_DEFAULT: &'static [Self] = &[];

    /// Those that last for a stretch of the run, in this order.
    pub(crate) const STRETCHES: [Self; 5] = [
        Self::DisabledUser,
        Self::MissingPrivilege,
        Self::UnlistedRefusal,
        Self::NylasScopes,
        Self::NylasKey,
    ];

    /// Rounds without deliveries at the end of its stretch. A key that was revoked is mended after
    /// more deliveries than a message has.
    pub(crate) fn idle_rounds(self) -> usize {
        if self == Self::NylasKey { 12 } else { 3 }
    }

    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The mailbox for which Nylas lacks a permission, or that it throttles.
pub(crate) const MAILBOX: &str = "grant-2";

/// The code of [`Incident::UnlistedRefusal`].
pub(crate) const UNLISTED: &str = "0x80099999";

/// With [`Incident::Crowds`], what Dataverse takes for an operation of a look-up.
const OPERATION: Duration = Duration::from_millis(20);

/// So long after the first request for it, every file is there.
const LATEST: Duration = Duration::from_secs(10 * 60);

/// A client hears nothing for so long and gives up. Nobody waits for it here: the connection breaks
/// at once.
const PATIENCE: Duration = Duration::from_secs(15);

/// What an incident answers in a service's place.
pub(crate) enum Instead {
    Answer(Message),
    /// The client has given up waiting.
    Silence,
}

/// What goes wrong at present, and how often it did.
#[derive(Default)]
pub(crate) struct Incidents {
    /// That of the stretch that is under way.
    pub(crate) stretch: Option<Incident>,
    /// By id of the file.
    pub(crate) late: HashMap<String, Late>,
    /// Ids of files.
    pub(crate) broken: HashSet<String>,
    /// Keys of the messages with such files: what they wait for comes nearer as time passes.
    pub(crate) mails: Vec<String>,
    pub(crate) crowds: bool,
    pub(crate) throttle: Option<Throttle>,
    /// How often each incident met a request.
    met: HashMap<Incident, u64>,
}

/// A file that is not there yet: for so many requests, and not for long.
pub(crate) struct Late {
    requests: u32,
    /// On the harness' clock; none before the first request.
    until: Option<Duration>,
}

impl Late {
    pub(crate) fn by(requests: u32) -> Self {
        Self {
            requests,
            until: None,
        }
    }

    /// Whether a request comes too soon.
    fn is_missing(&mut self, now: Duration) -> bool {
        let until = *self.until.get_or_insert(now + LATEST);
        let is_missing = self.requests > 0 && now < until;
        self.requests = self.requests.saturating_sub(1);
        is_missing
    }
}

/// The pause that Nylas asks for, for [`MAILBOX`].
pub(crate) struct Throttle {
    pub(crate) seconds: u64,
    /// On the harness' clock; none before the first request was throttled.
    until: Option<Duration>,
    /// Requests that came during the pause, after the one that was told of it.
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
    /// The answer to a request that an incident meets.
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

    /// Notes what the twin answered with: it plays those incidents itself that concern the parts of
    /// a batch.
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

    /// How often an incident met a request.
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

/// Whether a request to Nylas is about mail of [`MAILBOX`]. Its grant can be read nevertheless.
fn of_mailbox(request: &Message) -> bool {
    let rest = request.start().split_once("/v3/grants/");
    rest.and_then(|(_, rest)| rest.strip_prefix(MAILBOX))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The id of the file that a request asks for.
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
    async fn a_late_file_is_there_after_so_many_requests_and_others_at_once() {
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
            "long after the first request"
        );
        assert_eq!(incidents.met(Incident::LateFiles), 3);
    }

    #[tokio::test]
    async fn requests_within_a_pause_are_early_but_for_the_first_and_those_of_other_mailboxes() {
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
    async fn a_stretch_refuses_whom_it_is_about() {
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
    async fn a_look_up_of_a_crowd_takes_longer_than_anybody_waits_and_one_of_few_does_not() {
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
