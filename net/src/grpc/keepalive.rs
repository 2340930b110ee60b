//! Clients that ping too often (grpc-go `http2_server.go`, `handlePing`; etcd sets the times).
//!
//! A ping earns a strike if it comes sooner than allowed: `min_time` after the one before while calls are under way, two
//! hours else. Sending HEADERS or DATA forgives all strikes, because clients also ping to measure bandwidth. More than
//! two strikes end the connection.

use std::time::Duration;

const STRIKES_MAX: u32 = 2;
const IDLE_PERIOD: Duration = Duration::from_secs(2 * 60 * 60);

/// The count of one connection.
#[derive(Debug)]
pub struct Strikes {
    min_time: Duration,
    last_ping: Option<Duration>,
    count: u32,
    forgiven: bool,
}

impl Strikes {
    /// No strikes.
    pub fn new(min_time: Duration) -> Strikes {
        Strikes { min_time, last_ping: None, count: 0, forgiven: false }
    }

    /// HEADERS or DATA were sent.
    #[inline]
    pub fn forgive(&mut self) {
        self.forgiven = true;
    }

    /// A ping came. False: one too many.
    pub fn handle_ping(&mut self, now: Duration, calls_under_way: bool) -> bool {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.forgiven) {
            self.count = 0;
            return true;
        }
        let period = if calls_under_way { self.min_time } else { IDLE_PERIOD };
        if last.is_some_and(|last| now < last + period) {
            self.count += 1;
        }
        self.count <= STRIKES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings at these seconds; which one is too many?
    fn too_many(calls: bool, forgive_before: Option<usize>, at: &[u64]) -> Option<usize> {
        let mut strikes = Strikes::new(Duration::from_secs(5));
        at.iter().enumerate().position(|(number, &at)| {
            if forgive_before == Some(number) {
                strikes.forgive();
            }
            !strikes.handle_ping(Duration::from_secs(at), calls)
        })
    }

    #[test]
    fn the_third_strike_is_out() {
        assert_eq!(too_many(true, None, &[0, 1, 2, 3, 4]), Some(3));
        assert_eq!(too_many(true, None, &[0, 5, 10, 15, 20, 25]), None);
        assert_eq!(too_many(false, None, &[0, 10, 20, 30]), Some(3));
        assert_eq!(too_many(false, None, &[0, 7200, 14400, 21600]), None);
        assert_eq!(too_many(true, Some(3), &[0, 1, 2, 3, 4, 5, 6]), Some(6));
    }
}
