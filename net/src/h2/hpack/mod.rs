//! HPACK, header compression (RFC 7541).
//!
//! Decoder and encoder each own their dynamic table. Fields are given to a callback as they are decoded, never kept as
//! a map. Both sides carry a `generation` that changes whenever their table changes: a block decoded (or encoded)
//! without changing the table means the same for as long as the generation stands, which is what the caches of
//! recently seen heads ([`super::head`]) and of prepared blocks ([`encoder::Prepared`]) rest on.

pub mod decoder;
pub mod encoder;
pub mod huffman;
pub mod integer;
pub mod table;

#[cfg(test)]
mod tests;
