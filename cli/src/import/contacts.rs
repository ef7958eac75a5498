//! Imports saved contacts: merges the cards of all files into one address book, and writes it in
//! batches.

use indicatif::ProgressBar;
use mailverse::clients::nylas::wire;
use mailverse::model::contact_card::Card;
use mailverse::pipeline::contact_import::{CardOutcome, CompaniesMade};
use mailverse::resolve::contacts::card::{NoAddress, Place, people};

use super::report::{At, Report, card_outcome};
use super::saved_files::{Kind, SavedFile};
use super::{ImportError, Importer};

/// The batch size: how many people are looked up and written together.
const AT_ONCE: usize = 50;

impl Importer {
    /// Imports the contacts of all files.
    ///
    /// # Errors
    /// [`ImportError`]: the import stops. A contact that fails alone is only reported.
    pub(super) async fn import_contacts(
        &mut self,
        files: &[SavedFile],
        report: &mut Report,
        progress: &ProgressBar,
    ) -> Result<(), ImportError> {
        let (mut places, mut cards) = (Vec::new(), Vec::new());
        for (file, saved) in files.iter().enumerate() {
            for (index, object) in saved.objects(Kind::Contact) {
                let at = At { file, index };
                if let Some(why) = self.refusal(&object) {
                    progress.inc(1);
                    report.people.excluded += 1;
                    report.note(at, "not imported", &why);
                    continue;
                }
                match usable(&object) {
                    Ok(card) => {
                        places.push(at);
                        cards.push(card);
                    }
                    Err(why) => {
                        progress.inc(1);
                        no_address(report, at, why);
                    }
                }
            }
        }
        let (people, of) = people(cards);
        let mut first_cards: Vec<Option<At>> = vec![None; people.len()];
        for (at, place) in places.into_iter().zip(of) {
            let first = match place {
                Place::Person(person) => first_cards.get_mut(person),
                Place::Several => None,
            };
            match first {
                Some(first @ None) => *first = Some(at),
                Some(Some(first)) => {
                    report.people.merged += 1;
                    report.merged(at, *first);
                    progress.inc(1);
                }
                None => {
                    report.people.ambiguous += 1;
                    report.note(
                        at,
                        "ambiguous",
                        "it shares addresses with several cards: nothing was changed",
                    );
                    progress.inc(1);
                }
            }
        }
        let mut made = CompaniesMade::default();
        let mut rest = people.as_slice();
        let mut first_cards = first_cards.into_iter().flatten();
        while !rest.is_empty() {
            let (some, later) = rest.split_at(rest.len().min(AT_ONCE));
            rest = later;
            let run = Self::begin();
            let outcomes = self.pipeline.import_people(some, &mut made, &run).await;
            for (outcome, at) in outcomes.into_iter().zip(&mut first_cards) {
                tell(report, at, &outcome);
            }
            progress.inc(some.len() as u64);
            if self.must_stop(report).await? {
                report.left(rest.len());
                return Ok(());
            }
        }
        Ok(())
    }
}

fn usable(object: &serde_json::Value) -> Result<Card, NoAddress> {
    let mut card = wire::contact(object);
    card.keep_usable().map(|()| card)
}

fn no_address(report: &mut Report, at: At, why: NoAddress) {
    let (count, why) = match why {
        NoAddress::None => (
            &mut report.people.without_address,
            "it has no email address, so a second import could not recognise it",
        ),
        NoAddress::Role => (
            &mut report.people.role,
            "its address is a role address, such as info@",
        ),
        NoAddress::TooLong => (
            &mut report.people.without_address,
            "its address is too long for a contact (at most 100 characters)",
        ),
    };
    *count += 1;
    report.note(at, "not imported", why);
}

fn tell(report: &mut Report, at: At, outcome: &CardOutcome) {
    let people = &mut report.people;
    let count = match outcome {
        CardOutcome::Created { .. } => &mut people.created,
        CardOutcome::Filled { .. } => &mut people.filled,
        CardOutcome::Complete { .. } => &mut people.complete,
        CardOutcome::Ambiguous { .. } => &mut people.ambiguous,
        CardOutcome::Internal => &mut people.internal,
        CardOutcome::Known { .. } => &mut people.known,
        CardOutcome::Failed { .. } => &mut people.failed,
    };
    *count += 1;
    let (outcome, why) = card_outcome(outcome);
    if let Some(why) = why {
        report.note(at, outcome, &why);
    }
}
