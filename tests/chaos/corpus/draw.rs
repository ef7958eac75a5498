//! Draws the emails of a corpus.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use emulators::Emulators;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Value, json};

use crate::incident::Incident;
use crate::race::{Moment, Race};

use super::kind::{Kind, Outline};
use super::{
    ADDRESS, BODY, Copy, Corpus, Email, FILE, LONGEST_SUBJECT, NAME, Party, People, Reference,
    SUBJECT, Size,
};

/// The addresses of an email.
#[derive(Default)]
struct Envelope {
    from: String,
    to: Vec<String>,
    cc: Vec<String>,
    bcc: Vec<String>,
}

/// The number of recipients of an email to a crowd.
const CROWD: usize = 3_000;

/// The length of a large body, in bytes.
const LARGE_BODY: usize = 15 * 1024 * 1024;

/// What is needed to draw an email.
#[derive(Clone, Copy)]
struct Around<'a> {
    size: Size,
    people: &'a People,
    emulators: &'a Emulators,
    now: DateTime<Utc>,
}

/// Draws a corpus. Uses the people and folders of `emulators`, and inserts the rows of other
/// clients there.
pub(crate) fn draw(
    size: Size,
    people: &People,
    emulators: &Emulators,
    now: DateTime<Utc>,
    rng: &mut StdRng,
) -> Corpus {
    let mut corpus = Corpus {
        emails: Vec::new(),
        messages: Vec::new(),
        stubborn: Vec::new(),
        single: Vec::new(),
        pairs: Vec::new(),
        large: Vec::new(),
        arrived: HashSet::new(),
    };
    let mut threads: Vec<Earlier> = Vec::new();
    let around = Around {
        size,
        people,
        emulators,
        now,
    };
    while corpus.messages.len() < size.messages {
        let outline = Outline::of(corpus.emails.len(), rng);
        add_mail(&mut corpus, &mut threads, around, outline, rng);
    }
    let incidents = [
        (Incident::LateFiles, size.late_files),
        (Incident::BrokenFiles, size.broken_files),
        (Incident::Crowds, size.crowds),
        (Incident::LargeBodies, size.large_bodies),
    ];
    for (incident, number) in incidents {
        for _ in 0..number {
            let outline = Outline::for_incident(incident, rng);
            add_mail(&mut corpus, &mut threads, around, outline, rng);
        }
    }
    // Scenarios and kills on purpose need their emails, whatever chance has drawn.
    while corpus.single.len() < size.kept.0 + size.stubborn {
        add_mail(
            &mut corpus,
            &mut threads,
            around,
            Outline::kept(1, rng),
            rng,
        );
    }
    while corpus.pairs.len() < size.kept.1 {
        add_mail(
            &mut corpus,
            &mut threads,
            around,
            Outline::kept(2, rng),
            rng,
        );
    }
    corpus.single.shuffle(rng);
    corpus.pairs.shuffle(rng);
    let kept = corpus.single.len().saturating_sub(size.stubborn);
    corpus.stubborn = corpus.single.split_off(kept);
    corpus.single.truncate(size.kept.0);
    corpus.pairs.truncate(size.kept.1);
    corpus
}

fn add_mail(
    corpus: &mut Corpus,
    threads: &mut Vec<Earlier>,
    Around {
        size,
        people,
        emulators,
        now,
    }: Around<'_>,
    Outline {
        kind,
        copies,
        recent,
        age,
    }: Outline,
    rng: &mut StdRng,
) {
    let number = corpus.emails.len();
    let marker = format!("{SUBJECT}{number:05}x");
    let mut mailboxes = people.mailboxes.clone();
    mailboxes.shuffle(rng);
    mailboxes.truncate(copies);
    let outgoing = kind == Kind::Draft || kind == Kind::Internal || rng.random_bool(0.4);
    let envelope = address(kind, outgoing, &mailboxes, people, rng);
    let message_id = format!("<{marker}.{:08x}@kites.example>", rng.random::<u32>());
    let mut subject = format!("{marker} kites for spring");
    if kind == Kind::Refused {
        subject.push_str(&"!".repeat(LONGEST_SUBJECT));
    }
    let mut headers = vec![
        json!({"name": "Message-ID", "value": if kind == Kind::WithoutMessageId { "" } else { &message_id }}),
    ];
    let mut thread = format!("thread-{number}");
    let answered = answered(threads, &mut headers, rng);
    let answers = answered.map(|earlier| earlier.email);
    if let Some(earlier) = answered {
        subject = format!("Re: {subject}");
        thread.clone_from(&earlier.thread);
    }
    threads.push(Earlier {
        email: number,
        message_id: message_id.clone(),
        thread: thread.clone(),
    });
    let body = body(kind, number);
    let files = files(kind, size, number, rng);
    let listed = |addresses: &[String]| -> Vec<Value> {
        let person =
            |address: &String| json!({"name": format!("{NAME} of {number}"), "email": address});
        addresses.iter().map(person).collect()
    };
    // An email that is spam in only one mailbox is written for the others.
    let spam_of_one = kind == Kind::Ordinary && copies > 1 && rng.random_bool(0.1);
    for (n, (grant, _)) in mailboxes.iter().enumerate() {
        let kind = if spam_of_one && n == 1 {
            Kind::Spam
        } else {
            kind
        };
        let folder = emulators
            .nylas()
            .folder_id(grant, kind.folder(outgoing && n == 0));
        let id = format!("m{number}c{n}");
        // As much as providers return.
        let snippet: String = body.chars().take(200).collect();
        let object = json!({
            "id": id, "grant_id": grant, "object": "message", "thread_id": thread, "subject": subject, "body": body, "snippet": snippet,
            "from": listed(std::slice::from_ref(&envelope.from)), "to": listed(&envelope.to), "cc": listed(&envelope.cc), "bcc": listed(&envelope.bcc),
            "date": (now - TimeDelta::seconds(age)).timestamp(), "folders": [folder], "headers": headers,
        });
        corpus.messages.push(Copy {
            grant: grant.clone(),
            id,
            email: number,
            expected: kind.expected(),
            object,
        });
    }
    let first = corpus.messages.len() - copies;
    if kind == Kind::Of(Incident::LargeBodies) {
        corpus.large.push(first);
    }
    if kind == Kind::Ordinary && !recent && !spam_of_one {
        match copies {
            1 => corpus.single.push(first),
            2 => corpus.pairs.push([first, first + 1]),
            _ => {}
        }
    }
    let external_row = (kind == Kind::Theirs).then(|| {
        let row =
            json!({"subject": subject, "messageid": message_id, "statecode": 1, "statuscode": 4});
        emulators.dataverse().insert("email", row).unwrap()
    });
    let race = (kind == Kind::Raced).then(|| {
        let before = corpus.emails.iter().filter(|email| email.race.is_some());
        race(
            before.count(),
            &subject,
            &message_id,
            &envelope,
            people,
            rng,
        )
    });
    corpus.emails.push(Email {
        marker,
        body,
        outgoing: People::is_internal(&envelope.from),
        parties: parties(&envelope, people),
        regarding: regarding(&envelope, people),
        answers,
        files,
        external_row,
        race,
        incident: kind.incident(),
    });
}

fn address(
    kind: Kind,
    outgoing: bool,
    mailboxes: &[(String, String)],
    people: &People,
    rng: &mut StdRng,
) -> Envelope {
    let own: Vec<String> = mailboxes
        .iter()
        .map(|(_, address)| address.clone())
        .collect();
    let mut outside: Vec<String> = people
        .outside
        .choose_multiple(rng, 4)
        .map(|address| {
            // Addresses are case-insensitive.
            if rng_of(address) {
                address.to_uppercase()
            } else {
                address.clone()
            }
        })
        .collect();
    if kind == Kind::Internal {
        return Envelope {
            from: own[0].clone(),
            to: vec![people.colleague.clone()],
            cc: own[1..].to_vec(),
            bcc: Vec::new(),
        };
    }
    let mut cc = own[1..].to_vec();
    if rng.random_bool(0.3) {
        cc.extend(outside.pop());
    }
    if rng.random_bool(0.2) {
        cc.push(people.colleague.clone());
    }
    if kind == Kind::Of(Incident::Crowds) {
        let crowd = (0..CROWD).map(|n| format!("{ADDRESS}-crowd{n}@many.example"));
        cc.extend(crowd);
    }
    let first = outside.pop().into_iter().collect::<Vec<_>>();
    if outgoing {
        let mut to = first;
        if rng.random_bool(0.3) {
            to.extend(outside.pop());
        }
        let alone = mailboxes.len() == 1;
        let bcc = outside.pop().filter(|_| alone && rng.random_bool(0.2));
        return Envelope {
            from: own[0].clone(),
            to,
            cc,
            bcc: bcc.into_iter().collect(),
        };
    }
    Envelope {
        from: first.concat(),
        to: vec![own[0].clone()],
        cc,
        bcc: Vec::new(),
    }
}

fn body(kind: Kind, number: usize) -> String {
    let body = format!("<p>{BODY} {number}</p>");
    if kind == Kind::Of(Incident::LargeBodies) {
        return body.repeat(LARGE_BODY / body.len());
    }
    body
}

/// Returns whether the address is one of the same tenth of all addresses.
fn rng_of(address: &str) -> bool {
    address.contains("7@")
}

fn files(kind: Kind, size: Size, number: usize, rng: &mut StdRng) -> Vec<(String, Vec<u8>)> {
    let may_have = matches!(kind, Kind::Ordinary | Kind::Raced);
    let must_have = matches!(kind, Kind::Of(Incident::LateFiles | Incident::BrokenFiles));
    if must_have {
        return (0..2).map(|n| file(n, number, rng)).collect();
    }
    if !size.with_files || !may_have || !rng.random_bool(0.15) {
        return Vec::new();
    }
    (0..rng.random_range(1..=3))
        .map(|n| file(n, number, rng))
        .collect()
}

fn file(n: usize, number: usize, rng: &mut StdRng) -> (String, Vec<u8>) {
    let content = format!("{FILE} {n} of {number} ").repeat(rng.random_range(5..60));
    (format!("{FILE}-{n}.pdf"), content.into_bytes())
}

/// Returns the external row of an email: a different kind of moment each time, and a regarding in
/// some of them.
fn race(
    number: usize,
    subject: &str,
    message_id: &str,
    envelope: &Envelope,
    people: &People,
    rng: &mut StdRng,
) -> Race {
    let mut columns = json!({"subject": subject});
    let mut addresses = people.outside.choose_multiple(rng, 10);
    let somebody = addresses.find_map(|address| people.row(address));
    let own = somebody.filter(|_| number / 4 % 2 == 1);
    if let Some((table, id)) = &own {
        columns["regardingobjectid"] = json!({"table": table, "id": id});
    }
    Race {
        moment: Moment::of(number, rng.random()),
        message_id: message_id.to_owned(),
        sender: envelope.from.to_lowercase(),
        columns,
        own,
    }
}

fn roles(envelope: &Envelope) -> impl Iterator<Item = (i64, &String)> {
    let from = std::iter::once((1, &envelope.from));
    let lists = [(2, &envelope.to), (3, &envelope.cc), (4, &envelope.bcc)];
    from.chain(
        lists
            .into_iter()
            .flat_map(|(mask, addresses)| addresses.iter().map(move |address| (mask, address))),
    )
}

fn parties(envelope: &Envelope, people: &People) -> Vec<Party> {
    roles(envelope)
        .map(|(mask, address)| {
            let address = address.to_lowercase();
            let row = people.row(&address);
            (mask, address, row)
        })
        .collect()
}

/// An email that a later one can answer.
struct Earlier {
    /// The number of the email.
    email: usize,
    message_id: String,
    thread: String,
}

/// Draws whether an email answers an earlier one, and adds the headers for it.
fn answered<'a>(
    threads: &'a [Earlier],
    headers: &mut Vec<Value>,
    rng: &mut StdRng,
) -> Option<&'a Earlier> {
    let earlier = rng.random_bool(0.4).then(|| threads.choose(rng))??;
    for name in ["In-Reply-To", "References"] {
        headers.push(json!({"name": name, "value": earlier.message_id}));
    }
    Some(earlier)
}

/// Returns the first external lead, else the first contact, else the first account.
fn regarding(envelope: &Envelope, people: &People) -> Option<Reference> {
    let outside = || {
        roles(envelope)
            .map(|(_, address)| address.to_lowercase())
            .filter(|address| !People::is_internal(address))
            .filter_map(|address| people.row(&address))
    };
    let first = |table: &str| outside().find(|(known, _)| known == table);
    ["lead", "contact", "account"].into_iter().find_map(first)
}
