//! SETTINGS (RFC 9113 6.5): what the peer told, and how it is checked.

use crate::h2::error::{ConnectionError, ErrorCode, fatal};
use crate::h2::limits::SETTINGS_ENTRIES_MAX;

/// Identifiers.
#[expect(missing_docs, reason = "the names are the RFC's")]
pub mod id {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// The window that every connection and stream begins with.
pub const INITIAL_WINDOW: u32 = 65_535;
/// No window may become larger.
pub const WINDOW_MAX: i64 = (1 << 31) - 1;

/// What the peer's settings say that matters to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Bound of the table our encoder may use.
    pub header_table_size: u32,
    /// Streams we may open (client role).
    pub max_concurrent_streams: u32,
    /// The window of each of our streams at its beginning.
    pub initial_window: u32,
}

impl Default for PeerSettings {
    fn default() -> PeerSettings {
        PeerSettings {
            header_table_size: 4096,
            max_concurrent_streams: u32::MAX,
            initial_window: INITIAL_WINDOW,
        }
    }
}

impl PeerSettings {
    /// Applies the payload of a SETTINGS frame. The peer's frame size is checked but not used: we never send more than
    /// 16 384 bytes, which everybody must accept.
    pub fn apply(&mut self, payload: &[u8], from_server: bool) -> Result<(), ConnectionError> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return fatal(ErrorCode::FrameSize, "SETTINGS is no multiple of six bytes");
        }
        if entries.len() > SETTINGS_ENTRIES_MAX {
            return fatal(ErrorCode::EnhanceYourCalm, "too many settings in one frame");
        }
        for &[i1, i0, v3, v2, v1, v0] in entries {
            let value = u32::from_be_bytes([v3, v2, v1, v0]);
            match u16::from_be_bytes([i1, i0]) {
                id::HEADER_TABLE_SIZE => self.header_table_size = value,
                id::ENABLE_PUSH if value > 1 || from_server && value == 1 => {
                    return fatal(ErrorCode::Protocol, "ENABLE_PUSH is not 0 or 1");
                }
                id::MAX_CONCURRENT_STREAMS => self.max_concurrent_streams = value,
                id::INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => {
                    return fatal(ErrorCode::FlowControl, "INITIAL_WINDOW_SIZE above 2^31-1");
                }
                id::INITIAL_WINDOW_SIZE => self.initial_window = value,
                id::MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return fatal(ErrorCode::Protocol, "MAX_FRAME_SIZE out of range");
                }
                _ => {} // RFC 9113 6.5.2: unknown settings are ignored
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        use ErrorCode::*;
        let cases: [(u16, u32, Result<(), ErrorCode>); 12] = [
            (id::HEADER_TABLE_SIZE, u32::MAX, Ok(())),
            (id::ENABLE_PUSH, 0, Ok(())),
            (id::ENABLE_PUSH, 1, Ok(())),
            (id::ENABLE_PUSH, 2, Err(Protocol)),
            (id::MAX_CONCURRENT_STREAMS, 0, Ok(())),
            (id::INITIAL_WINDOW_SIZE, 0, Ok(())),
            (id::INITIAL_WINDOW_SIZE, (1 << 31) - 1, Ok(())),
            (id::INITIAL_WINDOW_SIZE, 1 << 31, Err(FlowControl)),
            (id::MAX_FRAME_SIZE, 0, Err(Protocol)),
            (id::MAX_FRAME_SIZE, 16_384, Ok(())),
            (id::MAX_FRAME_SIZE, 16_777_216, Err(Protocol)),
            (0xbeef, 7, Ok(())),
        ];
        for (id, value, want) in cases {
            let mut payload = id.to_be_bytes().to_vec();
            payload.extend(value.to_be_bytes());
            let got = PeerSettings::default().apply(&payload, false).map_err(|e| e.code);
            assert_eq!(got, want, "{id} {value}");
        }
        let mut settings = PeerSettings::default();
        assert!(settings.apply(&[0; 5], false).is_err());
        assert!(settings.apply(&[0; 6 * 33], false).is_err());
        assert!(settings.apply(&[0; 6 * 32], false).is_ok());
    }
}
