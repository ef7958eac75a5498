//! Contract of the pause that all workers observe.

use chrono::TimeDelta;
use mailverse::ledger::pauses::Scope;
use mailverse::rate_limit::ApplicationUser;

use super::{Bench, contract, now};

contract! {
    a_user_has_no_pause_by_default
    a_pause_ends_at_its_time
    of_two_pauses_the_longer_one_holds
    a_new_pause_can_follow_an_ended_one
}

async fn a_user_has_no_pause_by_default(bench: Bench) {
    assert_eq!(
        bench
            .ledger
            .paused_until(&ApplicationUser::primary(), now())
            .await
            .unwrap(),
        None
    );
}

async fn a_pause_ends_at_its_time(bench: Bench) {
    let until = now() + TimeDelta::seconds(40);
    bench
        .ledger
        .pause(&ApplicationUser::primary(), until)
        .await
        .unwrap();
    let just_before = until - TimeDelta::milliseconds(1);
    for during in [now(), just_before] {
        assert_eq!(
            bench
                .ledger
                .paused_until(&ApplicationUser::primary(), during)
                .await
                .unwrap(),
            Some(until)
        );
    }
    assert_eq!(
        bench
            .ledger
            .paused_until(&ApplicationUser::primary(), until)
            .await
            .unwrap(),
        None
    );
}

async fn of_two_pauses_the_longer_one_holds(bench: Bench) {
    let longer = now() + TimeDelta::seconds(90);
    let just_shorter = longer - TimeDelta::milliseconds(1);
    let scopes = |order: &str| {
        [
            Scope::Dataverse(ApplicationUser::named(order.to_owned())),
            Scope::Mailbox(format!("grant-{order}").parse().unwrap()),
        ]
    };
    for (order, pauses) in [
        ("longer-first", [longer, just_shorter]),
        ("shorter-first", [just_shorter, longer]),
        ("far-shorter", [longer, now()]),
    ] {
        for scope in scopes(order) {
            for until in pauses {
                bench.ledger.pause_all(&scope, until).await.unwrap();
            }
            let stored = bench.ledger.pauses(std::slice::from_ref(&scope)).await;
            assert_eq!(stored.unwrap()[&scope].until, Some(longer), "{scope}");
        }
    }
}

async fn a_new_pause_can_follow_an_ended_one(bench: Bench) {
    for seconds in [10, 700] {
        let until = now() + TimeDelta::seconds(seconds);
        bench
            .ledger
            .pause(&ApplicationUser::primary(), until)
            .await
            .unwrap();
        let just_before = until - TimeDelta::seconds(1);
        let paused = bench
            .ledger
            .paused_until(&ApplicationUser::primary(), just_before)
            .await;
        assert_eq!(paused.unwrap(), Some(until));
    }
}
