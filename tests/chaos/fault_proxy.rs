//! The fault proxy of a connection: recognises which boundary of the pipeline each request belongs
//! to, and causes the planned faults there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use local_aws::lambda::Killer;
use serde_json::Value;
use tokio::sync::watch;

use crate::asked::{Asked, asked_of_dataverse, nylas_refusal, target, update_item, without_delay};
use crate::connection::{After, Before};
use crate::defect::Defect;
use crate::event_log::EventLog;
use crate::figures::Figures;
use crate::history::{History, Write};
use crate::http::Message;
use crate::incident::{Incidents, Instead};
use crate::plan::{Cell, Loss, Mode, Plan, Release, Service};
use crate::queue::Book;
use crate::race::Races;
use crate::time::Time;

/// The state that all connections share.
pub(crate) struct Shared {
    /// Locked while the ledger is written, so that the history has the order of the writes.
    pub(crate) history: tokio::sync::Mutex<History>,
    /// Locked while the queue is called: moto's threads may lose a message that arrives while
    /// another one is deleted.
    pub(crate) queue_gate: tokio::sync::Mutex<()>,
    pub(crate) reserve: Mutex<Book>,
    pub(crate) figures: Mutex<Figures>,
    /// The ids of messages that Nylas does not return at present.
    pub(crate) stubborn: Mutex<HashSet<String>>,
    /// The number of requests that Dataverse still rejects, and for how many seconds it throttles
    /// them; `None` if it is unavailable instead.
    pub(crate) storm: Mutex<(u64, Option<u64>)>,
    pub(crate) defect: Option<Defect>,
    pub(crate) event_log: EventLog,
    pub(crate) races: Mutex<Races>,
    pub(crate) incidents: Mutex<Incidents>,
    time: Time,
    /// The number of requests on their way.
    busy: watch::Sender<usize>,
}

impl Shared {
    pub(crate) fn new(defect: Option<Defect>, time: &Time) -> Self {
        Self {
            history: tokio::sync::Mutex::default(),
            queue_gate: tokio::sync::Mutex::default(),
            reserve: Mutex::new(Book::keeping(time.clone())),
            figures: Mutex::default(),
            stubborn: Mutex::default(),
            storm: Mutex::default(),
            defect,
            event_log: EventLog::keeping(time.clone()),
            races: Mutex::default(),
            incidents: Mutex::default(),
            time: time.clone(),
            busy: watch::Sender::new(0),
        }
    }

    /// Returns the answer to the next request to Dataverse while a storm lasts.
    fn refused_by_storm(&self) -> Option<Message> {
        let mut storm = self.storm.lock().unwrap();
        let (left, seconds) = *storm;
        storm.0 = left.checked_sub(1)?;
        self.figures.lock().unwrap().faults += 1;
        Some(seconds.map_or_else(Message::dataverse_unavailable, Message::dataverse_throttles))
    }

    /// Waits until no request is on its way, including requests of processes that have ended.
    pub(crate) async fn idle(&self) {
        let mut busy = self.busy.subscribe();
        busy.wait_for(|requests| *requests == 0).await.unwrap();
    }
}

/// The place of a process, which a successor takes when it dies.
pub(crate) struct Seat {
    pub(crate) mode: Mode,
    /// The number of processes so far.
    number: AtomicU64,
    killer: Mutex<Option<Killer>>,
    pub(crate) plan: Mutex<Plan>,
    /// Whether the process was told that its token or key is not valid.
    refused: AtomicBool,
}

impl Seat {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            mode,
            number: AtomicU64::new(0),
            killer: Mutex::default(),
            plan: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// Prepares the place for a new process.
    pub(crate) fn next(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        *self.plan.lock().unwrap() = Plan::default();
        self.refused.store(false, Ordering::SeqCst);
    }

    /// Returns whether the process may still wait because it was rejected. It remembers that by the
    /// machine's clock, which the harness cannot advance.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    pub(crate) fn time_of(&self, killer: Killer) {
        *self.killer.lock().unwrap() = Some(killer);
    }

    pub(crate) async fn kill(&self) {
        let killer = self.killer.lock().unwrap().clone();
        killer
            .expect("a process was started in this seat")
            .kill()
            .await;
    }
}

/// The fault proxy between one place and one service.
#[derive(Clone)]
pub(crate) struct FaultProxy {
    pub(crate) service: Service,
    pub(crate) seat: Arc<Seat>,
    pub(crate) shared: Arc<Shared>,
    /// The number of the process that this connection belongs to.
    process: u64,
}

/// Counts a request until it is dropped.
pub(crate) struct Busy<'a>(&'a watch::Sender<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

impl FaultProxy {
    pub(crate) fn new(service: Service, seat: &Arc<Seat>, shared: &Arc<Shared>) -> Self {
        Self {
            service,
            seat: Arc::clone(seat),
            shared: Arc::clone(shared),
            process: 0,
        }
    }

    pub(crate) fn for_this_process(&self) -> Self {
        Self {
            process: self.seat.number.load(Ordering::SeqCst),
            ..self.clone()
        }
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        self.shared.busy.send_modify(|requests| *requests += 1);
        Busy(&self.shared.busy)
    }

    /// Returns how the next request gets lost; `None` if it does not.
    pub(crate) fn loss(&self) -> Option<Loss> {
        let loss = self.plan(|plan| plan.cuts(self.service)).flatten();
        if loss.is_some() {
            self.shared.figures.lock().unwrap().cuts += 1;
        }
        loss
    }

    /// Decides what happens to a request that has arrived.
    pub(crate) async fn before(&self, request: &mut Message, loss: Option<Loss>) -> Before {
        if let Some(defect) = self.shared.defect {
            defect.edit(self.service, request);
        }
        if self.service == Service::Nylas && self.is_stubborn(request) {
            return Before::Answer(Message::nylas_error(503, "service_unavailable", None));
        }
        if self.service == Service::Dataverse
            && let Some(answer) = self.shared.refused_by_storm()
        {
            return Before::Answer(answer);
        }
        match self.instead(request) {
            Some(Instead::Answer(answer)) => return Before::Answer(answer),
            Some(Instead::Silence) => return Before::Cut,
            None => {}
        }
        if self.service == Service::Queue {
            without_delay(request);
        }
        match (loss, self.service) {
            (None | Some(Loss::AfterCommit), _) => {}
            (Some(Loss::Refused), Service::Ledger | Service::Queue) => {
                return Before::Answer(Message::aws_error("AccessDeniedException"));
            }
            (Some(Loss::Refused), Service::Nylas) => return Before::Answer(nylas_refusal(request)),
            (Some(Loss::Refused | Loss::Before), _) => return Before::Cut,
        }
        for cell in self.cells_before(request) {
            if let Some(release) = self.hold(cell).await
                && release == Release::Cut
            {
                return Before::Cut;
            }
            if self.kill(cell).await {
                return if cell == Cell::HalfAWrite {
                    Before::Half
                } else {
                    Before::Cut
                };
            }
        }
        if self.carries_rows(request) {
            self.shared.races.lock().unwrap().at_write(&request.body);
        }
        Before::Forward
    }

    fn instead(&self, request: &Message) -> Option<Instead> {
        let now = self.shared.time.now();
        let mut incidents = self.shared.incidents.lock().unwrap();
        incidents.instead(self.service, request, now)
    }

    fn carries_rows(&self, request: &Message) -> bool {
        self.service == Service::Dataverse
            && matches!(asked_of_dataverse(request), Asked::Write | Asked::Create)
    }

    /// Sends a request to its service under the lock of that service, and records the result.
    pub(crate) async fn pass<E>(
        &self,
        request: &Message,
        asked: impl Future<Output = Result<Option<Message>, E>>,
    ) -> Result<Option<Message>, E> {
        match self.service {
            Service::Ledger => {
                let mut history = self.shared.history.lock().await;
                let answer = asked.await?;
                if let (Some(answer), Some(call)) = (&answer, update_item(request)) {
                    let done = answer.status() == 200;
                    history.saw(&call, done);
                    if let Some(write) = Write::read(&call) {
                        let (key, what) = write.told(&call);
                        let how = if done { "" } else { ", refused" };
                        let what = format!("{:?} {what}{how}", self.seat.mode);
                        self.shared.event_log.tell(key, &what);
                    }
                }
                Ok(answer)
            }
            Service::Queue => {
                let _alone = self.shared.queue_gate.lock().await;
                let answer = asked.await?;
                if answer.as_ref().is_some_and(|answer| answer.status() == 200) {
                    self.note_queue_call(request);
                }
                Ok(answer)
            }
            Service::Dataverse | Service::Nylas => asked.await,
        }
    }

    /// Decides what happens to the answer of the service.
    pub(crate) async fn after(
        &self,
        request: &Message,
        answer: &Message,
        loss: Option<Loss>,
    ) -> After {
        self.shared
            .incidents
            .lock()
            .unwrap()
            .answered(self.service, answer);
        if self.carries_rows(request) && answer.status() < 300 {
            let now = self.shared.time.now();
            let mut races = self.shared.races.lock().unwrap();
            races.at_commit(&request.body, now);
        }
        for cell in self.cells_after(request, answer) {
            if self.kill(cell).await {
                return After::Cut;
            }
        }
        if loss == Some(Loss::AfterCommit) {
            return After::Cut;
        }
        After::Relay
    }

    /// Records that the process is about to receive an answer.
    pub(crate) fn hears(&self, answer: &Message) {
        let refuses = matches!(answer.status(), 401 | 403);
        if refuses && self.plan(|_| ()).is_some() {
            self.seat.refused.store(true, Ordering::SeqCst);
        }
    }

    fn cells_before(&self, request: &Message) -> Vec<Cell> {
        match self.service {
            Service::Ledger => match update_item(request).as_ref().and_then(Write::read) {
                Some(Write::Claim { .. }) => vec![Cell::BeforeClaim],
                Some(Write::Settle { .. }) => vec![Cell::BeforeSettle],
                None => Vec::new(),
            },
            Service::Nylas if request.start().contains("/messages/") => vec![Cell::AfterClaim],
            Service::Dataverse => match asked_of_dataverse(request) {
                Asked::LookUp => vec![Cell::AfterFetch],
                Asked::Write | Asked::Create => vec![Cell::AfterLookUp, Cell::HalfAWrite],
                Asked::Complete => vec![Cell::BetweenSteps],
                Asked::Other => Vec::new(),
            },
            Service::Nylas | Service::Queue => Vec::new(),
        }
    }

    fn cells_after(&self, request: &Message, answer: &Message) -> Vec<Cell> {
        if !(200..300).contains(&answer.status()) {
            return Vec::new();
        }
        match self.service {
            Service::Ledger => match update_item(request).as_ref().and_then(Write::read) {
                Some(Write::Claim { .. }) => vec![Cell::ClaimUnanswered],
                Some(Write::Settle { .. }) => vec![Cell::SettleUnanswered],
                None => Vec::new(),
            },
            Service::Dataverse => match asked_of_dataverse(request) {
                Asked::Write | Asked::Complete => vec![Cell::CommitUnanswered],
                Asked::LookUp | Asked::Create | Asked::Other => Vec::new(),
            },
            // The receiver has queued a request, but Nylas has no answer yet.
            Service::Queue if self.seat.mode == Mode::Receiver => vec![Cell::CommitUnanswered],
            Service::Nylas | Service::Queue => Vec::new(),
        }
    }

    /// Kills the process if that is planned at this boundary. Returns whether it did.
    async fn kill(&self, cell: Cell) -> bool {
        if self.plan(|plan| plan.kills_at(cell)) != Some(true) {
            return false;
        }
        self.shared
            .figures
            .lock()
            .unwrap()
            .killed(self.seat.mode, Some(cell));
        self.seat.kill().await;
        true
    }

    /// Holds the request if that is planned at this boundary. Returns how it was released.
    async fn hold(&self, cell: Cell) -> Option<Release> {
        let hold = self.plan(|plan| plan.holds_at(cell)).flatten()?;
        hold.arrived.send(()).ok();
        // A scenario that has ended lets every request pass.
        Some(hold.release.await.unwrap_or(Release::Forward))
    }

    /// Gives access to the plan, unless it is that of a later process.
    fn plan<T>(&self, look: impl FnOnce(&mut Plan) -> T) -> Option<T> {
        let mut plan = self.seat.plan.lock().unwrap();
        (self.process == self.seat.number.load(Ordering::SeqCst)).then(|| look(&mut plan))
    }

    fn is_stubborn(&self, request: &Message) -> bool {
        let stubborn = self.shared.stubborn.lock().unwrap();
        let rest = request.start().split_once("/messages/");
        rest.and_then(|(_, rest)| rest.split(['?', ' ', '/']).next())
            .is_some_and(|id| stubborn.contains(id))
    }

    /// Records for how long a worker hid a message, and which messages were sent.
    fn note_queue_call(&self, request: &Message) {
        let Ok(call) = serde_json::from_slice::<Value>(&request.body) else {
            return;
        };
        let mut reserve = self.shared.reserve.lock().unwrap();
        match target(request) {
            "ChangeMessageVisibility" => {
                let receipt = call["ReceiptHandle"].as_str().unwrap_or_default();
                let seconds = call["VisibilityTimeout"].as_u64().unwrap_or_default();
                reserve.hidden(receipt, seconds);
            }
            "SendMessage" => {
                let body = call["MessageBody"].as_str().unwrap_or_default();
                reserve.sent(body);
                let what = format!("{:?} queues it", self.seat.mode);
                self.shared.event_log.tell_of_body(body, &what);
            }
            _ => {}
        }
    }
}
