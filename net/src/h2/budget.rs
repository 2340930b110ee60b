//! What a peer may do how often: counters for every way of making us work without sending much.
//!
//! Each `charge_…` is called where its frame is handled and fails with the connection error that ends the abuse.

use std::time::Duration;

use crate::h2::error::{ConnectionError, ErrorCode, fatal};
use crate::h2::limits::*;

/// A bucket of `burst` tokens, refilled by `per_second`.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    burst: u32,
    per_second: u32,
    tokens: u32,
    refilled: Duration,
}

impl Bucket {
    fn new(burst: u32, per_second: u32, now: Duration) -> Bucket {
        Bucket { burst, per_second, tokens: burst, refilled: now }
    }

    fn take(&mut self, now: Duration) -> bool {
        let period = Duration::from_secs(1) / self.per_second;
        let elapsed = now.saturating_sub(self.refilled);
        let earned = (elapsed.as_nanos() / period.as_nanos()).min(u128::from(self.burst)) as u32;
        if earned > 0 {
            self.tokens = self.burst.min(self.tokens + earned);
            self.refilled = if self.tokens == self.burst { now } else { self.refilled + period * earned };
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

/// All counters of one connection.
#[derive(Debug)]
pub struct Budgets {
    settings: Bucket,
    stream_errors: Bucket,
    streams_opened: u64,
    priority_frames: u64,
    window_updates: u64,
    data_frames_sent: u64,
    empty_in_a_row: u32,
    empty_total: u32,
    small_frames: usize,
    reset_period_start: Duration,
    reset_period_opened: u32,
    reset_period_resets: u32,
}

impl Budgets {
    /// Full budgets.
    pub fn new(now: Duration) -> Budgets {
        Budgets {
            settings: Bucket::new(SETTINGS_FRAMES_FREE, SETTINGS_FRAMES_PER_SECOND, now),
            stream_errors: Bucket::new(STREAM_ERRORS_BURST, STREAM_ERRORS_PER_SECOND, now),
            streams_opened: 0,
            priority_frames: 0,
            window_updates: 0,
            data_frames_sent: 0,
            empty_in_a_row: 0,
            empty_total: 0,
            small_frames: SMALL_FRAME_BUDGET,
            reset_period_start: now,
            reset_period_opened: 0,
            reset_period_resets: 0,
        }
    }

    /// Streams that the peer has opened.
    pub fn streams_opened(&self) -> u64 {
        self.streams_opened
    }

    /// A stream was opened.
    #[inline]
    pub fn count_stream(&mut self, now: Duration) {
        self.streams_opened += 1;
        self.roll_reset_period(now);
        self.reset_period_opened += 1;
    }

    /// DATA frames that were sent.
    pub fn data_frames_sent(&self) -> u64 {
        self.data_frames_sent
    }

    /// A DATA frame was sent.
    #[inline]
    pub fn count_data_sent(&mut self) {
        self.data_frames_sent += 1;
    }

    fn roll_reset_period(&mut self, now: Duration) {
        if now.saturating_sub(self.reset_period_start) >= RESET_PERIOD {
            self.reset_period_start = now;
            self.reset_period_opened = 0;
            self.reset_period_resets = 0;
        }
    }

    /// The peer reset a stream that had got no response yet.
    pub fn charge_reset(&mut self, now: Duration) -> Result<(), ConnectionError> {
        self.roll_reset_period(now);
        self.reset_period_resets += 1;
        let most = u64::from(self.reset_period_resets) * 2 > u64::from(self.reset_period_opened);
        if self.reset_period_resets > RESETS_MAX && most {
            return fatal(ErrorCode::EnhanceYourCalm, "too many streams reset");
        }
        Ok(())
    }

    /// We have to answer with RST_STREAM.
    pub fn charge_stream_error(&mut self, now: Duration) -> Result<(), ConnectionError> {
        if self.stream_errors.take(now) {
            return Ok(());
        }
        fatal(ErrorCode::EnhanceYourCalm, "too many stream errors")
    }

    /// A SETTINGS frame that is no ack.
    pub fn charge_settings(&mut self, now: Duration) -> Result<(), ConnectionError> {
        if self.settings.take(now) {
            return Ok(());
        }
        fatal(ErrorCode::EnhanceYourCalm, "too many SETTINGS frames")
    }

    /// A PRIORITY frame.
    pub fn charge_priority(&mut self) -> Result<(), ConnectionError> {
        self.priority_frames += 1;
        if self.priority_frames > PRIORITY_FRAMES_PER_STREAM * (1 + self.streams_opened) {
            return fatal(ErrorCode::EnhanceYourCalm, "too many PRIORITY frames");
        }
        Ok(())
    }

    /// A WINDOW_UPDATE frame.
    pub fn charge_window_update(&mut self) -> Result<(), ConnectionError> {
        self.window_updates += 1;
        let earned = 2 * (self.streams_opened + 10 * self.data_frames_sent);
        if self.window_updates > WINDOW_UPDATES_FREE + earned {
            return fatal(ErrorCode::EnhanceYourCalm, "too many WINDOW_UPDATE frames");
        }
        Ok(())
    }

    /// A DATA, HEADERS or CONTINUATION frame that carries nothing and ends nothing.
    pub fn charge_empty(&mut self) -> Result<(), ConnectionError> {
        self.empty_in_a_row += 1;
        self.empty_total += 1;
        if self.empty_in_a_row > EMPTY_FRAMES_IN_A_ROW || self.empty_total > EMPTY_FRAMES_MAX {
            return fatal(ErrorCode::EnhanceYourCalm, "too many empty frames");
        }
        Ok(())
    }

    /// A DATA frame with `size` bytes of payload that does not end its stream.
    #[inline]
    pub fn charge_data(&mut self, size: usize) -> Result<(), ConnectionError> {
        self.empty_in_a_row = 0;
        let lacks = SMALL_FRAME_SIZE.saturating_sub(size);
        let Some(left) = self.small_frames.checked_sub(lacks) else {
            return fatal(ErrorCode::EnhanceYourCalm, "too many small DATA frames");
        };
        self.small_frames = left;
        self.refill_small_frames(size.saturating_sub(SMALL_FRAME_SIZE));
        Ok(())
    }

    /// A whole message has been consumed, or a large frame has come.
    #[inline]
    pub fn refill_small_frames(&mut self, bytes: usize) {
        self.small_frames = SMALL_FRAME_BUDGET.min(self.small_frames.saturating_add(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn count(limit: usize, mut charge: impl FnMut() -> Result<(), ConnectionError>) -> usize {
        (0..limit).position(|_| charge().is_err()).unwrap_or(limit)
    }

    #[test]
    fn every_budget_ends_where_its_limit_says() {
        let new = || Budgets::new(ms(0));
        let mut b = new();
        assert_eq!(count(1000, || b.charge_stream_error(ms(1))), 100);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_settings(ms(1))), 10);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_priority()), 100);
        let mut b = new();
        b.count_stream(ms(0));
        assert_eq!(count(1000, || b.charge_priority()), 200);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_window_update()), 5);
        let mut b = new();
        b.count_stream(ms(0));
        b.count_data_sent();
        assert_eq!(count(1000, || b.charge_window_update()), 27);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_empty()), 10);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_empty().and_then(|()| b.charge_data(300))), 100);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_data(0)), 100);
        let mut b = new();
        assert_eq!(count(1000, || b.charge_data(255)), 1000);
        let mut b = new();
        assert_eq!(count(100_000, || b.charge_data(256)), 100_000);
        let mut b = new();
        assert_eq!(
            count(100_000, || {
                b.refill_small_frames(SMALL_FRAME_SIZE);
                b.charge_data(1)
            }),
            100_000
        );
    }

    #[test]
    fn rates_refill_with_time() {
        let mut b = Budgets::new(ms(0));
        assert_eq!(count(100, || b.charge_settings(ms(0))), 10);
        assert!(b.charge_settings(ms(99)).is_err());
        assert!(b.charge_settings(ms(100)).is_ok());
        assert!(b.charge_settings(ms(101)).is_err());
        assert_eq!(count(100, || b.charge_settings(ms(60_000))), 10);
    }

    #[test]
    fn rapid_resets_are_told_from_a_busy_client() {
        let mut b = Budgets::new(ms(0));
        let attack = count(2000, || {
            b.count_stream(ms(1));
            b.charge_reset(ms(1))
        });
        assert_eq!(attack, 500);
        let mut b = Budgets::new(ms(0));
        (0..3000).for_each(|_| b.count_stream(ms(1)));
        assert_eq!(count(1500, || b.charge_reset(ms(2))), 1500, "half of them may be reset");
        let mut b = Budgets::new(ms(0));
        let slow = (0..5000).all(|n| {
            b.count_stream(ms(n * 3));
            b.charge_reset(ms(n * 3)).is_ok()
        });
        assert!(slow, "333 per second");
    }
}
