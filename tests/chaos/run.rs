//! One run: rounds of deliveries and work under faults, with time passing between them, then the
//! drain.
//!
//! Within a round everything happens concurrently: Nylas delivers, the workers process what the
//! queue shows, and sometimes the backfill lists. A round ends when nothing is left that could be
//! done now. Then time passes until something is due. No invocation runs while time passes, except
//! in the scenarios about that. So function timeout < lease < visibility timeout holds however slow
//! the machine is.

use std::sync::Arc;

use chrono::Utc;
use emulators::Setting;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use local_aws::events::schedule;
use local_aws::lambda::Function;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::cloud::{Cloud, TABLE, WEBHOOK_SECRET};
use crate::corpus::{self, Corpus, People, Size};
use crate::defect::Defect;
use crate::fault_proxy::Shared;
use crate::faults::Faults;
use crate::incident::Incident;
use crate::invoking::{deliver, list, work};
use crate::plan::Mode;
use crate::private::Private;
use crate::race::Races;
use crate::stretch::Stretch;
use crate::time::Time;
use crate::worker::Worker;

/// The parameters of a run.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    /// The number of rounds with deliveries.
    pub(crate) rounds: usize,
    /// How often each scenario is played.
    pub(crate) scenarios: usize,
    /// How often each boundary and each scenario must be covered.
    pub(crate) wanted: u64,
    pub(crate) modes: [Mode; 3],
    pub(crate) defect: Option<Defect>,
    pub(crate) incidents: Vec<Incident>,
}

/// What happens in a round besides deliveries and work.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Besides {
    /// The backfill lists once.
    pub(crate) listing: bool,
    /// The ledger loses every item.
    pub(crate) wipe: bool,
}

/// The parts of a run.
pub(crate) struct Run {
    pub(crate) shape: Shape,
    pub(crate) time: Time,
    pub(crate) cloud: Cloud,
    pub(crate) corpus: Corpus,
    pub(crate) workers: Vec<Worker>,
    pub(crate) faults: Faults,
    pub(crate) private: Arc<Private>,
    /// Findings from before the audit.
    pub(crate) findings: Vec<String>,
    pub(crate) receiver: Worker,
    pub(crate) backfill: Worker,
    refresher: Function,
    pub(crate) rng: StdRng,
    /// Indexes of messages that Nylas still has to deliver; a message may occur several times.
    pub(crate) left: Vec<usize>,
    pub(crate) stretch: Option<Stretch>,
    /// The number of messages that became dead because of an incident.
    pub(crate) died: usize,
}

impl Run {
    pub(crate) async fn prepare(shape: Shape) -> Self {
        let time = Time::default();
        let mut rng = StdRng::seed_from_u64(shape.seed);
        let shared = Arc::new(Shared::new(shape.defect, &time));
        let cloud = Cloud::start(Arc::clone(&shared)).await;
        // A broken guard must be detected without another guard in its place.
        let unique = shape.defect.is_none() && shape.seed % 2 == 1;
        let dataverse = cloud.emulators.dataverse();
        dataverse.set_setting(Setting::UniqueMessageIds(unique));
        let people = People::found(&cloud.emulators);
        let corpus = corpus::draw(shape.size, &people, &cloud.emulators, Utc::now(), &mut rng);
        corpus.store(&cloud.emulators);
        *shared.races.lock().unwrap() = Races::of(cloud.emulators.dataverse(), corpus.races());
        let stubborn = corpus.stubborn.iter();
        let stubborn = stubborn.map(|index| corpus.messages[*index].id.clone());
        shared.stubborn.lock().unwrap().extend(stubborn);
        {
            let mut incidents = shared.incidents.lock().unwrap();
            corpus.mark_files(&mut incidents);
            incidents.crowds = shape.incidents.contains(&Incident::Crowds);
        }
        let private = Arc::new(Private::default());
        private.add_secrets([
            WEBHOOK_SECRET.to_owned(),
            cloud.emulators.nylas().api_key(),
            cloud.emulators.entra().client_secret(),
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
        let faults = Faults::new(&shape, &cloud.emulators, Arc::clone(&shared));
        let mut run = Self {
            shape,
            time,
            faults,
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
            stretch: None,
            died: 0,
        };
        run.refresh_token().await;
        run
    }

    /// Runs everything up to the audit.
    pub(crate) async fn play(&mut self) {
        self.faults.start();
        let each = self.left.len().div_ceil(self.shape.rounds);
        let mut round = 0;
        self.arrivals_before(each);
        while !self.left.is_empty() {
            self.begin_stretch(round).await;
            let chunk = self.left.split_off(self.left.len().saturating_sub(each));
            // Four times, and never in the same round.
            let quarter = self.shape.rounds / 4;
            self.faults.mailbox_is_lost(round % quarter == 0);
            let besides = Besides {
                listing: round % quarter == quarter - 1,
                wipe: round == self.shape.rounds / 2,
            };
            self.round(chunk, besides).await;
            self.scenarios(round).await;
            self.scenes(round).await;
            if self.rng.random_bool(0.5) {
                self.refresh_token().await;
            }
            self.arrivals_before(each);
            self.let_time_pass().await;
            round += 1;
        }
        self.end_stretch().await;
        self.meet_demands().await;
        self.end().await;
    }

    /// Plays a round: Nylas delivers these messages, the workers work until the queue is empty, and
    /// the rest happens concurrently.
    pub(crate) async fn round(&mut self, chunk: Vec<usize>, besides: Besides) {
        let (queued, _) = watch::channel((0_u64, false));
        let half = chunk.len() as u64 / 2;
        let Self {
            cloud,
            corpus,
            workers,
            receiver,
            backfill,
            faults,
            private,
            ..
        } = self;
        let (cloud, corpus, faults, queued) = (&*cloud, &*corpus, &*faults, &queued);
        let deliveries = async {
            let again = deliver(receiver, cloud, corpus, faults, chunk, queued).await;
            queued.send_modify(|(_, done)| *done = true);
            again
        };
        let listed = async {
            if besides.listing {
                list(backfill, cloud, faults).await
            } else {
                Ok(())
            }
        };
        let wiped = async {
            if besides.wipe {
                let mut deliveries = queued.subscribe();
                let half_way = deliveries.wait_for(|(count, done)| *done || *count >= half);
                half_way.await.unwrap();
                wipe_ledger(cloud, private).await
            } else {
                Vec::new()
            }
        };
        let work = workers
            .iter_mut()
            .map(|worker| work(worker, cloud, faults, queued));
        let (again, listed, wiped, worked) =
            tokio::join!(deliveries, listed, wiped, join_all(work));
        self.deliver_once_more(&wiped);
        match again {
            // Nylas delivers again what was not answered with 200.
            Ok(again) => drop(self.left.splice(0..0, again)),
            Err(finding) => self.findings.push(finding),
        }
        for result in worked.into_iter().chain([listed]) {
            self.findings.extend(result.err());
        }
        self.cloud.shared.idle().await;
    }

    /// Before the next deliveries, makes messages arrive and writes external rows for some of them.
    fn arrivals_before(&mut self, deliveries: usize) {
        let next = self.left.iter().rev().take(deliveries).copied();
        let next: Vec<usize> = next.collect();
        self.corpus.arrive(&self.cloud.emulators, &next);
        let markers = next.iter().map(|index| {
            let email = self.corpus.messages[*index].email;
            self.corpus.emails[email].marker.as_str()
        });
        self.cloud.shared.races.lock().unwrap().before(markers);
    }

    /// Delivers messages again that the ledger lost, like a requested backfill.
    fn deliver_once_more(&mut self, keys: &[String]) {
        if keys.is_empty() {
            return;
        }
        let messages = self.corpus.messages.iter().enumerate();
        let again = messages.filter(|(_, copy)| keys.contains(&copy.key()));
        self.left.extend(again.map(|(index, _)| index));
        self.left.shuffle(&mut self.rng);
    }

    /// Invokes token-refresher, as its schedule does.
    pub(crate) async fn refresh_token(&mut self) {
        let event = schedule(&Utc::now().to_rfc3339());
        self.refresher.succeed(event).await;
        self.private.add_secrets(self.cloud.token().await);
    }

    /// Searches the ledger for private texts.
    pub(crate) async fn look_at_ledger(&self) {
        let items = self.cloud.items().await;
        self.private.search("the ledger", &format!("{items:?}"));
    }

    /// Ends all processes and searches what they printed.
    pub(crate) async fn stop(&mut self) {
        for worker in &mut self.workers {
            worker.stop().await;
        }
        self.receiver.stop().await;
        self.backfill.stop().await;
    }

    /// Delivers one message now, and repeats that until the receiver accepts it.
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

/// Deletes every item of the ledger while workers are running. Returns the keys that it had. If a
/// worker died on a last delivery, the dead-letter queue has a message that is not settled.
async fn wipe_ledger(cloud: &Cloud, private: &Private) -> Vec<String> {
    let mut history = cloud.shared.history.lock().await;
    let items = cloud.items().await;
    private.search("the ledger", &format!("{items:?}"));
    let deletes = stream::iter(&items).map(async |item| {
        let call = cloud.ledger.delete_item().table_name(TABLE);
        let call = call
            .key("pk", item["pk"].clone())
            .key("sk", item["sk"].clone());
        call.send().await.unwrap();
    });
    deletes.buffered(10).collect::<Vec<()>>().await;
    cloud.shared.figures.lock().unwrap().faults += 1;
    cloud.shared.event_log.tell_of_all("the ledger is emptied");
    // This removes every pause.
    cloud.shared.incidents.lock().unwrap().throttle = None;
    let known = history.known();
    history.wiped();
    known
}
