//! Streams of a connection.

/// A stream: its HTTP/2 id and the place of its state. Ids are never reused on a connection, so a key whose stream is
/// gone finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    pub(crate) id: u32,
    pub(crate) slot: u32,
}

impl StreamKey {
    /// The key as one number.
    pub fn to_u64(self) -> u64 {
        u64::from(self.id) << 32 | u64::from(self.slot)
    }

    /// Undoes [`StreamKey::to_u64`].
    pub fn from_u64(number: u64) -> StreamKey {
        StreamKey { id: (number >> 32) as u32, slot: number as u32 }
    }

    /// The stream's HTTP/2 id.
    pub fn id(self) -> u32 {
        self.id
    }
}
