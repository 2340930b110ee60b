//! Frame headers and the frames we write (RFC 9113 4 and 6).
//!
//! ```text
//!  0        3      4       5                    9
//! +--------+------+-------+--------------------+-------------
//! | length | type | flags | 0 | stream id (31) | payload ...
//! +--------+------+-------+--------------------+-------------
//! ```

use crate::h2::error::{ConnectionError, ErrorCode, fatal};
use crate::h2::limits::FRAME_SIZE_MAX;

/// Bytes of a frame header.
pub const HEADER_SIZE: usize = 9;

/// Frame types.
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of payload.
    pub length: usize,
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// A set of [`flag`].
    pub flags: u8,
    /// Zero: the connection.
    pub stream: u32,
}

impl FrameHeader {
    /// Decodes a header and refuses payloads larger than we said we accept.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<FrameHeader, ConnectionError> {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes;
        let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
        if length > FRAME_SIZE_MAX {
            return fatal(ErrorCode::FrameSize, "frame larger than SETTINGS_MAX_FRAME_SIZE");
        }
        Ok(FrameHeader { length, kind, flags, stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]) })
    }

    /// Is this flag set?
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The header of a frame whose payload is `length` bytes.
#[inline]
pub fn encode_header(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEADER_SIZE] {
    debug_assert!(length <= FRAME_SIZE_MAX);
    let [_, l2, l1, l0] = (length as u32).to_be_bytes();
    let [s3, s2, s1, s0] = stream.to_be_bytes();
    [l2, l1, l0, kind, flags, s3, s2, s1, s0]
}

/// Begins a frame whose length is not known yet; [`end_frame`] completes it. Returns where it begins.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32) -> usize {
    let at = out.len();
    out.extend_from_slice(&encode_header(0, kind, flags, stream));
    at
}

/// Completes the frame that begins at `at`: everything behind its header is its payload.
#[inline]
pub fn end_frame(out: &mut [u8], at: usize) {
    let length = out.len() - at - HEADER_SIZE;
    assert!(length <= FRAME_SIZE_MAX, "a frame of {length} bytes");
    let [_, l2, l1, l0] = (length as u32).to_be_bytes();
    out[at..at + 3].copy_from_slice(&[l2, l1, l0]);
}

/// RST_STREAM.
pub fn rst_stream(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    out.extend_from_slice(&encode_header(4, kind::RST_STREAM, 0, stream));
    out.extend_from_slice(&(code as u32).to_be_bytes());
}

/// WINDOW_UPDATE.
pub fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    debug_assert!(increment > 0 && increment <= i32::MAX as u32);
    out.extend_from_slice(&encode_header(4, kind::WINDOW_UPDATE, 0, stream));
    out.extend_from_slice(&increment.to_be_bytes());
}

/// PING.
pub fn ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    out.extend_from_slice(&encode_header(8, kind::PING, if ack { flag::ACK } else { 0 }, 0));
    out.extend_from_slice(&payload);
}

/// GOAWAY.
pub fn goaway(out: &mut Vec<u8>, last: u32, code: ErrorCode, debug: &str) {
    out.extend_from_slice(&encode_header(8 + debug.len(), kind::GOAWAY, 0, 0));
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&(code as u32).to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
}

/// SETTINGS with entries, or the ack of the peer's.
pub fn settings(out: &mut Vec<u8>, entries: &[(u16, u32)]) {
    out.extend_from_slice(&encode_header(entries.len() * 6, kind::SETTINGS, 0, 0));
    for (id, value) in entries {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// SETTINGS ack.
pub fn settings_ack(out: &mut Vec<u8>) {
    out.extend_from_slice(&encode_header(0, kind::SETTINGS, flag::ACK, 0));
}

/// A header block as one HEADERS frame and as many CONTINUATION frames as it needs. `block` is the part of `out` from
/// `at + HEADER_SIZE` on; `at` is where [`begin_frame`] put the HEADERS frame.
pub fn end_block(out: &mut Vec<u8>, at: usize, stream: u32) {
    let size = out.len() - at - HEADER_SIZE;
    if size <= FRAME_SIZE_MAX {
        out[at + 4] |= flag::END_HEADERS;
        end_frame(out, at);
        return;
    }
    let rest = out.split_off(at + HEADER_SIZE + FRAME_SIZE_MAX);
    end_frame(out, at);
    let count = rest.len().div_ceil(FRAME_SIZE_MAX);
    for (number, part) in rest.chunks(FRAME_SIZE_MAX).enumerate() {
        let flags = if number + 1 == count { flag::END_HEADERS } else { 0 };
        out.extend_from_slice(&encode_header(part.len(), kind::CONTINUATION, flags, stream));
        out.extend_from_slice(part);
    }
}

/// Takes padding off a payload (RFC 9113 6.1): what is left, and how many bytes the padding with its length was.
pub fn unpad<'p>(header: &FrameHeader, payload: &'p [u8]) -> Result<(&'p [u8], usize), ConnectionError> {
    if !header.has(flag::PADDED) {
        return Ok((payload, 0));
    }
    let Some((&pad, rest)) = payload.split_first() else {
        return fatal(ErrorCode::FrameSize, "no room for the pad length");
    };
    let Some(left) = rest.len().checked_sub(usize::from(pad)) else {
        return fatal(ErrorCode::Protocol, "padding as long as the payload");
    };
    Ok((&rest[..left], usize::from(pad) + 1))
}

/// Four bytes as a number, or else a frame of the wrong size.
pub fn u32_payload(payload: &[u8]) -> Result<u32, ConnectionError> {
    match payload.try_into() {
        Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
        Err(_) => fatal(ErrorCode::FrameSize, "payload is not four bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_bytes_of_the_rfc() {
        let mut out = Vec::new();
        settings(&mut out, &[(4, 1 << 20)]);
        assert_eq!(out, [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 16, 0, 0]);
        out.clear();
        rst_stream(&mut out, 5, ErrorCode::Cancel);
        assert_eq!(out, [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
        out.clear();
        window_update(&mut out, 0, 7);
        assert_eq!(out, [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        out.clear();
        ping(&mut out, true, *b"ringring");
        assert_eq!(out, *b"\0\0\x08\x06\x01\0\0\0\0ringring");
        out.clear();
        goaway(&mut out, 3, ErrorCode::EnhanceYourCalm, "x");
        assert_eq!(out, [0, 0, 9, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 11, b'x']);
    }

    #[test]
    fn a_long_block_goes_on_in_continuation_frames() {
        let mut out = vec![0xaa];
        let at = begin_frame(&mut out, kind::HEADERS, flag::END_STREAM, 9);
        out.resize(1 + HEADER_SIZE + FRAME_SIZE_MAX + 10, 7);
        end_block(&mut out, at, 9);
        let first = FrameHeader::decode(out[1..10].try_into().unwrap()).unwrap();
        assert_eq!(first, FrameHeader { length: FRAME_SIZE_MAX, kind: 1, flags: 1, stream: 9 });
        let second = FrameHeader::decode(out[10 + FRAME_SIZE_MAX..][..9].try_into().unwrap()).unwrap();
        assert_eq!(second, FrameHeader { length: 10, kind: 9, flags: flag::END_HEADERS, stream: 9 });
        assert_eq!(out.len(), 1 + 2 * HEADER_SIZE + FRAME_SIZE_MAX + 10);
    }

    #[test]
    fn padding_is_taken_off_or_refused() {
        let header = |length| FrameHeader { length, kind: 0, flags: flag::PADDED, stream: 1 };
        assert_eq!(unpad(&header(4), &[1, b'a', b'b', 0]), Ok((&b"ab"[..], 2)));
        assert_eq!(unpad(&header(3), &[2, 0, 0]), Ok((&b""[..], 3)));
        assert!(unpad(&header(3), &[3, 0, 0]).is_err());
        assert!(unpad(&header(0), &[]).is_err());
    }
}
