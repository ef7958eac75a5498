//! Service protection: the request limits of one caller (Dataverse facts §11.1).
//!
//! | Measured in the window           | Limit         | Error            | Retry-After                            |
//! | -------------------------------- | ------------- | ---------------- | -------------------------------------- |
//! | requests; a batch counts as one  | 6,000         | 429 / 0x80072322 | until the oldest leaves the window     |
//! | execution time of all operations | 1,200,000 ms  | 429 / 0x80072321 | until the sum is below the limit again |
//! | requests in flight               | 52            | 429 / 0x80072326 | 1 second (inferred)                    |
//!
//! A rejected request counts towards none of these limits (inferred). Execution time is not
//! measured but set by [`Setting::OperationMilliseconds`], so that no test depends on the speed of
//! a machine.
//!
//! [`Setting::OperationMilliseconds`]: super::Setting::OperationMilliseconds

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::org::Org;
use super::refusal::Refusal;
use crate::lock::lock;

/// The limits of service protection.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) window: TimeDelta,
    pub(crate) requests: usize,
    pub(crate) execution_ms: u64,
    pub(crate) in_flight: usize,
    /// The value of `x-ms-dop-hint`.
    pub(crate) parallelism: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: TimeDelta::seconds(300),
            requests: 6_000,
            execution_ms: 1_200_000,
            in_flight: 52,
            // Inferred: the documentation shows the header but not its values.
            parallelism: 4,
        }
    }
}

/// The usage of one caller within the window.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    arrivals: VecDeque<DateTime<Utc>>,
    /// The time and the milliseconds of each operation.
    work: VecDeque<(DateTime<Utc>, u64)>,
    /// The sum of those milliseconds.
    used_ms: u64,
    in_flight: usize,
}

impl Usage {
    /// Counts a request, or returns the error that rejects it.
    pub(crate) fn arrive(&mut self, limits: &Limits, now: DateTime<Utc>) -> Result<(), Refusal> {
        self.check_requests(limits, now)?;
        self.check_time(limits, now)?;
        self.check_in_flight(limits)?;
        self.arrivals.push_back(now);
        Ok(())
    }

    fn check_requests(&mut self, limits: &Limits, now: DateTime<Utc>) -> Result<(), Refusal> {
        self.forget(limits, now);
        if self.arrivals.len() < limits.requests {
            return Ok(());
        }
        let message = format!(
            "Number of requests exceeded the limit of {} over time window of {} seconds.",
            limits.requests,
            limits.window.num_seconds()
        );
        let oldest = self.arrivals.front().copied().unwrap_or(now);
        Err(throttled(
            "0x80072322",
            message,
            oldest + limits.window - now,
        ))
    }

    /// Returns an error if the operations in the window have used up the execution time.
    pub(crate) fn check_time(
        &mut self,
        limits: &Limits,
        now: DateTime<Utc>,
    ) -> Result<(), Refusal> {
        self.forget(limits, now);
        let mut used = self.used_ms;
        if used < limits.execution_ms {
            return Ok(());
        }
        let mut free = now;
        for (when, cost) in &self.work {
            used -= cost;
            if used < limits.execution_ms {
                free = *when + limits.window;
                break;
            }
        }
        let message = format!(
            "Combined execution time of incoming requests exceeded limit of {} milliseconds over time window of {} \
             seconds. Decrease number of concurrent requests or reduce the duration of requests and try again later.",
            limits.execution_ms,
            limits.window.num_seconds()
        );
        Err(throttled("0x80072321", message, free - now))
    }

    fn check_in_flight(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.in_flight < limits.in_flight {
            return Ok(());
        }
        let message = format!(
            "Number of concurrent requests exceeded the limit of {}.",
            limits.in_flight
        );
        Err(throttled("0x80072326", message, TimeDelta::seconds(1)))
    }

    /// Adds the execution time of an operation.
    pub(crate) fn work(&mut self, now: DateTime<Utc>, milliseconds: u64) {
        if milliseconds > 0 {
            self.work.push_back((now, milliseconds));
            self.used_ms += milliseconds;
        }
    }

    /// Returns the response headers with the remaining capacity. They are for diagnosis, so their
    /// values are formatted for people (inferred).
    pub(crate) fn headers(
        &mut self,
        limits: &Limits,
        now: DateTime<Utc>,
    ) -> [(&'static str, String); 3] {
        self.forget(limits, now);
        let requests = limits.requests.saturating_sub(self.arrivals.len());
        let left = limits.execution_ms.saturating_sub(self.used_ms);
        let (seconds, hundredths) = (left / 1_000, left % 1_000 / 10);
        let seconds = match seconds / 1_000 {
            0 => seconds.to_string(),
            thousands => format!("{thousands},{:03}", seconds % 1_000),
        };
        [
            (
                "x-ms-ratelimit-burst-remaining-xrm-requests",
                requests.to_string(),
            ),
            (
                "x-ms-ratelimit-time-remaining-xrm-requests",
                format!("{seconds}.{hundredths:02}"),
            ),
            ("x-ms-dop-hint", limits.parallelism.to_string()),
        ]
    }

    fn forget(&mut self, limits: &Limits, now: DateTime<Utc>) {
        let past = |when: &DateTime<Utc>| *when + limits.window <= now;
        while self.arrivals.front().is_some_and(past) {
            self.arrivals.pop_front();
        }
        while let Some((_, cost)) = self.work.pop_front_if(|(when, _)| past(when)) {
            self.used_ms -= cost;
        }
    }
}

fn throttled(code: &'static str, message: String, wait: TimeDelta) -> Refusal {
    let mut refusal = Refusal::new(429, code, message);
    let milliseconds = u64::try_from(wait.num_milliseconds()).unwrap_or_default();
    refusal.retry_after = Some(milliseconds.div_ceil(1_000).max(1));
    refusal
}

/// The number of requests in flight of all callers, and whether requests are held back.
#[derive(Clone)]
pub(crate) struct Traffic {
    in_flight: Arc<watch::Sender<usize>>,
    held: Arc<watch::Sender<bool>>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            in_flight: Arc::new(watch::Sender::new(0)),
            held: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Traffic {
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Waits until requests are not held back.
    pub(crate) async fn pass(&self) {
        // Waiting fails only if the sender is dropped, and `self` owns it.
        let mut held = self.held.subscribe();
        let _held_no_more = held.wait_for(|held| !held).await;
    }

    /// Waits until at least `requests` requests are in flight.
    pub(crate) async fn reach(&self, requests: usize) {
        let mut in_flight = self.in_flight.subscribe();
        let _reached = in_flight.wait_for(|now| *now >= requests).await;
    }

    /// Waits until no request is in flight.
    pub(crate) async fn idle(&self) {
        let mut in_flight = self.in_flight.subscribe();
        let _idle = in_flight.wait_for(|now| *now == 0).await;
    }

    /// Counts a request of `caller` as in flight until the returned value is dropped, which also
    /// happens if its connection breaks.
    pub(crate) fn enter(&self, org: &mut Org, shared: &Arc<Mutex<Org>>, caller: &str) -> Flight {
        org.usage(caller).in_flight += 1;
        self.in_flight.send_modify(|now| *now += 1);
        Flight {
            org: Arc::clone(shared),
            caller: caller.to_owned(),
            traffic: self.clone(),
        }
    }
}

/// A request in flight. Dropping it ends the count.
pub(crate) struct Flight {
    org: Arc<Mutex<Org>>,
    caller: String,
    traffic: Traffic,
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.org).usage(&self.caller).in_flight -= 1;
        self.traffic.in_flight.send_modify(|now| *now -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<(), Refusal>) -> (String, u64) {
        let refusal = result.unwrap_err();
        assert_eq!(refusal.status, 429);
        (refusal.code.into_owned(), refusal.retry_after.unwrap())
    }

    #[test]
    fn requests_are_counted_in_a_sliding_window() {
        let limits = Limits {
            requests: 2,
            ..Limits::default()
        };
        let start = Utc::now();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let mut usage = Usage::default();
        usage.arrive(&limits, at(0)).unwrap();
        usage.arrive(&limits, at(100)).unwrap();
        assert_eq!(
            refused(usage.arrive(&limits, at(200))),
            ("0x80072322".to_owned(), 100)
        );
        assert_eq!(refused(usage.arrive(&limits, at(299))).1, 1);
        usage.arrive(&limits, at(300)).unwrap();
        assert_eq!(refused(usage.arrive(&limits, at(300))).1, 100);
    }

    #[test]
    fn enough_execution_time_is_free_after_the_retry_after_time() {
        let limits = Limits {
            execution_ms: 1_000,
            ..Limits::default()
        };
        let start = Utc::now();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let mut usage = Usage::default();
        for (second, cost) in [(0, 100), (10, 600), (20, 900)] {
            usage.work(at(second), cost);
        }
        let (code, wait) = refused(usage.check_time(&limits, at(30)));
        assert_eq!((code.as_str(), wait), ("0x80072321", 280));
        assert!(usage.check_time(&limits, at(309)).is_err());
        assert!(usage.check_time(&limits, at(310)).is_ok());
    }

    #[test]
    fn the_remaining_capacity_is_shown_in_human_readable_headers() {
        let (limits, now) = (Limits::default(), Utc::now());
        let mut usage = Usage::default();
        usage.arrive(&limits, now).unwrap();
        let shown = |usage: &mut Usage| usage.headers(&limits, now).map(|(_, value)| value);
        assert_eq!(shown(&mut usage), ["5999", "1,200.00", "4"]);
        usage.work(now, 1_150_050);
        assert_eq!(shown(&mut usage)[1], "49.95");
    }
}
