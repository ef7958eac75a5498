use super::*;

fn at(seconds: i64) -> Vec<DateTime<Utc>> {
    DateTime::from_timestamp(1_767_258_000 + seconds, 0)
        .into_iter()
        .collect()
}

fn message<'a>(seconds: i64, subject: &'a str, body: &'a str) -> Traits<'a> {
    Traits {
        dates: at(seconds),
        subject,
        body: Some(body),
        ..Traits::default()
    }
}

fn with_files<'a>(message: Traits<'a>, names: &[&str]) -> Traits<'a> {
    Traits {
        files: names.len(),
        names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..message
    }
}

#[test]
fn scans_that_differ_only_in_their_files_are_different_messages() {
    let scan =
        |seconds, names: &[&str]| with_files(message(seconds, "Scan", "See the file."), names);
    let first = scan(0, &["scan_0001.pdf"]);
    assert_eq!(
        compare(&scan(DAY, &["scan_0002.pdf"]), &first),
        Comparison::Other
    );
    assert_eq!(
        compare(&scan(DAY, &["scan_0001.pdf"]), &first),
        Comparison::Same,
        "moved"
    );
    assert_eq!(
        compare(&scan(DAY, &["a.pdf", "b.pdf"]), &first),
        Comparison::Same,
        "some files were omitted"
    );
    assert_eq!(compare(&scan(DAY, &[]), &first), Comparison::Same);
    assert_eq!(
        compare(&scan(40, &["scan_0002.pdf"]), &first),
        Comparison::Same,
        "may be a copy in another mailbox"
    );
    assert_eq!(
        compare_mails(&scan(40, &["scan_0002.pdf"]), &first),
        Comparison::Other
    );
    let unread = Traits {
        names: None,
        ..first
    };
    assert_eq!(
        compare(&scan(DAY, &["scan_0002.pdf"]), &unread),
        Comparison::ReadNames
    );
    assert_eq!(
        compare(&scan(40, &["scan_0002.pdf"]), &unread),
        Comparison::Same
    );
}

const DAY: i64 = 86_400;
const LETTER: &str = "<p>Dear Mia, the two red kites that you asked for leave us on Monday.</p>";

fn row() -> Traits<'static> {
    message(0, "Invoice 1001", LETTER)
}

#[test]
fn a_message_with_another_date_subject_and_body_is_another_message() {
    let another_form = LETTER.replace("two red", "three blue");
    let others = [
        message(3 * DAY, "Invoice 1002", "<p>Invoice 1002</p>"),
        message(300, "Invoice 1002", "<p>Nothing is shared here at all.</p>"),
        // Programs fill in forms, so most of the words are the same.
        message(DAY, "Invoice 1002", &another_form),
        message(60, "Invoice 1002", "<p>One minute later.</p>"),
    ];
    for other in &others {
        assert_eq!(compare(other, &row()), Comparison::Other, "{other:?}");
    }
}

#[test]
fn a_copy_is_recognised_as_the_same_message_whatever_its_route() {
    let footer = format!("{LETTER}<p>--<br>You get this because you are on the list kites.</p>");
    let banner = format!("<div>Be careful: external sender</div>{LETTER}");
    let copies = [
        (
            "moved, with a new date",
            message(30 * DAY, "Invoice 1001", LETTER),
        ),
        ("in another mailbox", message(40, "Invoice 1001", LETTER)),
        (
            "through a mailing list",
            message(2 * DAY, "[kites] Invoice 1001", &footer),
        ),
        (
            "through a gateway",
            message(9_000, "EXTERNAL: Invoice 1001", &banner),
        ),
        (
            "with a tracking token",
            message(600, "Invoice 1001 CRM:0001001", LETTER),
        ),
        (
            "as text",
            message(
                600,
                "RE: Invoice 1001",
                "Dear Mia,\nthe two red kites that you asked for leave us on Monday.",
            ),
        ),
        (
            "with a subject that a user changed",
            message(DAY, "Kites, filed", LETTER),
        ),
        (
            "with a row that a user rewrote",
            message(0, "Kites, filed", "Rewritten."),
        ),
    ];
    for (what, copy) in &copies {
        assert_eq!(compare(copy, &row()), Comparison::Same, "{what}");
        assert_eq!(
            compare(&row(), copy),
            Comparison::Same,
            "{what}, with the arguments swapped"
        );
    }
}

#[test]
fn only_the_parts_that_both_have_are_compared() {
    let subject_only = |seconds, subject| message(seconds, subject, "");
    // The row's policy stores no body, so only date and subject are compared.
    assert_eq!(
        compare(
            &message(DAY, "Invoice 1002", LETTER),
            &subject_only(0, "Invoice 1001")
        ),
        Comparison::Other
    );
    assert_eq!(
        compare(
            &message(DAY, "Invoice 1001", LETTER),
            &subject_only(0, "Invoice 1001")
        ),
        Comparison::Same
    );
    // The row has no subject either. A date alone proves nothing, because moved email gets a new
    // date.
    for stored in [NO_SUBJECT, NOT_STORED] {
        assert_eq!(
            compare(
                &message(DAY, "Invoice 1002", LETTER),
                &subject_only(0, stored)
            ),
            Comparison::Same
        );
    }
    // A snippet, which ends within a word.
    let snippet = "Dear Mia, the two red kites that you ask";
    assert_eq!(
        compare(
            &message(DAY, "Invoice 1001", LETTER),
            &message(0, "Changed", snippet)
        ),
        Comparison::Same
    );
    // Another client's row without a date: one difference is not enough evidence.
    let external_row = Traits {
        subject: "Tracked",
        body: Some(""),
        ..Traits::default()
    };
    assert_eq!(compare(&row(), &external_row), Comparison::Same);
    let external_row = Traits {
        subject: "Tracked",
        body: Some("Some other text."),
        ..Traits::default()
    };
    assert_eq!(compare(&row(), &external_row), Comparison::Other);
    // Email without a subject.
    assert_eq!(
        compare(
            &message(DAY, "", "Scan 2"),
            &message(0, "(no subject)", "Scan 1")
        ),
        Comparison::Other
    );
    assert_eq!(
        compare(
            &message(DAY, "", "Scan 1"),
            &message(0, "(no subject)", "Scan 1")
        ),
        Comparison::Same
    );
}

#[test]
fn automatic_emails_that_share_a_subject_are_different_messages() {
    let february = "<p>Your order of kites for the harbour festival was delivered today.</p>";
    assert_eq!(
        compare(&message(30 * DAY, "Invoice 1001", february), &row()),
        Comparison::Other
    );
    let form = |amount| {
        format!("<p>Dear customer, please pay {amount} euros for your order of kites.</p>")
    };
    let (january, february) = (form(40), form(50));
    assert_eq!(
        compare(
            &message(30 * DAY, "Your invoice", &february),
            &message(0, "Your invoice", &january)
        ),
        Comparison::Other
    );
    // Two mailboxes receive a form that was filled in for each of them.
    let for_ben = LETTER.replace("Mia", "Ben");
    assert_eq!(
        compare(&message(DAY, "Invoice 1001", &for_ben), &row()),
        Comparison::Same
    );
}

#[test]
fn the_body_is_read_only_if_date_and_subject_do_not_decide() {
    let unread = |seconds, subject| {
        let row = Traits {
            body: None,
            ..row()
        };
        compare(&message(seconds, subject, LETTER), &row)
    };
    for (seconds, subject) in [
        (0, "Anything"),
        (40, "Invoice 1001"),
        (120, "[kites] Invoice 1001"),
        (1, ""),
    ] {
        assert_eq!(
            unread(seconds, subject),
            Comparison::Same,
            "{seconds} {subject}"
        );
    }
    for (seconds, subject) in [(DAY, "Invoice 1001"), (40, "Invoice 1002"), (DAY, "")] {
        assert_eq!(
            unread(seconds, subject),
            Comparison::ReadBody,
            "{seconds} {subject}"
        );
    }
}

#[test]
fn two_emails_of_the_same_second_are_distinguished_by_their_text() {
    let second = message(0, "Invoice 1002", "<p>Invoice 1002</p>");
    assert_eq!(compare_mails(&second, &row()), Comparison::Other);
    assert_eq!(
        compare(&second, &row()),
        Comparison::Same,
        "a user may have changed the row"
    );
    assert_eq!(
        compare_mails(&message(0, "Invoice 1001", "<p>x</p>"), &row()),
        Comparison::Same
    );
}

#[test]
fn marks_around_a_subject_are_ignored() {
    for marked in [
        "Offer 7",
        "RE: Offer 7",
        "Re[2]: aw: Offer 7",
        "[kites] Re: [sales] Offer 7",
        "***SPAM*** Offer 7",
        "{Spam?} Offer 7",
        "Offer 7 CRM:0001001",
        "Offer 7 [ext]",
        "EXTERN: Offer 7",
    ] {
        assert_eq!(subjects(marked, "Offer 7"), Subjects::Same, "{marked}");
    }
    for other in [
        "Reminder: Offer 7",
        "Offer 70",
        "Offer",
        "Offer 7 for Ben",
        "[7]",
        "Offer: 7 a",
    ] {
        assert_eq!(subjects(other, "Offer 7"), Subjects::Other, "{other}");
    }
    let long = "word ".repeat(400);
    assert_eq!(
        subjects(long.get(..797).unwrap(), &long),
        Subjects::Same,
        "cut at its column's length"
    );
}

#[test]
fn copies_have_the_same_content_hash_and_other_messages_have_another() {
    let content = |subject: &str, body: &str, files: &[&str]| {
        let files = files.iter().enumerate();
        let files: Vec<_> = files
            .map(|(at, name)| serde_json::json!({"id": format!("a{at}"), "filename": name}))
            .collect();
        let object =
            serde_json::json!({"id": "m", "subject": subject, "body": body, "attachments": files});
        content(&crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap())
    };
    let first = content("Scan", "<p>See the file.</p>", &["a.pdf", "b.pdf"]);
    // Pinned: a change of the derivation would write such messages again.
    let hex = hex::encode(first.unwrap());
    assert_eq!(
        hex,
        "315176e2661622e1853864d5d9e447eb4c4986b34fa39e3a8adf7fe24a7daee0"
    );
    assert_eq!(
        content("[all] RE: Scan", "See the <b>file</b>", &["B.pdf", "a.pdf"]),
        first
    );
    for (subject, body, files) in [
        ("Scan 2", "See the file.", ["a.pdf", "b.pdf"]),
        ("Scan", "See the files.", ["a.pdf", "b.pdf"]),
        ("Scan", "See the file.", ["a.pdf", "c.pdf"]),
        ("Scan See", "the file.", ["a.pdf", "b.pdf"]),
    ] {
        assert_ne!(
            content(subject, body, &files),
            first,
            "{subject} {body} {files:?}"
        );
    }
    assert_eq!(content("", "<p></p>", &[]), None);
    assert!(content("", "", &["a.pdf"]).is_some());
}

#[test]
fn only_visible_text_is_split_into_words() {
    let html = "<html><head><STYLE>p {color: red}</STYLE><!-- <p>x</p> --></head><body><p class=\"a b\">A&nbsp;&amp; b,\r\n\
                see https://x.example/a?b=1 <a href='https://y.example'>here</a><script>let c = 1 < 2;</script>; 3 < 4</p";
    assert_eq!(words(html), ["a", "b", "see", "here", "3", "4"]);
    assert_eq!(words("Bücher KAUFEN"), ["bücher", "kaufen"]);
    assert!(words("<style>a").is_empty() && words("<").is_empty() && words("").is_empty());
}
