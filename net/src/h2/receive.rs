//! What each frame of the peer does.
//!
//! Two kinds of errors (RFC 9113 5.4): a connection error is returned and ends everything; a stream error resets one
//! stream. Where RFC 9113 leaves the choice or where a stream error would make a cheap attack (CVE-2025-8671), it is a
//! connection error.

use crate::h2::connection::{Connection, End, PING_PAYLOAD, PartialBlock, Phase, Received, Role};
use crate::h2::error::{ConnectionError, ErrorCode, fatal};
use crate::h2::frame::{self, FrameHeader, flag, kind};
use crate::h2::head::{Decoded, Expect, Head};
use crate::h2::limits::*;
use crate::h2::settings::WINDOW_MAX;
use crate::h2::stream::{Place, StreamKey};

type Outcome = Result<(), ConnectionError>;

impl<H: Head, S: Default> Connection<H, S> {
    pub(crate) fn handle_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if self.phase == Phase::FirstSettings {
            if header.kind != kind::SETTINGS || header.has(flag::ACK) {
                return fatal(ErrorCode::Protocol, "the first frame is not SETTINGS");
            }
            self.first_settings_came();
            self.settings_ack_deadline = Some(self.now + SETTINGS_ACK_TIME);
        }
        if let Some(block) = &self.block
            && (header.kind != kind::CONTINUATION || header.stream != block.stream)
        {
            return fatal(ErrorCode::Protocol, "a header block was interrupted");
        }
        self.peer_is_alive();
        match header.kind {
            kind::DATA => self.handle_data(header, payload, on),
            kind::HEADERS => self.handle_headers(header, payload, on),
            kind::PRIORITY => self.handle_priority(header, payload),
            kind::RST_STREAM => self.handle_rst_stream(header, payload, on),
            kind::SETTINGS => self.handle_settings(header, payload),
            kind::PUSH_PROMISE => fatal(ErrorCode::Protocol, "PUSH_PROMISE, which nobody may send to us"),
            kind::PING => self.handle_ping(header, payload, on),
            kind::GOAWAY => self.handle_goaway(header, payload, on),
            kind::WINDOW_UPDATE => self.handle_window_update(header, payload),
            kind::CONTINUATION => self.handle_continuation(header, payload, on),
            _ => Ok(()), // RFC 9113 4.1: unknown frames are ignored
        }
    }

    fn handle_data(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if header.stream == 0 {
            return fatal(ErrorCode::Protocol, "DATA on stream 0");
        }
        let (data, padding) = frame::unpad(&header, payload)?;
        let end = header.has(flag::END_STREAM);
        self.charge_connection_window(payload.len())?;
        let Some(key) = self.streams.key(header.stream) else {
            return self.check_closed_stream(header.stream);
        };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        if !stream.recv_open {
            let reset = stream.is_dead() && self.was_reset_by_us(header.stream);
            return if reset {
                Ok(())
            } else {
                fatal(ErrorCode::StreamClosed, "DATA after the end of its stream")
            };
        }
        stream.recv_window -= payload.len() as i64;
        if stream.recv_window < 0 {
            return fatal(ErrorCode::FlowControl, "DATA beyond the stream's window");
        }
        let length_is_wrong = match &mut stream.content_left {
            Some(left) => {
                let short = (data.len() as u64) > *left;
                *left = left.saturating_sub(data.len() as u64);
                short || end && *left > 0
            }
            None => false,
        };
        if length_is_wrong {
            return self.stream_error(key, ErrorCode::Protocol, on);
        }
        stream.recv_open = !end;
        if !end {
            if data.is_empty() {
                self.budgets.charge_empty()?;
            } else {
                self.budgets.charge_data(data.len())?;
            }
            self.consume(key, padding);
        }
        on(self, Received::Data { key, payload: data, end });
        self.bury(key);
        Ok(())
    }

    // RFC 9113 6.9: the connection's window counts everything, also what a dead stream gets. It is given back on
    // receipt; what bounds memory are the stream windows and the application's own budgets.
    fn charge_connection_window(&mut self, size: usize) -> Outcome {
        self.recv_window -= size as i64;
        if self.recv_window < 0 {
            return fatal(ErrorCode::FlowControl, "DATA beyond the connection's window");
        }
        self.recv_unacked += size as u32;
        if self.recv_unacked >= CONNECTION_WINDOW / 2 {
            self.recv_window += i64::from(self.recv_unacked);
            frame::window_update(&mut self.ready, 0, self.recv_unacked);
            self.recv_unacked = 0;
            self.count_control()?;
        }
        Ok(())
    }

    /// Gives `size` received bytes back to the stream's window.
    pub fn consume(&mut self, key: StreamKey, size: usize) {
        let half = self.config.stream_window / 2;
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.recv_open || size == 0 {
            return;
        }
        stream.recv_unacked += size as u32;
        if stream.recv_unacked >= half {
            stream.recv_window += i64::from(stream.recv_unacked);
            frame::window_update(&mut self.ready, key.id(), stream.recv_unacked);
            stream.recv_unacked = 0;
            // One of these needs half a window of DATA: no flood, but the peer caused it.
            self.control_frames += 1;
        }
    }

    /// A whole message was consumed: small frames are paid for.
    #[inline]
    pub fn refill_small_frames(&mut self, bytes: usize) {
        self.budgets.refill_small_frames(bytes);
    }

    // A frame on a stream that is not there (RFC 9113 5.1).
    fn check_closed_stream(&mut self, id: u32) -> Outcome {
        if self.is_idle(id) {
            // After a graceful GOAWAY streams above its last are ignored, with all their frames.
            return match self.end {
                End::Draining { last } if id > last => Ok(()),
                _ => fatal(ErrorCode::Protocol, "a frame on an idle stream"),
            };
        }
        if self.was_reset_by_us(id) {
            return Ok(());
        }
        fatal(ErrorCode::StreamClosed, "a frame on a closed stream")
    }

    fn handle_headers(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if header.stream.is_multiple_of(2) {
            return fatal(ErrorCode::Protocol, "HEADERS on a stream that no client opens");
        }
        let (mut fragment, _) = frame::unpad(&header, payload)?;
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = fragment.split_first_chunk::<5>() else {
                return fatal(ErrorCode::FrameSize, "no room for the priority");
            };
            check_priority(header.stream, priority)?;
            fragment = rest;
        }
        let end_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.handle_block(header.stream, end_stream, fragment, on);
        }
        if fragment.is_empty() {
            self.budgets.charge_empty()?;
        }
        self.block = Some(PartialBlock {
            stream: header.stream,
            end_stream,
            bytes: fragment.to_vec(),
            continuations: 0,
            deadline: self.now + HEADER_BLOCK_TIME,
        });
        Ok(())
    }

    fn handle_continuation(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        let Some(mut block) = self.block.take() else {
            return fatal(ErrorCode::Protocol, "CONTINUATION without HEADERS");
        };
        block.continuations += 1;
        if block.continuations > CONTINUATION_FRAMES_MAX {
            return fatal(ErrorCode::EnhanceYourCalm, "too many CONTINUATION frames");
        }
        if block.bytes.len() + payload.len() > HEADER_BLOCK_SIZE_MAX {
            return fatal(ErrorCode::EnhanceYourCalm, "header block too large");
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.handle_block(block.stream, block.end_stream, &block.bytes, on);
        }
        if payload.is_empty() {
            self.budgets.charge_empty()?;
        }
        self.block = Some(block);
        Ok(())
    }

    // A whole header block. It is decoded in any case, for the table's sake.
    fn handle_block(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if let Some(key) = self.streams.key(id) {
            return self.handle_block_of(key, end, block, on);
        }
        if self.config.role == Role::Client || !self.is_idle(id) {
            self.heads.decode(block, Expect::Trailers)?;
            // Were ids skipped? Then this one may never have been used (RFC 9113 5.1.1).
            let skipped = self.budgets.streams_opened() * 2 <= u64::from(self.last_peer_id);
            if self.config.role == Role::Server && skipped && !self.was_reset_by_us(id) {
                return fatal(ErrorCode::Protocol, "a stream id smaller than one before");
            }
            return self.check_closed_stream(id);
        }
        let decoded = self.heads.decode(block, Expect::Request)?;
        if let End::Draining { last } = self.end
            && id > last
        {
            return Ok(());
        }
        self.open_by_peer(id, end, decoded, on)
    }

    fn open_by_peer(
        &mut self,
        id: u32,
        end: bool,
        decoded: Decoded<H>,
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        self.last_peer_id = id;
        self.budgets.count_stream(self.now);
        if id >= STREAM_ID_DRAIN {
            self.shutdown();
        }
        let allowed = (self.config.max_concurrent_streams as usize).min(STREAMS_OPEN_MAX);
        if self.streams.len() >= allowed {
            return self.refuse(id, ErrorCode::RefusedStream);
        }
        let bodiless = end && decoded.content_length.is_some_and(|length| length > 0);
        if decoded.malformed.is_some() || bodiless {
            return self.refuse(id, ErrorCode::Protocol);
        }
        let key = self.streams.insert(id, i64::from(self.config.stream_window), self.now);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.recv_open = !end;
            stream.content_left = decoded.content_length;
        }
        on(self, Received::Head { key, head: decoded.head, too_large: decoded.too_large, end });
        self.bury(key);
        Ok(())
    }

    fn refuse(&mut self, id: u32, code: ErrorCode) -> Outcome {
        self.budgets.charge_stream_error(self.now)?;
        self.remember_reset(id);
        frame::rst_stream(&mut self.ready, id, code);
        self.count_control()
    }

    // A block on a stream that is there: trailers, or the response's head (client role).
    fn handle_block_of(
        &mut self,
        key: StreamKey,
        end: bool,
        block: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        let client = self.config.role == Role::Client;
        let (recv_open, first) = match self.streams.get(key) {
            Some(stream) => (stream.recv_open, client && !stream.head_received),
            None => return Ok(()),
        };
        let decoded = self.heads.decode(block, if first { Expect::Response } else { Expect::Trailers })?;
        if !recv_open {
            return if self.was_reset_by_us(key.id()) {
                Ok(())
            } else {
                fatal(ErrorCode::StreamClosed, "HEADERS after the end of its stream")
            };
        }
        let content_left = self.streams.get(key).and_then(|s| s.content_left);
        let short = !first && content_left.is_some_and(|left| left > 0);
        if decoded.malformed.is_some() || !first && !end || short {
            return self.stream_error(key, ErrorCode::Protocol, on);
        }
        if let Some(stream) = self.streams.get_mut(key) {
            stream.recv_open = !end;
            stream.head_received = true;
        }
        if first {
            on(self, Received::Head { key, head: decoded.head, too_large: decoded.too_large, end });
        } else {
            on(self, Received::Trailers { key, head: decoded.head });
        }
        self.bury(key);
        Ok(())
    }

    fn handle_priority(&mut self, header: FrameHeader, payload: &[u8]) -> Outcome {
        if header.stream == 0 {
            return fatal(ErrorCode::Protocol, "PRIORITY on stream 0");
        }
        let Ok(payload) = payload.try_into() else {
            return fatal(ErrorCode::FrameSize, "PRIORITY is not five bytes");
        };
        check_priority(header.stream, payload)?;
        self.budgets.charge_priority()
    }

    fn handle_rst_stream(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        let code = ErrorCode::from_wire(frame::u32_payload(payload)?);
        if header.stream == 0 || self.is_idle(header.stream) {
            return match self.end {
                End::Draining { last } if header.stream > last => Ok(()),
                _ => fatal(ErrorCode::Protocol, "RST_STREAM on an idle stream"),
            };
        }
        let Some(key) = self.streams.key(header.stream) else { return Ok(()) };
        let Some(stream) = self.streams.get(key) else { return Ok(()) };
        if stream.is_dead() {
            return Ok(());
        }
        if !stream.head_sent && self.config.role == Role::Server {
            self.budgets.charge_reset(self.now)?;
        }
        self.kill(key);
        on(self, Received::Reset { key, code });
        self.bury(key);
        Ok(())
    }

    fn handle_settings(&mut self, header: FrameHeader, payload: &[u8]) -> Outcome {
        if header.stream != 0 {
            return fatal(ErrorCode::Protocol, "SETTINGS on a stream");
        }
        if header.has(flag::ACK) {
            self.settings_ack_deadline = None;
            return if payload.is_empty() {
                Ok(())
            } else {
                fatal(ErrorCode::FrameSize, "SETTINGS ack with payload")
            };
        }
        self.budgets.charge_settings(self.now)?;
        let before = self.peer;
        self.peer.apply(payload, self.config.role == Role::Client)?;
        self.encoder.handle_table_size(self.peer.header_table_size);
        frame::settings_ack(&mut self.ready);
        if self.peer.initial_window > before.initial_window {
            self.wake_window_blocked();
        }
        self.count_control()
    }

    fn handle_ping(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if header.stream != 0 {
            return fatal(ErrorCode::Protocol, "PING on a stream");
        }
        let Ok(payload) = payload.try_into() else {
            return fatal(ErrorCode::FrameSize, "PING is not eight bytes");
        };
        if header.has(flag::ACK) {
            if payload == PING_PAYLOAD {
                self.ping_was_acknowledged();
                self.shutdown_was_noticed();
            }
            return Ok(());
        }
        frame::ping(&mut self.ready, true, payload);
        self.count_control()?;
        on(self, Received::Ping);
        Ok(())
    }

    fn handle_goaway(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        if header.stream != 0 {
            return fatal(ErrorCode::Protocol, "GOAWAY on a stream");
        }
        let Some((fixed, _)) = payload.split_first_chunk::<8>() else {
            return fatal(ErrorCode::FrameSize, "GOAWAY is less than eight bytes");
        };
        let [l3, l2, l1, l0, c3, c2, c1, c0] = *fixed;
        let last = u32::from_be_bytes([l3 & 0x7f, l2, l1, l0]);
        let code = ErrorCode::from_wire(u32::from_be_bytes([c3, c2, c1, c0]));
        self.peer_goaway = Some(last);
        on(self, Received::GoAway { last, code });
        Ok(())
    }

    fn handle_window_update(&mut self, header: FrameHeader, payload: &[u8]) -> Outcome {
        let increment = i64::from(frame::u32_payload(payload)? & 0x7fff_ffff);
        self.budgets.charge_window_update()?;
        if increment == 0 {
            return fatal(ErrorCode::Protocol, "WINDOW_UPDATE of 0");
        }
        if header.stream == 0 {
            self.send_window += increment;
            if self.send_window > WINDOW_MAX {
                return fatal(ErrorCode::FlowControl, "the connection's window above 2^31-1");
            }
            return Ok(());
        }
        if self.is_idle(header.stream) {
            return match self.end {
                End::Draining { last } if header.stream > last => Ok(()),
                _ => fatal(ErrorCode::Protocol, "WINDOW_UPDATE on an idle stream"),
            };
        }
        let initial = i64::from(self.peer.initial_window);
        let Some(key) = self.streams.key(header.stream) else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        stream.send_delta += increment;
        if stream.send_delta + initial > WINDOW_MAX {
            // RFC 9113 6.9.1 wants a stream error; the connection ends as well, for this costs a peer nothing.
            frame::rst_stream(&mut self.ready, header.stream, ErrorCode::FlowControl);
            return fatal(ErrorCode::FlowControl, "a stream's window above 2^31-1");
        }
        if stream.place == Place::Window && stream.send_delta + initial > 0 {
            self.schedule(key);
        }
        Ok(())
    }

    /// The peer broke a rule of one stream: RST_STREAM, within the budget for these.
    fn stream_error(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Outcome {
        self.budgets.charge_stream_error(self.now)?;
        self.reset(key, code);
        self.count_control()?;
        on(self, Received::Reset { key, code });
        self.bury(key);
        Ok(())
    }

    /// Removes a stream if it is over for everybody.
    #[inline]
    pub fn bury(&mut self, key: StreamKey) {
        if self.streams.get(key).is_some_and(|s| s.is_dead() && !s.held) {
            self.streams.remove(key);
        }
    }
}

// Priorities are checked and then ignored. RFC 7540 5.3.1: a stream cannot depend on itself.
fn check_priority(stream: u32, priority: &[u8; 5]) -> Outcome {
    let [d3, d2, d1, d0, _] = *priority;
    if u32::from_be_bytes([d3 & 0x7f, d2, d1, d0]) == stream {
        return fatal(ErrorCode::Protocol, "a stream depends on itself");
    }
    Ok(())
}
