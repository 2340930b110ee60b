//! Errors of a connection and of a stream.

/// Error codes (RFC 9113 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// A graceful end.
    NoError = 0x0,
    /// The protocol was broken.
    Protocol = 0x1,
    /// Our own fault.
    Internal = 0x2,
    /// A flow-control rule was broken.
    FlowControl = 0x3,
    /// SETTINGS was not acknowledged in time.
    SettingsTimeout = 0x4,
    /// A frame on a closed stream.
    StreamClosed = 0x5,
    /// A frame of a wrong size.
    FrameSize = 0x6,
    /// Refused before any work was done.
    RefusedStream = 0x7,
    /// No longer wanted.
    Cancel = 0x8,
    /// The header compression state is broken.
    Compression = 0x9,
    /// A CONNECT's target failed.
    Connect = 0xa,
    /// The peer does too much of something.
    EnhanceYourCalm = 0xb,
    /// The transport is not secure enough.
    InadequateSecurity = 0xc,
    /// HTTP/1.1 is required.
    Http11Required = 0xd,
}

impl ErrorCode {
    /// The code of a number on the wire; unknown ones count as INTERNAL_ERROR (RFC 9113 7).
    pub fn from_wire(number: u32) -> ErrorCode {
        use ErrorCode::*;
        const ALL: [ErrorCode; 14] = [
            NoError,
            Protocol,
            Internal,
            FlowControl,
            SettingsTimeout,
            StreamClosed,
            FrameSize,
            RefusedStream,
            Cancel,
            Compression,
            Connect,
            EnhanceYourCalm,
            InadequateSecurity,
            Http11Required,
        ];
        ALL.get(number as usize).copied().unwrap_or(Internal)
    }
}

/// What ends a connection: the code and, for its debug data and the log, which rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    /// The code of the GOAWAY.
    pub code: ErrorCode,
    /// The rule.
    pub reason: &'static str,
}

/// Shorthand.
pub(crate) fn fatal<T>(code: ErrorCode, reason: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError { code, reason })
}
