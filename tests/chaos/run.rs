//! One run: rounds of deliveries and work under faults, time passing between them, then the drain.
//!
//! Within a round everything happens at once: Nylas delivers, the workers take what the queue shows, now and then the backfill lists. A round ends when
//! nothing is left that could be done now; then time passes to a moment at which something is. No invocation runs while time passes, but in the scenarios
//! that are about just that, so function timeout < lease < visibility timeout holds however slow the machine is.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::Message;
use chrono::Utc;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use stage::events::{delivery, schedule};
use stage::lambda::Function;
use tokio::sync::watch;

use crate::cloud::{Cloud, TABLE, WEBHOOK_SECRET};
use crate::corpus::{self, Corpus, People, Size};
use crate::defect::Defect;
use crate::faults::{Faults, Strike};
use crate::plan::{Cell, Mode, Plan};
use crate::private::Private;
use crate::queue::{VISIBILITY, receive_count};
use crate::station::Shared;
use crate::time::Time;
use crate::worker::{Worker, event_of, succeeded};

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    /// Rounds of deliveries.
    pub(crate) rounds: usize,
    /// How often each scenario is played.
    pub(crate) scenarios: usize,
    pub(crate) modes: [Mode; 3],
    pub(crate) defect: Option<Defect>,
}

/// Messages that Lambda waits for before it invokes a worker that found the queue empty; its batching window does the same.
const BATCH: u64 = 10;

/// Most rounds that the drain may take: far more than the deliveries that a message can have.
const LONGEST_DRAIN: usize = 60;

/// The parts of a run.
pub(crate) struct Run {
    pub(crate) shape: Shape,
    pub(crate) time: Time,
    pub(crate) cloud: Cloud,
    pub(crate) corpus: Corpus,
    pub(crate) workers: Vec<Worker>,
    pub(crate) faults: Faults,
    pub(crate) private: Arc<Private>,
    /// What went wrong before the audit.
    pub(crate) findings: Vec<String>,
    receiver: Worker,
    backfill: Worker,
    refresher: Function,
    rng: StdRng,
    /// Indexes of messages that Nylas still has to deliver.
    pub(crate) left: Vec<usize>,
}

impl Run {
    pub(crate) async fn prepare(shape: Shape) -> Self {
        let time = Time::default();
        let mut rng = StdRng::seed_from_u64(shape.seed);
        let shared = Arc::new(Shared::new(shape.defect, &time));
        let cloud = Cloud::start(Arc::clone(&shared)).await;
        let people = People::found(&cloud.twin);
        let mut corpus = corpus::draw(shape.size, &people, &cloud.twin, Utc::now(), &mut rng);
        corpus.store(&cloud.twin);
        let mut stubborn = shared.stubborn.lock().unwrap();
        for index in &corpus.stubborn {
            stubborn.insert(corpus.messages[*index].id.clone());
        }
        drop(stubborn);
        let private = Arc::new(Private::default());
        private.add_secrets([
            WEBHOOK_SECRET.to_owned(),
            cloud.twin.nylas().api_key(),
            cloud.twin.entra().client_secret(),
        ]);
        let mut seats = Vec::new();
        for mode in shape
            .modes
            .into_iter()
            .chain([Mode::Receiver, Mode::Backfill])
        {
            let rng = StdRng::seed_from_u64(rng.random());
            seats.push(Worker::start(mode, &cloud, &private, rng).await);
        }
        let backfill = seats.pop().unwrap();
        let receiver = seats.pop().unwrap();
        let refresher = Function::start("token-refresher", &cloud.refresher_settings()).await;
        let mut left = Vec::new();
        for index in 0..corpus.messages.len() {
            let deliveries = match rng.random_range(0..100) {
                0..40 => 1,
                40..65 => 2,
                65..80 => 3,
                80..88 => 4,
                88..93 => 5,
                93..96 => 6,
                96 => 7,
                97 => 8,
                98 => 9,
                _ => 10,
            };
            left.extend(std::iter::repeat_n(index, deliveries));
        }
        left.shuffle(&mut rng);
        corpus.reserve(&mut left);
        let mut run = Self {
            shape,
            time,
            faults: Faults::new(shape.seed, &cloud.twin, Arc::clone(&shared)),
            cloud,
            corpus,
            workers: seats,
            private,
            findings: Vec::new(),
            receiver,
            backfill,
            refresher,
            rng,
            left,
        };
        run.refresh_token().await;
        run
    }

    /// Everything up to the audit.
    pub(crate) async fn play(&mut self) {
        self.faults.start();
        let each = self.left.len().div_ceil(self.shape.rounds);
        let mut round = 0;
        while !self.left.is_empty() {
            if round == self.shape.rounds / 2 {
                self.wipe_ledger().await;
            }
            let chunk = self.left.split_off(self.left.len().saturating_sub(each));
            // Four times, and never in the same round.
            let quarter = self.shape.rounds / 4;
            self.faults.mailbox_is_lost(round % quarter == 0);
            let listing = round % quarter == quarter - 1;
            self.round(chunk, listing).await;
            self.scenarios(round).await;
            if self.rng.random_bool(0.5) {
                self.refresh_token().await;
            }
            self.let_time_pass(true).await;
            round += 1;
        }
        self.kill_where_nobody_was_killed().await;
        self.faults.stop();
        self.faults.mailbox_is_lost(false);
        self.refresh_token().await;
        self.drain("the drain").await;
        self.redrive().await;
        // What a backfill claimed and left when it died, the next one takes up.
        self.let_time_pass_until(self.time.now() + VISIBILITY).await;
        let listed = list(&mut self.backfill, &self.faults).await;
        self.findings.extend(listed.err());
        self.drain("the last listing").await;
    }

    /// Nylas delivers these, the workers work until nothing is to be had, and the backfill lists once if it is its hour.
    async fn round(&mut self, chunk: Vec<usize>, listing: bool) {
        let (queued, _) = watch::channel((0_u64, false));
        let Self {
            cloud,
            corpus,
            workers,
            receiver,
            backfill,
            faults,
            ..
        } = self;
        let (cloud, corpus, faults, queued) = (&*cloud, &*corpus, &*faults, &queued);
        let deliveries = async {
            let again = deliver(receiver, cloud, corpus, faults, chunk, queued).await;
            queued.send_modify(|(_, done)| *done = true);
            again
        };
        let listed = async {
            if listing {
                list(backfill, faults).await
            } else {
                Ok(())
            }
        };
        let work = workers
            .iter_mut()
            .map(|worker| work(worker, cloud, faults, queued));
        let (again, listed, worked) = tokio::join!(deliveries, listed, join_all(work));
        match again {
            // Nylas delivers again what was not answered 200.
            Ok(again) => drop(self.left.splice(0..0, again)),
            Err(finding) => self.findings.push(finding),
        }
        for result in worked.into_iter().chain([listed]) {
            self.findings.extend(result.err());
        }
        self.cloud.shared.idle().await;
    }

    /// Lets time pass up to a moment at which something in the queue is due: with `some` a random one, else the last.
    pub(crate) async fn let_time_pass(&mut self, some: bool) {
        let due = self.cloud.shared.book.lock().unwrap().due();
        let Some(last) = due.len().checked_sub(1) else {
            return;
        };
        let until = if some {
            due[self.rng.random_range(last / 2..=last)]
        } else {
            due[last]
        };
        self.let_time_pass_until(until).await;
    }

    /// Lets time pass, for the leases and for the queue alike.
    pub(crate) async fn let_time_pass_until(&mut self, until: Duration) {
        let by = until.saturating_sub(self.time.now()) + Duration::from_millis(1);
        self.time.pass(by);
        self.cloud.shared.figures.lock().unwrap().jumps += 1;
        let by = i64::try_from(by.as_millis()).unwrap();
        self.end_leases(by).await;
        self.end_pause(by).await;
        self.cloud.queue.bring_back().await;
    }

    /// Every lease ends so much earlier. Conditional on what was there, so that no worker's write is lost.
    async fn end_leases(&self, by: i64) {
        let mut history = self.cloud.shared.history.lock().await;
        let leases = history.leases();
        let moves = stream::iter(&leases).map(async |(key, token, until)| {
            let (grant, message) = key.split_once('/').unwrap();
            let call = self.cloud.ledger.update_item().table_name(TABLE);
            let call = call
                .key("pk", AttributeValue::S(format!("mailbox#{grant}")))
                .key("sk", AttributeValue::S(format!("message#{message}")))
                .update_expression("SET lease_until_ms = :new")
                .condition_expression("lease_until_ms = :old AND claim_token = :token")
                .expression_attribute_values(":new", AttributeValue::N((until - by).to_string()))
                .expression_attribute_values(":old", AttributeValue::N(until.to_string()))
                .expression_attribute_values(":token", AttributeValue::S(token.clone()));
            call.send().await.is_ok()
        });
        let moved: Vec<bool> = moves.buffered(10).collect().await;
        for ((key, _, until), moved) in leases.iter().zip(moved) {
            if moved {
                history.moved(key, until - by);
            }
        }
    }

    /// The pause that workers share, where there is one, ends so much earlier.
    async fn end_pause(&self, by: i64) {
        let ledger = &self.cloud.ledger;
        let key = |name: &str| AttributeValue::S(name.to_owned());
        let call = ledger.get_item().table_name(TABLE);
        let found = call
            .key("pk", key("pause"))
            .key("sk", key("dataverse"))
            .send();
        let found = found.await.unwrap();
        let until = found
            .item()
            .and_then(|item| item.get("until_ms")?.as_n().ok());
        let Some(until) = until.and_then(|until| until.parse::<i64>().ok()) else {
            return;
        };
        let call = ledger.update_item().table_name(TABLE);
        let call = call
            .key("pk", key("pause"))
            .key("sk", key("dataverse"))
            .update_expression("SET until_ms = :new")
            .condition_expression("until_ms = :old")
            .expression_attribute_values(":new", AttributeValue::N((until - by).to_string()))
            .expression_attribute_values(":old", AttributeValue::N(until.to_string()));
        // Somebody made a new one meanwhile.
        call.send().await.ok();
    }

    /// token-refresher runs, as its schedule makes it.
    pub(crate) async fn refresh_token(&mut self) {
        let event = schedule(&Utc::now().to_rfc3339());
        self.refresher.succeed(event).await;
        self.private.add_secrets(self.cloud.token().await);
    }

    /// The ledger loses every item. What was settled is delivered once more, as a backfill of history would do it.
    async fn wipe_ledger(&mut self) {
        self.look_at_ledger().await;
        let mut history = self.cloud.shared.history.lock().await;
        let items = self.cloud.items().await;
        let deletes = stream::iter(&items).map(async |item| {
            let call = self.cloud.ledger.delete_item().table_name(TABLE);
            let call = call
                .key("pk", item["pk"].clone())
                .key("sk", item["sk"].clone());
            call.send().await.unwrap();
        });
        deletes.buffered(10).collect::<Vec<()>>().await;
        let settled = history.settled();
        history.wiped();
        drop(history);
        self.cloud.shared.figures.lock().unwrap().faults += 1;
        let again = (0..self.corpus.messages.len())
            .filter(|index| settled.contains(&self.corpus.messages[*index].key()));
        self.left.extend(again);
        self.left.shuffle(&mut self.rng);
    }

    /// Searches the ledger for what has no place in it.
    pub(crate) async fn look_at_ledger(&self) {
        let items = self.cloud.items().await;
        self.private.search("the ledger", &format!("{items:?}"));
    }

    /// Without faults, until the queue is empty.
    async fn drain(&mut self, what: &str) {
        for _ in 0..LONGEST_DRAIN {
            let chunk = std::mem::take(&mut self.left);
            self.round(chunk, false).await;
            if self.left.is_empty() && self.cloud.shared.book.lock().unwrap().due().is_empty() {
                return;
            }
            self.let_time_pass(false).await;
        }
        let left = self.cloud.shared.book.lock().unwrap().due().len();
        self.findings.push(format!(
            "{what} did not end in {LONGEST_DRAIN} rounds: {left} queue messages still come back"
        ));
    }

    /// Looks at the dead letters, then does what an operator does once the cause is mended.
    async fn redrive(&mut self) {
        let letters = self.cloud.queue.dead_letters().await;
        let items = self.ledger_by_key().await;
        let known = self.cloud.shared.history.lock().await;
        let mut given_up = Vec::new();
        for letter in &letters {
            let body: Value = serde_json::from_str(letter.body().unwrap_or_default()).unwrap();
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let key = format!("{}/{}", text("grant_id"), text("message_id"));
            self.private
                .search("the dead letters", &format!("{letter:?}"));
            let state = items
                .get(&key)
                .map_or("nothing", |item| item.state.as_str());
            // What was given up may have been taken up again since, and ended otherwise.
            if !known.was_given_up(&key) || !matches!(state, "dead" | "written" | "skipped") {
                self.findings.push(format!(
                    "{key} is in the dead-letter queue; the ledger says {state}, and {} called it dead for having been tried often enough",
                    if known.was_given_up(&key) { "once" } else { "never" }
                ));
            }
            given_up.push(key);
        }
        drop(known);
        for index in &self.corpus.stubborn {
            let key = self.corpus.messages[*index].key();
            if !given_up.contains(&key) {
                self.findings.push(format!(
                    "{key} could not be fetched for days and is in no dead-letter queue"
                ));
            }
        }
        self.cloud.shared.figures.lock().unwrap().dead_letters = letters.len() as u64;
        self.look_at_ledger().await;
        self.cloud.shared.stubborn.lock().unwrap().clear();
        for letter in &letters {
            self.cloud.queue.redrive(letter).await;
        }
        self.drain("the redrive").await;
        let left = self.cloud.queue.dead_letters().await.len();
        if left > 0 {
            self.findings.push(format!(
                "{left} messages are in the dead-letter queue again after a redrive"
            ));
        }
    }

    /// Ends all processes and looks at what they printed.
    pub(crate) async fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.stop().await;
        }
        self.receiver.stop().await;
        self.backfill.stop().await;
    }

    /// Nylas delivers one message now, whatever it takes.
    pub(crate) async fn deliver_now(&mut self, index: usize) {
        let (queued, _) = watch::channel((0, false));
        loop {
            let delivered = deliver(
                &mut self.receiver,
                &self.cloud,
                &self.corpus,
                &self.faults,
                vec![index],
                &queued,
            );
            match delivered.await {
                Ok(again) if again.is_empty() => return,
                Ok(_) => {}
                Err(finding) => return self.findings.push(finding),
            }
        }
    }
}

/// Delivers messages; those that have to be delivered again.
async fn deliver(
    receiver: &mut Worker,
    cloud: &Cloud,
    corpus: &Corpus,
    faults: &Faults,
    chunk: Vec<usize>,
    queued: &watch::Sender<(u64, bool)>,
) -> Result<Vec<usize>, String> {
    let mut again = Vec::new();
    for index in chunk {
        let notification = corpus.messages[index].notification(&mut receiver.rng);
        let event = delivery(WEBHOOK_SECRET, &notification);
        let plan = faults.for_delivery(&mut receiver.rng);
        cloud.shared.figures.lock().unwrap().deliveries += 1;
        let answer = receiver.invoke(event, plan, None).await?;
        match answer.as_ref().map(|answer| answer["statusCode"].as_u64()) {
            Some(Some(200)) => {}
            None | Some(Some(503)) => again.push(index),
            Some(_) => return Err(format!("the receiver answered {answer:?}")),
        }
        queued.send_modify(|(count, _)| *count += 1);
    }
    Ok(again)
}

/// One scheduled run of the backfill.
async fn list(backfill: &mut Worker, faults: &Faults) -> Result<(), String> {
    let plan = faults.for_listing(&mut backfill.rng);
    let event = schedule(&Utc::now().to_rfc3339());
    backfill
        .invoke(event, plan, None)
        .await
        .map(drop)
        .or_else(|error| {
            // A run that cannot list the mailboxes at all fails, and the schedule comes again.
            if error.contains("could not be listed") {
                Ok(())
            } else {
                Err(error)
            }
        })
}

/// Takes batches from the queue until it shows nothing and no more deliveries come.
async fn work(
    worker: &mut Worker,
    cloud: &Cloud,
    faults: &Faults,
    queued: &watch::Sender<(u64, bool)>,
) -> Result<(), String> {
    let mut deliveries = queued.subscribe();
    loop {
        // Marked as seen before the queue is asked, so that what arrives meanwhile is not missed.
        let (count, done) = *deliveries.borrow_and_update();
        let most = worker.rng.random_range(3..=10);
        let batch = cloud.queue.receive(most).await;
        if !batch.is_empty() {
            cloud.shared.figures.lock().unwrap().invocations += 1;
            let tried = batch.iter().map(receive_count).max().unwrap_or(1);
            let drawn = faults.for_batch(worker.seat.mode, tried, &mut worker.rng);
            strike(worker, cloud, &batch, drawn).await?;
        } else if done {
            return Ok(());
        }
        if batch.len() < usize::try_from(most).unwrap() && !done {
            // As many as make a batch, or what there is.
            let enough = count + BATCH;
            let more = deliveries.wait_for(|(count, done)| *done || *count >= enough);
            more.await.unwrap();
        }
    }
}

/// One invocation for a batch, and what Lambda does afterwards.
pub(crate) async fn strike(
    worker: &mut Worker,
    cloud: &Cloud,
    batch: &[Message],
    Strike { plan, short }: Strike,
) -> Result<(), String> {
    let mode = worker.seat.mode;
    let killed = |cell| cloud.shared.figures.lock().unwrap().killed(mode, cell);
    let dies_after = plan
        .kill
        .is_some_and(|(cell, _)| cell == Cell::BeforeDeletion);
    let plan = if dies_after { Plan::default() } else { plan };
    match worker.invoke(event_of(batch), plan, short).await? {
        None if short.is_some() => killed(None),
        None => {}
        Some(_) if dies_after => {
            killed(Some(Cell::BeforeDeletion));
            worker.kill().await;
        }
        Some(answer) => cloud.queue.delete(&succeeded(batch, &answer)).await,
    }
    Ok(())
}
