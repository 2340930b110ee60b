//! Messages in a stream of bytes.
//!
//! ```text
//!  0       1                    5
//! +-------+--------------------+-------------
//! | flag  | length, big-endian | message ...      flag 0: as it is, 1: compressed
//! +-------+--------------------+-------------
//! ```

use bytes::Bytes;

use crate::grpc::{Code, Status};

/// Bytes before each message.
pub const PREFIX_SIZE: usize = 5;

/// The prefix of an uncompressed message.
#[inline]
pub fn prefix(length: usize) -> [u8; PREFIX_SIZE] {
    let [l3, l2, l1, l0] = u32::try_from(length).expect("a message is smaller than 4 GiB").to_be_bytes();
    [0, l3, l2, l1, l0]
}

/// Puts messages together. Holds at most one, and of that only bytes that have come.
#[derive(Debug, Default)]
pub struct Assembly {
    prefix: [u8; PREFIX_SIZE],
    prefix_len: usize,
    length: usize,
    bytes: Vec<u8>,
}

impl Assembly {
    /// Is part of a message here?
    pub fn is_partial(&self) -> bool {
        self.prefix_len > 0
    }

    /// Bytes of the message that have come.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Takes from `input` what completes the current message: `None` if all of `input` does not. Messages larger than
    /// `limit` are refused as soon as their prefix is there.
    #[inline]
    pub fn take(&mut self, input: &mut &[u8], limit: usize) -> Result<Option<Bytes>, Status> {
        if self.prefix_len == 0
            && let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_SIZE>()
        {
            let length = check_prefix(prefix, limit)?;
            if let Some((message, rest)) = rest.split_at_checked(length) {
                *input = rest;
                return Ok(Some(Bytes::copy_from_slice(message)));
            }
        }
        self.take_partial(input, limit)
    }

    fn take_partial(&mut self, input: &mut &[u8], limit: usize) -> Result<Option<Bytes>, Status> {
        if self.prefix_len < PREFIX_SIZE {
            let (part, rest) = input.split_at(input.len().min(PREFIX_SIZE - self.prefix_len));
            self.prefix[self.prefix_len..self.prefix_len + part.len()].copy_from_slice(part);
            self.prefix_len += part.len();
            *input = rest;
            if self.prefix_len < PREFIX_SIZE {
                return Ok(None);
            }
            self.length = check_prefix(&self.prefix, limit)?;
        }
        let (part, rest) = input.split_at(input.len().min(self.length - self.bytes.len()));
        self.bytes.extend_from_slice(part);
        *input = rest;
        if self.bytes.len() < self.length {
            return Ok(None);
        }
        self.prefix_len = 0;
        Ok(Some(Bytes::from(std::mem::take(&mut self.bytes))))
    }
}

// Texts and codes: grpc-go `rpc_util.go`, `recvMsg` and `checkRecvPayload`.
#[inline]
fn check_prefix(prefix: &[u8; PREFIX_SIZE], limit: usize) -> Result<usize, Status> {
    let [flag, l3, l2, l1, l0] = *prefix;
    let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
    if length > limit {
        let reason = format!("grpc: received message larger than max ({length} vs. {limit})");
        return Err(Status::new(Code::ResourceExhausted, reason));
    }
    match flag {
        0 => Ok(length),
        1 => Err(Status::new(Code::Internal, "grpc: compressed flag set with identity or empty encoding")),
        _ => Err(Status::new(Code::Internal, format!("grpc: received unexpected payload format {flag}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take_all(assembly: &mut Assembly, mut input: &[u8], limit: usize) -> Result<Vec<Bytes>, Status> {
        let mut messages = Vec::new();
        while let Some(message) = assembly.take(&mut input, limit)? {
            messages.push(message);
        }
        assert!(input.is_empty(), "what is not yet a message is kept");
        Ok(messages)
    }

    #[test]
    fn prefixes_are_checked_before_anything_is_held() {
        let cases: [(&[u8], Result<(), Code>); 5] = [
            (&[0, 0, 0, 0, 100], Ok(())),
            (&[0, 0, 0, 0, 101], Err(Code::ResourceExhausted)),
            (&[0, 255, 255, 255, 255], Err(Code::ResourceExhausted)),
            (&[1, 0, 0, 0, 1], Err(Code::Internal)),
            (&[2, 0, 0, 0, 1], Err(Code::Internal)),
        ];
        for (input, want) in cases {
            let mut assembly = Assembly::default();
            let got = take_all(&mut assembly, input, 100).map(|_| ()).map_err(|s| s.code);
            assert_eq!(got, want, "{input:?}");
            assert_eq!(assembly.bytes.capacity(), 0);
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..50),
        ) {
            let mut wire = Vec::new();
            for message in &messages {
                wire.extend(prefix(message.len()));
                wire.extend(message);
            }
            let (mut assembly, mut got, mut rest) = (Assembly::default(), Vec::new(), &wire[..]);
            for cut in cuts.iter().cycle() {
                let (part, next) = rest.split_at(rest.len().min(*cut));
                got.extend(take_all(&mut assembly, part, 100).unwrap());
                rest = next;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(!assembly.is_partial());
        }
    }
}
