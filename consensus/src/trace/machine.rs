//! A trace told to a machine of any kind, and compared.

use bytes::Bytes;

use super::frames::{Frames, TraceError};
use crate::peer::{FrameError, Reader};

/// Characters of an input that a difference shows.
const SHOWN_MAX: usize = 600;

/// Another machine, which is told what the recorded one was told.
pub trait Machine: Default {
    /// What its traces begin with.
    const MAGIC: &'static [u8; 8];

    /// What a replay has compared, and how far the machine has come.
    type Replayed;

    /// Takes a frame of this kind, whose payload is all of `reader`. If the frame is a call, the machine is told it, with nothing
    /// of the payload left.
    ///
    /// # Errors
    /// It is damaged, of a kind that is not known, or out of order.
    fn take(&mut self, kind: u8, reader: &mut Reader) -> Result<Option<Call>, FrameError>;

    /// The end of the trace; `None` if it has not even begun.
    fn finish(self, compared: Compared) -> Option<Self::Replayed>;
}

/// What went into a machine, and what came out of it both times.
pub struct Call {
    /// What went in.
    pub input: String,
    /// What had come out, as [`encode_call`](super::frames::encode_call) wrote it.
    pub recorded: Bytes,
    /// What comes out now.
    pub replayed: String,
    /// How many outputs it is.
    pub outputs: usize,
}

/// What any replay counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Calls of the machine.
    pub calls: u64,
    /// Outputs of the machine, all the same.
    pub outputs: u64,
    /// The trace ends in the middle of a frame, as one of a killed process may.
    pub torn: bool,
}

/// Takes a trace in pieces and tells it to a machine of its own.
pub struct Replay<M> {
    frames: Frames,
    machine: M,
    compared: Compared,
}

impl<M: Machine> Default for Replay<M> {
    fn default() -> Replay<M> {
        Replay { frames: Frames::new(M::MAGIC), machine: M::default(), compared: Compared::default() }
    }
}

impl<M: Machine> Replay<M> {
    /// A whole trace.
    ///
    /// # Errors
    /// It is damaged, or the machine differs from the recorded one.
    ///
    /// # Panics
    /// As the machine, if what it is told breaks the rules of its inputs: then the recorded one would have panicked too.
    pub fn all(trace: &[u8]) -> Result<M::Replayed, TraceError> {
        let mut replay = Replay::<M>::default();
        replay.push(trace)?;
        replay.finish()
    }

    /// The next bytes of a trace.
    ///
    /// # Errors
    /// See [`Replay::all`]; there is no going on.
    ///
    /// # Panics
    /// See [`Replay::all`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TraceError> {
        while let Some(frame) = self.frames.next(&mut bytes)? {
            let mut reader = Reader::new(frame.payload);
            let taken = self.machine.take(frame.kind, &mut reader);
            let call = taken.and_then(|call| reader.end().map(|()| call));
            if let Some(call) = call.map_err(|error| self.frames.damaged(error))? {
                self.compare(call)?;
            }
        }
        Ok(())
    }

    /// The end of the trace.
    ///
    /// # Errors
    /// It has not even begun.
    pub fn finish(self) -> Result<M::Replayed, TraceError> {
        let compared = Compared { torn: self.frames.is_torn(), ..self.compared };
        self.machine.finish(compared).ok_or(TraceError::NotATrace)
    }

    fn compare(&mut self, call: Call) -> Result<(), TraceError> {
        let Call { input, recorded, replayed, outputs } = call;
        self.compared.calls += 1;
        self.compared.outputs += outputs as u64;
        if replayed.as_bytes() == recorded {
            return Ok(());
        }
        let recorded = String::from_utf8_lossy(&recorded).into_owned();
        Err(TraceError::Difference { call: self.compared.calls, input: shown(input), recorded, replayed })
    }
}

/// The beginning of an input's description.
fn shown(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}
