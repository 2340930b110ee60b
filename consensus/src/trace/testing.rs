//! What holds of the traces of every machine, for the tests of each.

use bytes::Bytes;

use super::frames::TraceError;
use super::machine::{Machine, Replay};
use crate::peer::{Decoder, FRAME_BYTES_MAX, FrameError, Reader, encode_frame};

/// A frame's kind and payload.
pub type Part = (u8, Vec<u8>);

/// The frames of a trace that is whole.
pub fn parts<M: Machine>(trace: &[u8]) -> Vec<Part> {
    let mut rest = trace.strip_prefix(M::MAGIC).expect("the machine's trace");
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let next = || decoder.next(&mut rest).expect("a frame").map(|frame| (frame.kind, frame.payload.to_vec()));
    std::iter::from_fn(next).collect()
}

/// A trace of these frames, with checksums that are right.
pub fn trace_of<'p, M: Machine>(parts: impl IntoIterator<Item = &'p Part>) -> Vec<u8> {
    let mut trace = M::MAGIC.to_vec();
    for (kind, payload) in parts {
        encode_frame(*kind, &mut trace, |out| out.extend_from_slice(payload));
    }
    trace
}

/// A trace, with what `change` makes of each payload by its frame's kind.
pub fn rewritten<M: Machine>(trace: &[u8], mut change: impl FnMut(u8, &mut Vec<u8>)) -> Vec<u8> {
    let mut parts = parts::<M>(trace);
    assert_eq!(trace_of::<M>(&parts), trace, "its frames are all of it");
    parts.iter_mut().for_each(|(kind, payload)| change(*kind, payload));
    trace_of::<M>(&parts)
}

/// Only the frames of these kinds.
pub fn only<M: Machine>(trace: &[u8], kinds: &[u8]) -> Vec<u8> {
    trace_of::<M>(parts::<M>(trace).iter().filter(|(kind, _)| kinds.contains(kind)))
}

/// A trace replays as a whole and in pieces of any size, and the same comes of it, which is returned.
pub fn replays_in_any_cut<M: Machine<Replayed: PartialEq + std::fmt::Debug>>(trace: &[u8]) -> M::Replayed {
    let whole = Replay::<M>::all(trace).unwrap_or_else(|error| panic!("{error}"));
    for size in [1, 7, 100, 4096] {
        let mut replay = Replay::<M>::default();
        trace.chunks(size).for_each(|bytes| replay.push(bytes).unwrap());
        assert_eq!(replay.finish().as_ref(), Ok(&whole), "pieces of {size} bytes");
    }
    whole
}

/// A trace is refused, and not only its outputs differ, if any of these bits (of each byte at `bytes`) is another one.
pub fn notices_changes<M: Machine>(trace: &[u8], bytes: impl Iterator<Item = usize>, bits: &[u32]) {
    let mut bytes = bytes.peekable();
    assert!(bytes.peek().is_some() && !bits.is_empty(), "something is changed");
    for at in bytes {
        for bit in bits {
            let mut changed = trace.to_vec();
            changed[at] ^= 1 << bit;
            let noticed = Replay::<M>::all(&changed);
            assert!(matches!(noticed, Err(TraceError::NotATrace | TraceError::Frame(..))), "byte {at}");
        }
    }
}

/// What differs in a trace: in which call, what went in, what came out as recorded and as replayed.
pub fn difference<M: Machine<Replayed: std::fmt::Debug>>(trace: &[u8]) -> (u64, String, String, String) {
    match Replay::<M>::all(trace) {
        Err(TraceError::Difference { call, input, recorded, replayed }) => {
            assert_ne!(recorded, replayed);
            (call, input, recorded, replayed)
        }
        other => panic!("{other:?} is no difference"),
    }
}

/// Bytes of an input of this kind are read to the last one, and what `again` makes of what it has read are the same ones; with the
/// last byte missing they are refused, unless bytes of any number end them.
pub fn comes_back(
    kind: u8,
    bytes: &[u8],
    open_end: bool,
    again: impl Fn(&mut Reader, &mut Vec<u8>) -> Result<u8, FrameError>,
) {
    let (mut reader, mut written) = (Reader::new(Bytes::copy_from_slice(bytes)), Vec::new());
    assert_eq!(again(&mut reader, &mut written), Ok(kind));
    assert_eq!((reader.end(), &written[..]), (Ok(()), bytes), "kind {kind}");
    if let Some((_, shorter)) = bytes.split_last().filter(|_| !open_end) {
        let refused = again(&mut Reader::new(Bytes::copy_from_slice(shorter)), &mut Vec::new());
        assert!(refused.is_err(), "kind {kind} with a byte less");
    }
}

/// Bytes as they stand in tables.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
