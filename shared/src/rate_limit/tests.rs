use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::Index;

use super::gcra::SHARE_PERCENT;
use super::*;
use crate::clients::dataverse::session::Usage;

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_154_400_000 + ms).unwrap()
}

fn usage(requests: u32, ms: u64) -> Usage {
    Usage {
        requests,
        time: Duration::from_millis(ms),
    }
}

/// Returns the sizes of the next batches if a batch takes `base` ms and each message `each` ms.
fn sizes(base: u64, each: u64, target: Duration, batches: usize) -> Vec<usize> {
    let mut batch_size = BatchSize::new(&Limits::default());
    let mut sizes = vec![batch_size.size()];
    for _ in 0..batches {
        let took = Duration::from_millis(base + each * batch_size.size() as u64);
        batch_size.adapt(batch_size.size(), took, target);
        sizes.push(batch_size.size());
    }
    sizes
}

#[test]
fn the_documented_limits_are_the_default_and_others_can_be_parsed() {
    assert_eq!("6000,1200,300".parse(), Ok(Limits::default()));
    assert_eq!(
        " 200, 40 ,10".parse::<Limits>().unwrap().batch_time(),
        Duration::from_millis(625)
    );
    for text in [
        "",
        "1,2",
        "1,2,3,4",
        "0,1,1",
        "1,0,1",
        "1,1,0",
        "-1,1,1",
        "1,1,1000001",
        "a,b,c",
    ] {
        assert_eq!(text.parse::<Limits>(), Err(InvalidLimits), "{text}");
    }
}

#[test]
fn the_more_used_of_the_two_limits_counts() {
    let limits = Limits::default();
    // 9.7 of 1,164 seconds of execution in 300 s, and 2 requests.
    let by_time = limits.time_of(usage(2, 9_760));
    assert_eq!(by_time.num_milliseconds(), 2_500);
    // 97 of 5,820 requests in 300 s, beyond the two of every batch, and each takes little more than
    // its latency.
    let by_requests = limits.time_of(usage(99, 99 * 40));
    assert_eq!(by_requests.num_milliseconds(), 5_000);
}

#[test]
fn backfill_waits_for_reservations_and_all_mail_waits_for_the_pause() {
    let limiter_state = |paused, reserved| LimiterState {
        paused_until: Some(at(paused)),
        tat: Some(at(reserved)),
        ..LimiterState::default()
    };
    let now = at(0);
    let free_at = |limiter_state: LimiterState, owed| {
        limiter_state.free_at(TimeDelta::milliseconds(owed), now)
    };
    assert_eq!(free_at(limiter_state(-1, 0), 0), None);
    assert_eq!(free_at(limiter_state(-1, 70), 0), Some(at(70)));
    assert_eq!(
        limiter_state(-1, 70).pause(now),
        None,
        "live mail does not wait"
    );
    assert_eq!(free_at(limiter_state(90, 70), 0), Some(at(90)));
    assert_eq!(free_at(limiter_state(90, 170), 0), Some(at(170)));
    assert_eq!(limiter_state(90, 170).pause(now), Some(at(90)));
    assert_eq!(free_at(LimiterState::default(), 0), None);
    // Reserved and unused capacity is free; owed usage is not.
    assert_eq!(free_at(limiter_state(-1, 70), -70), None);
    assert_eq!(free_at(limiter_state(-1, 70), -20), Some(at(50)));
    assert_eq!(free_at(limiter_state(-1, 0), 20), Some(at(20)));
    assert_eq!(free_at(limiter_state(90, 70), -70), Some(at(90)));
}

#[test]
fn the_suggested_concurrency_is_applied_within_bounds() {
    let concurrency = |suggested_concurrency| {
        let limiter_state = LimiterState {
            suggested_concurrency,
            ..LimiterState::default()
        };
        limiter_state.concurrency()
    };
    assert_eq!(
        [None, Some(0), Some(1), Some(6), Some(500)].map(concurrency),
        [4, 1, 1, 6, 8]
    );
}

#[test]
fn backfill_yields_if_more_messages_wait_than_one_worker_takes() {
    assert_eq!(yield_until(10, at(0)), None);
    assert_eq!(yield_until(11, at(0)), Some(at(5_000)));
}

#[test]
fn the_batch_size_converges_to_the_target_time_within_its_bounds() {
    let target = Duration::from_secs(10);
    assert_eq!(sizes(500, 10, target, 3), [50, 75, 100, 100], "fast");
    let slow = sizes(500, 400, target, 8);
    assert!(
        *slow.last().unwrap() >= 19 && *slow.last().unwrap() <= 30,
        "{slow:?}"
    );
    assert_eq!(
        *sizes(500, 5_000, target, 8).last().unwrap(),
        10,
        "the smallest size is the limit"
    );
}

#[test]
fn the_first_batch_is_sized_to_fit_the_target_time() {
    let first = |limits: &str| BatchSize::new(&limits.parse().unwrap()).size();
    assert_eq!(
        ["6000,1200,300", "1000,200,50", "200,40,10"].map(first),
        [50, 31, 10]
    );
}

#[test]
fn a_batch_that_timed_out_halves_the_next_one() {
    let mut batch_size = BatchSize::new(&Limits::default());
    batch_size.adapt(50, Duration::from_secs(60), Duration::from_secs(10));
    assert_eq!(batch_size.size(), 25);
}

#[test]
fn a_few_messages_at_the_end_of_a_page_do_not_make_batches_larger() {
    let mut batch_size = BatchSize::new(&Limits::default());
    batch_size.adapt(3, Duration::from_millis(200), Duration::from_secs(10));
    assert_eq!(batch_size.size(), 50);
    batch_size.adapt(3, Duration::from_secs(9), Duration::from_secs(10));
    assert_eq!(
        batch_size.size(),
        25,
        "a few slow messages make batches smaller"
    );
}

#[test]
fn excess_usage_is_added_to_the_next_reservation_and_unused_time_is_returned() {
    let limits = Limits::default();
    let mut batch_size = BatchSize::new(&limits);
    let first = batch_size.reserve(100);
    let taken = limits.time_of(usage(2, 20_060));
    batch_size.settle(&limits, &first, usage(2, 20_060), 100);
    let second = batch_size.reserve(0);
    assert_eq!(first.time() + second.time(), taken);
    // No message of a page had to be written.
    let third = batch_size.reserve(100);
    batch_size.settle(&limits, &third, Usage::default(), 0);
    assert_eq!(
        third.time() + batch_size.reserve(0).time(),
        TimeDelta::zero()
    );
}

#[test]
fn the_excess_usage_of_concurrent_batches_adds_up() {
    let limits = Limits::default();
    let used = [usage(2, 9_000), usage(2, 20_060)];
    for order in [[0, 1], [1, 0]] {
        let mut batch_size = BatchSize::new(&limits);
        let reservations = [batch_size.reserve(10), batch_size.reserve(20)];
        for n in order {
            batch_size.settle(&limits, &reservations[n], used[n], 10);
        }
        let excess = [0, 1].map(|n| limits.time_of(used[n]) - reservations[n].expected);
        assert!(excess.iter().all(|excess| *excess > TimeDelta::zero()));
        assert_eq!(batch_size.owed(), excess[0] + excess[1], "{order:?}");
    }
}

#[test]
fn what_one_batch_returns_reduces_what_another_owes() {
    let limits = Limits::default();
    let mut batch_size = BatchSize::new(&limits);
    let (first, second) = (batch_size.reserve(10), batch_size.reserve(20));
    batch_size.settle(&limits, &first, usage(2, 20_060), 10);
    // None of its messages had to be written.
    batch_size.settle(&limits, &second, Usage::default(), 0);
    let taken = limits.time_of(usage(2, 20_060));
    assert_eq!(batch_size.owed(), taken - first.expected - second.expected);
}

#[test]
fn a_cancelled_reservation_leaves_the_debt_unchanged() {
    let limits = Limits::default();
    let mut batch_size = BatchSize::new(&limits);
    let first = batch_size.reserve(10);
    batch_size.settle(&limits, &first, usage(2, 9_000), 10);
    let before = batch_size.clone();
    let refused = batch_size.reserve(50);
    batch_size.cancel(&refused);
    assert_eq!(batch_size, before);
}

/// Returns the most that is reserved in any window, and the largest reservation, if backfill
/// batches start one after another, each as soon as it may.
fn most_in_a_window(limits: &Limits, batches: &[(u64, i64)]) -> (TimeDelta, TimeDelta) {
    let window = TimeDelta::from_std(limits.window).unwrap();
    let (mut now, mut reserved) = (at(0), at(0) - limits.burst());
    let mut begun: Vec<(DateTime<Utc>, TimeDelta)> = Vec::new();
    let mut largest = TimeDelta::zero();
    for (ms, late) in batches {
        let limiter_state = LimiterState {
            tat: Some(reserved),
            ..LimiterState::default()
        };
        now = limiter_state.free_at(TimeDelta::zero(), now).unwrap_or(now)
            + TimeDelta::milliseconds(*late);
        let takes = limits.time_of(usage(0, *ms));
        reserved = reserved.max(now - limits.burst()) + takes;
        begun.push((now, takes));
        largest = largest.max(takes);
    }
    let of_window = |from: &DateTime<Utc>| {
        let within = begun
            .iter()
            .filter(|(when, _)| when >= from && *when < *from + window);
        within.map(|(_, takes)| *takes).sum::<TimeDelta>()
    };
    let most = begun.iter().map(|(when, _)| of_window(when)).max();
    (most.unwrap_or_default(), largest)
}

proptest! {
    #[test]
    fn the_batch_size_stays_between_the_smallest_and_the_largest(
        batches in proptest::collection::vec((0_usize..200, 0_u64..200_000), 0..60),
    ) {
        let mut batch_size = BatchSize::new(&Limits::default());
        for (messages, ms) in batches {
            batch_size.adapt(messages, Duration::from_millis(ms), Duration::from_secs(10));
            prop_assert!((10..=100).contains(&batch_size.size()));
        }
    }

    #[test]
    fn a_fast_full_batch_never_shrinks_the_next_and_a_slow_one_never_grows_it(
        before in proptest::collection::vec((1_usize..=100, 1_u64..60_000), 0..20),
        ms in 1_u64..200_000,
    ) {
        let target = Duration::from_secs(10);
        let mut batch_size = BatchSize::new(&Limits::default());
        for (messages, ms) in before {
            batch_size.adapt(messages, Duration::from_millis(ms), target);
        }
        let size = batch_size.size();
        let took = Duration::from_millis(ms);
        batch_size.adapt(size, took, target);
        if took <= target {
            prop_assert!(batch_size.size() >= size);
        } else {
            prop_assert!(batch_size.size() <= size);
        }
        if took * 2 <= target {
            prop_assert!(batch_size.size() > size || size == 100);
        }
        if took >= target * 2 {
            prop_assert!(batch_size.size() < size || size == 10);
        }
    }

    #[test]
    fn the_batch_size_settles_if_every_message_takes_the_same_time(base in 0_u64..5_000, each in 0_u64..2_000) {
        let sizes = sizes(base, each, Duration::from_secs(10), 40);
        let (_, late) = sizes.split_at(20);
        prop_assert!(late.iter().all(|size| *size == late[0]), "{:?}", sizes);
    }

    #[test]
    fn no_window_exceeds_the_share_plus_the_burst_and_one_batch(
        batches in proptest::collection::vec((1_u64..12_000, 0_i64..20_000), 1..150),
    ) {
        let limits = Limits::default();
        let (most, largest) = most_in_a_window(&limits, &batches);
        let window = TimeDelta::from_std(limits.window).unwrap();
        prop_assert!(most <= window + limits.burst() + largest);
        // With batches of the longest time, this is below the limits.
        prop_assert!((window + limits.burst() + largest) * i32::try_from(SHARE_PERCENT).unwrap() / 100 < window);
    }

    #[test]
    fn all_usage_is_reserved_in_the_end_in_whatever_order_batches_end(
        runs in proptest::collection::vec((0_usize..=100, 0_u32..20, 0_u64..20_000, 0_usize..=100, any::<Index>()), 0..30),
        at_once in 1_usize..=8,
    ) {
        let limits = Limits::default();
        let mut batch_size = BatchSize::new(&limits);
        let (mut reserved, mut taken) = (TimeDelta::zero(), TimeDelta::zero());
        let mut open = Vec::new();
        let mut waiting = runs.into_iter();
        loop {
            let next = waiting.next();
            let ends = if next.is_some() { at_once } else { 1 };
            if let Some((messages, requests, ms, heard_of, ended)) = next {
                let reservation = batch_size.reserve(messages);
                reserved += reservation.time();
                open.push((reservation, usage(requests, ms), heard_of, ended));
            } else if open.is_empty() {
                break;
            }
            if open.len() >= ends {
                let ended = open[0].3.index(open.len());
                let (reservation, used, heard_of, _) = open.swap_remove(ended);
                taken += limits.time_of(used);
                batch_size.settle(&limits, &reservation, used, heard_of);
            }
        }
        prop_assert_eq!(reserved + batch_size.reserve(0).time(), taken);
    }
}
