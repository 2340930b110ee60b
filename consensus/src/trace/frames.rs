//! What traces of all machines have in common: a magic, then frames as between peers; in each call what came out of it, as text.
//!
//! Whoever records another machine than a node (`node` does) has a magic and kinds of frames of its own.

use crate::peer::{Decoder, FRAME_BYTES_MAX, Frame, FrameError, encode_frame};

/// Why a trace does not replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceError {
    /// It begins with something else, or with a version that is not known here.
    NotATrace,
    /// The frame of this number (from zero: the start) is damaged.
    Frame(u64, FrameError),
    /// The machine says something else than the recorded one did.
    Difference {
        /// Which call, from one.
        call: u64,
        /// What went in.
        input: String,
        /// What had come out, one line for each output.
        recorded: String,
        /// What comes out now.
        replayed: String,
    },
}

impl std::fmt::Display for TraceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TraceError::NotATrace => f.write_str("it is not a trace of this version"),
            TraceError::Frame(number, error) => write!(f, "frame {number}: {error}"),
            TraceError::Difference { call, input, recorded, replayed } => write!(
                f,
                "call {call} differs: {input}\nrecorded:\n{}\nreplayed:\n{}",
                indented(recorded),
                indented(replayed)
            ),
        }
    }
}

impl std::error::Error for TraceError {}

fn indented(lines: &str) -> String {
    match lines.is_empty() {
        true => "  nothing".to_owned(),
        false => lines.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
    }
}

/// The frames of a trace, from bytes in any cut.
pub(super) struct Frames {
    magic: &'static [u8; 8],
    /// Bytes of the magic that have come.
    begun: usize,
    decoder: Decoder,
    /// Bytes of a frame that is not whole have come.
    open: bool,
    /// Frames that were whole.
    number: u64,
}

impl Frames {
    /// Of a trace that begins with `magic`.
    pub fn new(magic: &'static [u8; 8]) -> Frames {
        Frames { magic, begun: 0, decoder: Decoder::new(FRAME_BYTES_MAX), open: false, number: 0 }
    }

    /// Takes bytes from the front of `bytes` until a frame is whole. `None`: they are used up.
    ///
    /// # Errors
    /// It begins with another magic, or a frame is damaged; there is no going on.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, TraceError> {
        let (magic, rest) = bytes.split_at(bytes.len().min(self.magic.len() - self.begun));
        if !self.magic[self.begun..].starts_with(magic) {
            return Err(TraceError::NotATrace);
        }
        self.begun += magic.len();
        *bytes = rest;
        if bytes.is_empty() {
            return Ok(None);
        }
        let frame = self.decoder.next(bytes).map_err(|error| TraceError::Frame(self.number, error))?;
        self.open = frame.is_none();
        self.number += u64::from(frame.is_some());
        Ok(frame)
    }

    /// The last frame is not what it should be.
    pub fn damaged(&self, error: FrameError) -> TraceError {
        TraceError::Frame(self.number.saturating_sub(1), error)
    }

    /// The trace ends in the middle of a frame, as one of a killed process may.
    pub fn is_torn(&self) -> bool {
        self.open
    }
}

/// Appends the frame of a call: the text of what came out of it (4 bytes of length, then the text), then what `write` appends.
pub fn encode_call(kind: u8, text: &str, trace: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encode_frame(kind, trace, |out| {
        // Beyond 4 GiB the frame is too large by far, and `encode_frame` says so.
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        write(out);
    });
}
