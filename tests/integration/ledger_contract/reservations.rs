//! Contract of the rate limiter: live mail and backfill reserve the time of a Dataverse user.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::rate_limit::{ApplicationUser, LimiterState, Limits, Reservation};

use super::{Bench, contract, now};

contract! {
    live_mail_always_reserves_and_gets_the_limiter_state
    backfill_reserves_only_after_the_tat_has_passed
    unused_capacity_is_available_as_a_limited_burst
    backfill_does_not_reserve_during_a_pause
    an_unused_reservation_can_be_returned
    backfill_does_not_wait_for_capacity_that_its_own_process_did_not_use
    backfill_waits_for_capacity_that_its_own_process_owes
    the_tat_is_at_most_one_window_ahead
    each_application_user_has_its_own_tat_and_pause
    only_one_of_two_concurrent_backfill_reservations_is_granted
    storing_the_suggested_concurrency_does_not_change_the_rest_of_the_state
}

fn at(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn reservation(expected: i64, owed: i64) -> Reservation {
    Reservation {
        expected: TimeDelta::seconds(expected),
        owed: TimeDelta::seconds(owed),
    }
}

async fn live(bench: &Bench, seconds: i64) -> LimiterState {
    let reservation = reservation(seconds, 0);
    let (user, limits) = (ApplicationUser::primary(), Limits::default());
    let reserved = bench.ledger.reserve(&user, &reservation, &limits, now());
    reserved.await.unwrap()
}

/// Tries to reserve for backfill. Returns the time up to which capacity is reserved then, or as
/// `Err` when to try again.
async fn history(bench: &Bench, seconds: i64, when: i64) -> Result<DateTime<Utc>, DateTime<Utc>> {
    history_of(
        bench,
        &ApplicationUser::primary(),
        reservation(seconds, 0),
        when,
    )
    .await
}

async fn history_of(
    bench: &Bench,
    user: &ApplicationUser,
    reservation: Reservation,
    when: i64,
) -> Result<DateTime<Utc>, DateTime<Utc>> {
    let limits = Limits::default();
    let reserved = bench
        .ledger
        .try_reserve(user, &reservation, &limits, at(when))
        .await;
    reserved
        .unwrap()
        .map(|limiter_state| limiter_state.tat.unwrap())
}

async fn live_mail_always_reserves_and_gets_the_limiter_state(bench: Bench) {
    assert_eq!(live(&bench, 10).await.tat, Some(at(10)));
    let pause = at(50);
    bench
        .ledger
        .pause(&ApplicationUser::primary(), pause)
        .await
        .unwrap();
    let limiter_state = live(&bench, 5).await;
    assert_eq!(limiter_state.tat, Some(at(15)));
    assert_eq!(limiter_state.pause(now()), Some(pause));
}

async fn backfill_reserves_only_after_the_tat_has_passed(bench: Bench) {
    live(&bench, 10).await;
    assert_eq!(history(&bench, 4, 9).await, Err(at(10)));
    assert_eq!(history(&bench, 4, 10).await, Ok(at(14)));
    assert_eq!(history(&bench, 4, 10).await, Err(at(14)));
    assert_eq!(
        history(&bench, 4, 17).await,
        Ok(at(18)),
        "three unused seconds are kept as burst"
    );
}

async fn unused_capacity_is_available_as_a_limited_burst(bench: Bench) {
    assert_eq!(
        history(&bench, 1, 0).await,
        Ok(at(1 - 3)),
        "nothing was reserved yet"
    );
    assert_eq!(
        history(&bench, 1, 1_000).await,
        Ok(at(1_001 - 3)),
        "the last reservation ended long ago"
    );
}

async fn backfill_does_not_reserve_during_a_pause(bench: Bench) {
    let user = ApplicationUser::primary();
    bench.ledger.pause(&user, at(40)).await.unwrap();
    assert_eq!(history(&bench, 1, 0).await, Err(at(40)));
    let limiter_state = bench.ledger.limiter_state(&user).await.unwrap();
    assert_eq!(limiter_state.tat, None);
    assert_eq!(history(&bench, 1, 40).await, Ok(at(38)));
}

async fn an_unused_reservation_can_be_returned(bench: Bench) {
    live(&bench, 30).await;
    assert_eq!(live(&bench, -25).await.tat, Some(at(5)));
    assert_eq!(history(&bench, 1, 5).await, Ok(at(6)));
}

async fn backfill_does_not_wait_for_capacity_that_its_own_process_did_not_use(bench: Bench) {
    let user = ApplicationUser::primary();
    live(&bench, 10).await;
    let returns = reservation(4, -3);
    assert_eq!(history_of(&bench, &user, returns, 6).await, Err(at(7)));
    assert_eq!(history_of(&bench, &user, returns, 7).await, Ok(at(11)));
    assert_eq!(
        history_of(&bench, &user, returns, 1_000).await,
        Ok(at(1_004 - 3)),
        "the reservation has passed, so nothing can be returned"
    );
}

async fn backfill_waits_for_capacity_that_its_own_process_owes(bench: Bench) {
    let user = ApplicationUser::primary();
    live(&bench, 10).await;
    let owes = reservation(4, 3);
    assert_eq!(history_of(&bench, &user, owes, 12).await, Err(at(13)));
    assert_eq!(history_of(&bench, &user, owes, 13).await, Ok(at(17)));
}

async fn the_tat_is_at_most_one_window_ahead(bench: Bench) {
    live(&bench, 299).await;
    assert_eq!(live(&bench, 1).await.tat, Some(at(300)));
    live(&bench, 1_000).await;
    assert_eq!(history(&bench, 4, 299).await, Err(at(300)));
    assert_eq!(history(&bench, 4, 300).await, Ok(at(304)));
}

async fn each_application_user_has_its_own_tat_and_pause(bench: Bench) {
    live(&bench, 30).await;
    let other = ApplicationUser::named("two".to_owned());
    assert_eq!(history(&bench, 1, 0).await, Err(at(30)));
    assert_eq!(
        history_of(&bench, &other, reservation(7, 0), 0).await,
        Ok(at(4))
    );
    bench.ledger.pause(&other, at(90)).await.unwrap();
    let paused = bench
        .ledger
        .paused_until(&ApplicationUser::primary(), now())
        .await;
    assert_eq!(paused.unwrap(), None);
    let paused = bench.ledger.paused_until(&other, now()).await;
    assert_eq!(paused.unwrap(), Some(at(90)));
}

async fn only_one_of_two_concurrent_backfill_reservations_is_granted(bench: Bench) {
    let both = futures_util::join!(history(&bench, 10, 0), history(&bench, 10, 0));
    let expected = [Ok(at(7)), Err(at(7))];
    assert!(
        expected == [both.0, both.1] || expected == [both.1, both.0],
        "{both:?}"
    );
}

async fn storing_the_suggested_concurrency_does_not_change_the_rest_of_the_state(bench: Bench) {
    let user = ApplicationUser::primary();
    live(&bench, 30).await;
    bench.ledger.pause(&user, at(20)).await.unwrap();
    bench
        .ledger
        .store_suggested_concurrency(&user, 6, now())
        .await
        .unwrap();
    let expected = LimiterState {
        paused_until: Some(at(20)),
        tat: Some(at(30)),
        suggested_concurrency: Some(6),
        ..LimiterState::default()
    };
    assert_eq!(bench.ledger.limiter_state(&user).await.unwrap(), expected);
}
