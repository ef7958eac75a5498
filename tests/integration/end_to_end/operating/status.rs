//! Tests `mailverse status`: which messages it lists, how it shows them, and when it reports that
//! nothing needs attention.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::rate_limit::ApplicationUser;
use serde_json::json;

use super::{GAVE_UP, REFUSED, THROTTLED, ids, key, refused, released};
use crate::end_to_end::cloud::{Cloud, GRANT};
use crate::manual;

#[tokio::test]
async fn status_lists_dead_and_long_waiting_messages_with_their_reasons() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    let seen = cloud.command(&["status"]).await;
    seen.assert_ended(
        1,
        "2 dead, 2 waiting for longer than 1h. Once the cause is fixed: mailverse redrive --all, or MESSAGE…",
    );
    let table: Vec<&str> = seen
        .out
        .lines()
        .filter(|l| l.starts_with(['│', '┌']))
        .collect();
    assert!(
        table.iter().all(|line| line.chars().count() <= 100),
        "{}",
        seen.out
    );
    let place = |text: &str| {
        let place = table.iter().position(|line| line.contains(text));
        place.unwrap_or_else(|| panic!("{text} in\n{}", seen.out))
    };
    // Dead messages come first, and within each state the oldest come first.
    let order = [
        "grant-1/given-up",
        "grant-1/refused",
        "grant-1/orphan",
        "grant-1/throttled",
    ];
    assert!(order.map(place).is_sorted(), "{}", seen.out);
    for (id, state) in [
        ("grant-1/given-up", "given up"),
        ("grant-1/refused", "refused "),
    ] {
        assert!(table[place(id)].contains("dead"), "{}", seen.out);
        assert!(table[place(id) + 1].contains(state), "{}", seen.out);
    }
    for text in [
        "0x80044331",
        "waiting",
        GAVE_UP,
        THROTTLED,
        "no attempt has finished yet",
    ] {
        place(text);
    }
    for id in ["fresh", "written", "skipped"] {
        assert!(!seen.out.contains(&format!("/{id}")), "{}", seen.out);
    }
}

#[tokio::test]
async fn status_suggests_no_redrive_for_waiting_messages_and_fits_long_ids_in_the_terminal() {
    let cloud = Cloud::start(10).await;
    let google = "1e3288f6-0b4c-4b62-a7fd-6c2f6f1c8d11/19139f5d2a7c8e01";
    let graph = format!(
        "1e3288f6-0b4c-4b62-a7fd-6c2f6f1c8d11/AAMk{}=",
        "Ab3-_".repeat(29)
    );
    for id in [google, &graph] {
        cloud
            .message(id, TimeDelta::days(2), Some(released()))
            .await;
    }
    let seen = cloud.command(&["status", "--older-than", "24h"]).await;
    seen.assert_ended(
        1,
        "0 dead, 2 waiting for longer than 1d. Fix what the reasons name: the messages are retried automatically.",
    );
    assert!(
        seen.out.contains(google),
        "the id is not wrapped:\n{}",
        seen.out
    );
    let table = seen.out.lines().filter(|line| line.starts_with('│'));
    let widths: Vec<usize> = table.map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == 100), "{}", seen.out);
    let report = cloud
        .command(&["status", "--json", "--older-than", "24h"])
        .await;
    assert!(report.out.contains(key(&graph).message_id.as_str()));
}

#[tokio::test]
async fn status_filters_by_age_limits_the_list_and_counts_all_messages() {
    let cloud = Cloud::start(10).await;
    cloud.fill().await;
    for (age, expected) in [
        ("2d", vec!["given-up", "refused"]),
        ("1d", vec!["given-up", "refused", "orphan"]),
        ("150m", vec!["given-up", "refused", "orphan"]),
        (
            "4m",
            vec!["given-up", "refused", "orphan", "throttled", "fresh"],
        ),
    ] {
        let seen = cloud
            .command(&["status", "--json", "--older-than", age])
            .await;
        assert_eq!(ids(&seen.json()), expected, "{age}");
    }
    let seen = cloud.command(&["status", "--json", "--limit", "3"]).await;
    let report = seen.json();
    assert_eq!(ids(&report), ["given-up", "refused", "orphan"]);
    assert_eq!(
        (&report["dead"], &report["waiting"]),
        (&json!(2), &json!(2))
    );
    let seen = cloud.command(&["status", "--limit", "1"]).await;
    let counted = "2 dead, 2 waiting for longer than 1h; 1 shown (--limit).";
    assert!(seen.last_line().starts_with(counted), "{}", seen.out);
    assert!(!seen.out.contains("grant-1/refused"), "{}", seen.out);
    let seen = cloud.command(&["status", "--older-than", "soon"]).await;
    assert_eq!(seen.status, Some(2));
    assert!(seen.err.contains("30m, 1h or 2d"), "{}", seen.err);
}

#[tokio::test]
async fn the_json_output_of_status_matches_the_manual() {
    let cloud = Cloud::start(10).await;
    cloud
        .message("m1", TimeDelta::hours(3), Some(refused()))
        .await;
    let pause: DateTime<Utc> = "2100-01-01T00:00:00Z".parse().unwrap();
    cloud
        .ledger()
        .pause(&ApplicationUser::primary(), pause)
        .await
        .unwrap();
    let report = cloud.command(&["status", "--json"]).await.json();
    let since: DateTime<Utc> = report["messages"][0]["since"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let age = Utc::now() - since;
    assert!(
        age >= TimeDelta::hours(3) && age < TimeDelta::hours(4),
        "{age}"
    );
    let expected = json!({
        "dead": 1, "waiting": 0, "older_than_seconds": 3_600, "dataverse_paused_until": "2100-01-01T00:00:00Z",
        "messages": [{
            "grant_id": GRANT, "message_id": "m1", "state": "dead", "given_up": false,
            "since": report["messages"][0]["since"], "attempts": 1, "reason": REFUSED,
        }],
    });
    assert_eq!(report, expected);
    let seen = cloud.command(&["status"]).await;
    let pause = "Dataverse asked for a pause: nothing is sent before 2100-01-01 00:00:00 UTC.";
    assert!(seen.out.contains(pause), "{}", seen.out);
}

#[tokio::test]
async fn the_status_and_redrive_transcript_of_the_manual_matches_the_output() {
    let cloud = Cloud::start(10).await;
    let hours = TimeDelta::hours;
    let [dead, waiting] = [
        "1e3288f6-0b4c-4b62-a7fd-6c2f6f1c8d11/1913a0c47be2d95f",
        "1e3288f6-0b4c-4b62-a7fd-6c2f6f1c8d11/1913b2219c04aa70",
    ];
    cloud.message(dead, hours(3), Some(refused())).await;
    cloud.message(waiting, hours(2), Some(released())).await;
    let pause: DateTime<Utc> = "2100-01-01T00:00:00Z".parse().unwrap();
    let user = ApplicationUser::primary();
    cloud.ledger().pause(&user, pause).await.unwrap();
    let page = "docs/operations.md";
    let seen = cloud.command(&["status"]).await;
    manual::assert_shows(page, "mailverse status", &seen.out);
    let redrive = ["redrive", "--all", "--reason", "0x80044331", "--yes"];
    let seen = cloud.command(&redrive).await;
    let command = format!("mailverse {}", redrive.join(" "));
    manual::assert_shows(page, &command, &seen.out);
}
