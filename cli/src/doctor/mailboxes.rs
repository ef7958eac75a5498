//! Checks which mailboxes take part, and whether those that do are signed in. Pure.
//!
//! There is one line for each entry of `MAILBOXES` and one for each connected mailbox. Each line
//! fits in 80 columns with a grant id of 36 characters. An entry that is an address is shown only
//! by its position, because the report may be shared.

use mailverse::clients::nylas::wire::Grant;
use mailverse::mailboxes::{Admission, AllowList, Entry, SETTING};

use super::SETTINGS;
use super::check::Check;

pub(super) const MAILBOXES: &str = "mailboxes";

/// How many characters of an entry are shown at most.
const ENTRY_SHOWN: usize = 18;

/// Adds the checks of the mailboxes. `allowed` is `None` if `MAILBOXES` is missing or malformed.
pub(super) fn examine(grants: &[Grant], allowed: Option<&AllowList>, checks: &mut Vec<Check>) {
    // A virtual calendar is a grant without an address and without mail.
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
    let internal = mailboxes.iter().filter(|grant| allowed.admits(grant));
    match (connected, internal.count()) {
        (0, _) => Check::warning(
            MAILBOXES,
            "none is connected",
            "connect the first mailbox at Nylas",
        ),
        (_, 0) => Check::warning(
            MAILBOXES,
            format!("0 of {connected} take part"),
            "no mailbox is read: name the mailboxes that take part in MAILBOXES",
        ),
        (_, internal) => Check::passed(MAILBOXES, format!("{internal} of {connected} take part")),
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
        let remedy = "correct the entry, connect its mailboxes at Nylas, or remove it";
        return Check::warning(name, format!("{text}: no mailbox"), remedy);
    }
    let mailboxes = match matched {
        1 => "1 mailbox".to_owned(),
        more => format!("{more} mailboxes"),
    };
    Check::passed(name, format!("{text}: {mailboxes}"))
}

fn mailbox(grant: &Grant, allowed: &AllowList) -> Check {
    let name = format!("mailbox {}", grant.id);
    let why = match allowed.admission(grant) {
        None => return Check::passed(name, "excluded, no entry matches"),
        Some(Admission::All) => "included by all".to_owned(),
        Some(Admission::Entry(place)) => format!("included by entry {place}"),
    };
    if grant.valid {
        return Check::passed(name, format!("{why}, {}", grant.provider));
    }
    Check::broken(
        name,
        format!("{why}, signed out"),
        "ask its owner to sign in again at Nylas: the next scheduled backfill then lists the mailbox from its watermark, so no message is missing",
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
    use mailverse::clients::nylas::wire;
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
    fn each_mailbox_is_listed_as_included_or_excluded_within_eighty_columns() {
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
                                                  mailboxes at Nylas, or remove
                                                  it
! MAILBOXES entry 2                             a-very-long-name-…: no mailbox
                                                → correct the entry, connect its
                                                  mailboxes at Nylas, or remove
                                                  it
✔ MAILBOXES entry 3                             an address: 1 mailbox
✔ MAILBOXES entry 4                             workspace:w-2: 1 mailbox
✔ mailbox 11111111-2222-4333-8444-000000000001  included by entry 3, microsoft
✘ mailbox 11111111-2222-4333-8444-000000000002  included by entry 4, signed out";
        let expected: Vec<&str> = expected.lines().collect();
        assert_eq!(lines[..expected.len()], expected);
        assert!(expected.iter().all(|line| line.chars().count() <= 80));
        let out = "✔ mailbox 11111111-2222-4333-8444-000000000003  excluded, no entry matches";
        assert_eq!(lines[expected.len() + 1], out);
        assert_eq!(lines[expected.len() + 2], "1 broken, 2 warnings.");
        assert!(!text.contains("ada@") && !text.contains("nobody@"));
    }

    #[test]
    fn warnings_report_no_connected_mailbox_and_an_allow_list_that_admits_none() {
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
        assert!(
            others.is_healthy(),
            "an excluded mailbox need not be signed in"
        );
        assert!(others.to_string().contains("0 of 1 take part"));
    }

    #[test]
    fn the_all_setting_includes_every_mailbox() {
        let all = report(&[grant(1, "eve@theirs.example", "w", "valid")], "all");
        let text = all.to_string();
        assert!(text.contains("1 of 1 take part"), "{text}");
        assert!(text.contains("included by all, microsoft"), "{text}");
        assert!(text.ends_with("All 2 checks passed.\n"), "{text}");
    }
}
