//! Imports saved messages: fetches headers that a message lacks, then runs it through the pipeline.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use indicatif::ProgressBar;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::wire;
use mailverse::clients::nylas::{Fetched, Headers};
use mailverse::ledger::{Entry, State};
use mailverse::model::ids::{GrantId, InternetMessageId, MessageKey};
use mailverse::model::message::Message;
use mailverse::model::sync_request::{SyncRequest, Trigger};
use mailverse::pipeline::{Delivery, Processed};
use serde_json::Value;

use super::report::{At, Report};
use super::saved_files::{Kind, SavedFile};
use super::{ImportError, Importer};

/// The batch size. Large enough to need few requests, small enough that the attachments are fetched
/// before the claims expire.
const AT_ONCE: usize = 20;

/// The number of concurrent requests to Nylas. Microsoft allows four per mailbox (Nylas facts §14).
const FETCHES: usize = 3;

/// How long no request is sent to Nylas after a 429 without `Retry-After`.
const NYLAS_PAUSE: Duration = Duration::from_secs(60);

/// What to do with a message.
enum Ready {
    /// Run it through the pipeline.
    Invocation(Box<Message>),
    /// It was settled before. Only a dry run returns this; it does nothing more.
    Settled(Entry),
    /// It cannot be imported, now or at all; the text says why.
    Not(String),
    /// Nylas asked for a pause, so it was not processed.
    Left,
}

impl Importer {
    /// Imports the messages of all files, in the order of the files.
    ///
    /// # Errors
    /// [`ImportError`]: the import stops. A message that fails alone is only reported.
    pub(super) async fn import_messages(
        &mut self,
        files: &[SavedFile],
        report: &mut Report,
        progress: &ProgressBar,
    ) -> Result<(), ImportError> {
        let mut seen: HashSet<MessageKey> = HashSet::new();
        let mut headers = HashMap::new();
        let mut left: usize = files.iter().map(|file| file.count(Kind::Message)).sum();
        if report.is_paused() {
            report.left(left);
            return Ok(());
        }
        let mut some: Vec<(At, Message)> = Vec::with_capacity(AT_ONCE);
        for (file, saved) in files.iter().enumerate() {
            for (index, object) in saved.objects(Kind::Message) {
                let at = At { file, index };
                match self.read(&object) {
                    Err(why) => {
                        report.messages.not_imported += 1;
                        report.note(at, "not imported", &why);
                        left -= 1;
                        progress.inc(1);
                    }
                    Ok(message) if !seen.insert(message.key.clone()) => {
                        report.messages.repeated += 1;
                        left -= 1;
                        progress.inc(1);
                    }
                    Ok(message) => some.push((at, message)),
                }
                if some.len() == AT_ONCE {
                    left -= some.len();
                    progress.inc(some.len() as u64);
                    let step = std::mem::take(&mut some);
                    self.import_batch(step, &mut headers, report).await;
                    if self.must_stop(report).await? {
                        report.left(left);
                        return Ok(());
                    }
                }
            }
        }
        progress.inc(some.len() as u64);
        self.import_batch(some, &mut headers, report).await;
        self.must_stop(report).await.map(drop)
    }

    fn read(&self, object: &Value) -> Result<Message, String> {
        let grant = self.mailbox_of(object)?;
        wire::message(&grant, object).map_err(|error| error.to_string())
    }

    /// Returns the mailbox that the object names if it is connected, otherwise the one that the
    /// operator named with `--mailbox`.
    ///
    /// # Errors
    /// The reason for the report: the mailbox does not take part, or is unknown.
    fn mailbox_of(&self, object: &Value) -> Result<GrantId, String> {
        const SAY: &str = "name its mailbox with --mailbox";
        // Checked first: `--mailbox` must not import messages of a mailbox that does not take part.
        if let Some(why) = self.refusal(object) {
            return Err(why);
        }
        let named = object.get("grant_id").and_then(Value::as_str);
        let named = named.filter(|id| !id.is_empty());
        let connected = |id: &str| self.mailboxes.iter().find(|it| it.id.as_str() == id);
        match (named, &self.mailbox) {
            (Some(id), given) => match (connected(id), given) {
                (Some(grant), _) => Ok(grant.id.clone()),
                (None, Some(given)) => Ok(given.clone()),
                (None, None) => Err(format!("Nylas has no mailbox {id}: {SAY}")),
            },
            (None, Some(given)) => Ok(given.clone()),
            (None, None) => Err(format!("it names no mailbox: {SAY}")),
        }
    }

    async fn import_batch(
        &self,
        some: Vec<(At, Message)>,
        headers: &mut HashMap<GrantId, Headers>,
        report: &mut Report,
    ) {
        for (_, message) in &some {
            let grant = &message.key.grant_id;
            if !headers.contains_key(grant) {
                let needed = self.pipeline.headers(grant, Utc::now()).await;
                headers.insert(grant.clone(), needed);
            }
        }
        let places: HashMap<MessageKey, At> = some
            .iter()
            .map(|(at, message)| (message.key.clone(), *at))
            .collect();
        let stop = OnceLock::new();
        let ready = stream::iter(some).map(async |(at, message)| {
            let needed = headers.get(&message.key.grant_id);
            let key = message.key.clone();
            (at, key, self.ready(message, needed.copied(), &stop).await)
        });
        let ready: Vec<_> = ready.buffered(FETCHES).collect().await;
        let mut work = Vec::new();
        for (at, key, ready) in ready {
            match ready {
                Ready::Invocation(message) => work.push(as_delivery(*message)),
                Ready::Settled(entry) => report.settled(at, &key, &entry),
                Ready::Left => report.left(1),
                Ready::Not(why) => {
                    report.messages.not_imported += 1;
                    report.about(at, &key, "not imported", &why);
                }
            }
        }
        if let Some(until) = stop.get() {
            report.paused("Nylas", *until);
        }
        let processed: Vec<Processed> = self.pipeline.run(work, Self::begin()).await;
        for message in processed {
            if let Some(at) = places.get(&message.key) {
                report.processed(*at, &message);
            }
        }
    }

    /// Fetches the headers that a message lacks from Nylas, unless it is settled already.
    async fn ready(
        &self,
        saved: Message,
        headers: Option<Headers>,
        stop: &OnceLock<DateTime<Utc>>,
    ) -> Ready {
        let headers = headers.unwrap_or(Headers::Basic);
        let lacks_headers = saved.internet_message_id.is_none()
            || (headers == Headers::All && !saved.has_all_headers);
        if !lacks_headers && self.dry.is_none() {
            return Ready::Invocation(Box::new(saved));
        }
        match self.ledger.entry(&saved.key).await {
            Err(error) => return Ready::Not(error.to_string()),
            Ok(Some(entry)) if entry.state == State::Written || entry.state == State::Dead => {
                // The pipeline would find this too, except in a dry run, where its ledger is empty.
                return match self.dry {
                    Some(_) => Ready::Settled(entry),
                    None => Ready::Invocation(Box::new(saved)),
                };
            }
            Ok(_) if !lacks_headers => return Ready::Invocation(Box::new(saved)),
            Ok(_) => {}
        }
        if self.as_saved {
            return Ready::Invocation(Box::new(as_saved(saved)));
        }
        if stop.get().is_some() {
            return Ready::Left;
        }
        match self.pipeline.nylas.message(&saved.key, headers).await {
            Ok(Fetched::Message(message)) => Ready::Invocation(message),
            Ok(Fetched::Gone) => Ready::Invocation(Box::new(as_saved(saved))),
            Err(NylasError::Throttled { retry_after }) => {
                // If several requests are throttled, the first one sets the pause.
                stop.get_or_init(|| Utc::now() + retry_after.unwrap_or(NYLAS_PAUSE));
                Ready::Left
            }
            Err(error) => Ready::Not(error.to_string()),
        }
    }
}

/// Returns the message as it was saved, because nothing more can be fetched.
///
/// In IMAP mailboxes the message id is the Message-ID with its brackets (Nylas facts §8, where
/// another source has a hash). An id of that form is used as the Message-ID, so that a copy in
/// another mailbox gets the same row.
fn as_saved(mut message: Message) -> Message {
    let id = message.key.message_id.as_str();
    let is_message_id = id.starts_with('<') && id.ends_with('>') && id.contains('@');
    if message.internet_message_id.is_none() && is_message_id {
        message.internet_message_id = InternetMessageId::from_header(id);
    }
    // There are no further headers, so the pipeline must not fetch the message again.
    message.has_all_headers = true;
    message
}

/// Returns the delivery of a message that is already fetched, as the backfill does for a listed
/// message.
fn as_delivery(message: Message) -> Delivery {
    Delivery {
        request: SyncRequest {
            key: message.key.clone(),
            trigger: Trigger::Backfill,
        },
        message: Some(message),
        receive_count: 1,
    }
}
