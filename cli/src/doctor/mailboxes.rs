//! Which mailboxes take part, and why, and whether those that do are signed in. Pure.
//!
//! A line for each entry of `MAILBOXES` and for each connected mailbox, each of which fits 80
//! columns beside a grant id of 36 characters. Of an entry that is an address, only its place is
//! shown: the report may be passed on.

use mailverse::mailboxes::{Admission, AllowList, Entry, SETTING};
use mailverse::nylas::wire::Grant;

use super::SETTINGS;
use super::check::Check;

pub(super) const MAILBOXES: &str = "mailboxes";

/// Characters of an entry that are shown.
const ENTRY_SHOWN: usize = 18;

/// `allowed` is `None` where the setting is not in order.
pub(super) fn examine(grants: &[Grant], allowed: Option<&AllowList>, checks: &mut Vec<Check>) {
    // A virtual calendar is a grant without mail.
    let mailboxes: Vec<&Grant> = grants.iter().filter(|it| it.address.is_some()).collect();
    let Some(allowed) = allowed else {
        checks.push(Check::skipped(MAILBOXES, SETTINGS));
        return;
    };
    checks.push(summary(&mailboxes, allowed));
    for (index, entry) in allowed.entries().iter().enumerate() {
        let matched = mailboxes.iter().filter(|grant| entry.matches(grant));
        checks.push(line_of_entry(index + 1, entry, matched.count()));
    }
    checks.extend(mailboxes.into_iter().map(|grant| mailbox(grant, allowed)));
}

fn summary(mailboxes: &[&Grant], allowed: &AllowList) -> Check {
    let connected = mailboxes.len();
    let inside = mailboxes.iter().filter(|grant| allowed.admits(grant));
    match (connected, inside.count()) {
        (0, _) => Check::warning(
            MAILBOXES,
            "none is connected",
            "connect the first mailbox at Nylas",
        ),
        (_, 0) => Check::warning(
            MAILBOXES,
            format!("0 of {connected} take part"),
            "no mail is read: name the mailboxes that take part in MAILBOXES",
        ),
        (_, inside) => Check::well(MAILBOXES, format!("{inside} of {connected} take part")),
    }
}

fn line_of_entry(place: usize, entry: &Entry, matched: usize) -> Check {
    let name = format!("{SETTING} entry {place}");
    let text = match entry {
        Entry::Address(_) => "an address".to_owned(),
        Entry::Domain(domain) => shortened(domain),
        Entry::Workspace(id) => shortened(&format!("workspace:{id}")),
    };
    if matched == 0 {
        let remedy = "correct the entry, connect its mailboxes at Nylas, or leave it out";
        return Check::warning(name, format!("{text}: no mailbox"), remedy);
    }
    let mailboxes = match matched {
        1 => "1 mailbox".to_owned(),
        more => format!("{more} mailboxes"),
    };
    Check::well(name, format!("{text}: {mailboxes}"))
}

fn mailbox(grant: &Grant, allowed: &AllowList) -> Check {
    let name = format!("mailbox {}", grant.id);
    let why = match allowed.admission(grant) {
        None => return Check::well(name, "out, no entry matches"),
        Some(Admission::All) => "in by all".to_owned(),
        Some(Admission::Entry(place)) => format!("in by entry {place}"),
    };
    if grant.valid {
        return Check::well(name, format!("{why}, {}", grant.provider));
    }
    Check::broken(
        name,
        format!("{why}, signed out"),
        "let its owner sign in again at Nylas: the next scheduled backfill then lists the mailbox since its watermark, so no mail of the time between is missing",
    )
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= ENTRY_SHOWN {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(ENTRY_SHOWN - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use mailverse::nylas::wire;
    use serde_json::json;

    use super::*;
    use crate::doctor::check::Report;

    fn grant(number: u32, email: &str, workspace: &str, status: &str) -> Grant {
        let id = format!("11111111-2222-4333-8444-{number:012}");
        let grant = json!({"id": id, "email": email, "provider": "microsoft", "grant_status": status,
                           "workspace_id": workspace});
        wire::grant(&grant).unwrap()
    }

    fn report(grants: &[Grant], allowed: &str) -> Report {
        let mut checks = Vec::new();
        examine(grants, Some(&allowed.parse().unwrap()), &mut checks);
        Report(checks)
    }

    #[test]
    fn each_mailbox_is_in_or_out_with_the_entry_that_says_so_within_eighty_columns() {
        let grants = [
            grant(1, "ada@ours.example", "w", "valid"),
            grant(2, "ben@kites.example", "w-2", "invalid"),
            grant(3, "eve@theirs.example", "w", "valid"),
        ];
        let allowed = "nobody@ours.example,a-very-long-name-of-a-company.example,Ada@ours.example,workspace:w-2";
        let report = report(&grants, allowed);
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        let expected = "\
✔ mailboxes                                     2 of 3 take part
! MAILBOXES entry 1                             an address: no mailbox
                                                → correct the entry, connect its
                                                  mailboxes at Nylas, or leave
                                                  it out
! MAILBOXES entry 2                             a-very-long-name-…: no mailbox
                                                → correct the entry, connect its
                                                  mailboxes at Nylas, or leave
                                                  it out
✔ MAILBOXES entry 3                             an address: 1 mailbox
✔ MAILBOXES entry 4                             workspace:w-2: 1 mailbox
✔ mailbox 11111111-2222-4333-8444-000000000001  in by entry 3, microsoft
✘ mailbox 11111111-2222-4333-8444-000000000002  in by entry 4, signed out";
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(lines[..expected.len()], expected);
        assert!(expected.iter().all(|line| line.chars().count() <= 80));
        let out = "✔ mailbox 11111111-2222-4333-8444-000000000003  out, no entry matches";
        assert_eq!(lines[expected.len() + 1], out);
        assert_eq!(lines[expected.len() + 2], "1 broken, 2 warnings.");
        assert!(!text.contains("ada@") && !text.contains("nobody@"));
    }

    #[test]
    fn a_list_without_mailboxes_and_a_setting_that_admits_none_are_warnings() {
        let none = report(&[], "all");
        assert!(none.is_healthy());
        let text = none.to_string();
        assert!(
            text.starts_with("! mailboxes  none is connected\n"),
            "{text}"
        );
        let others = report(
            &[grant(1, "eve@theirs.example", "w", "invalid")],
            "ours.example",
        );
        assert!(others.is_healthy(), "whoever is out need not be signed in");
        assert!(others.to_string().contains("0 of 1 take part"));
    }

    #[test]
    fn with_all_every_mailbox_is_in() {
        let all = report(&[grant(1, "eve@theirs.example", "w", "valid")], "all");
        let text = all.to_string();
        assert!(text.contains("1 of 1 take part"), "{text}");
        assert!(text.contains("in by all, microsoft"), "{text}");
        assert!(text.ends_with("All 2 checks are well.\n"), "{text}");
    }
}
