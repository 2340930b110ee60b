//! Worlds whose members talk over HTTP/2, some of them through windows of a few bytes.

use net::h2::limits::STREAM_WINDOW;

use super::Config;
use crate::queue::{Time, US};
use crate::rng::Rng;

/// Of 1000 worlds whose members talk in bytes.
const HTTP2_WORLDS: usize = 500;

/// The largest of the tiny windows, in bytes.
const TINY_WINDOW_MAX: usize = 100;

/// What the way takes in worlds with tiny windows, at least and longer on average: each window costs a way there and back.
const LATENCY: Time = 20 * US;

/// Bytes that a lane must be able to carry in a tick: a few heartbeats, or an append.
const TICK_BYTES: Time = 4000;

/// Which worlds they are.
pub(super) fn draw(config: &mut Config, rng: &mut Rng) {
    if config.wire.is_none() || !rng.permille(HTTP2_WORLDS) {
        return;
    }
    config.http2 = Some(STREAM_WINDOW);
    if config.tiny.is_some() {
        config.latency = (LATENCY, LATENCY);
        let window = rng.between(1, TINY_WINDOW_MAX);
        let least = (TICK_BYTES * 4 * LATENCY).div_ceil(config.tick);
        config.http2 = Some((window as u32).max(least as u32));
    }
}
