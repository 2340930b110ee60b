//! Answers as bytes: header, then body.
//!
//! What the store did is told in two parts: a revision, and the message's fields without the header (often none). They
//! are made on the store core. The header's other fields are this member's at the moment of answering, so the client
//! core writes it, in front: protobuf's fields may come in any order and ours come header first.
//!
//! ```text
//! 0a <len> <ResponseHeader>   field 1 of every response that has one
//! <body>                      the other fields
//! ```

use bytes::{BufMut, Bytes};
use engine::{DeleteOutcome, OpOutcome, PutOutcome, RangeOutcome, TxnOutcome};
use net::pb::etcdserverpb::ResponseHeader;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

/// Who answers: constant as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: u64,
    /// This member's id.
    pub member_id: u64,
}

impl Identity {
    /// The header of an answer given in `raft_term` about the store at `revision`.
    pub fn header(&self, revision: i64, raft_term: u64) -> ResponseHeader {
        ResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term }
    }
}

/// Which header fields an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// All four.
    Full,
    /// No header at all (Defragment).
    None,
}

/// A whole answer but for the header's ids and term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether there is a header.
    pub header: HeaderKind,
    /// The header's revision; 0 (calls about members) stays unset.
    pub revision: i64,
    /// The encoded fields after the header.
    pub body: Bytes,
}

impl Answer {
    /// An answer with a header and nothing else.
    pub fn bare(revision: i64) -> Answer {
        Answer { header: HeaderKind::Full, revision, body: Bytes::new() }
    }

    /// An answer of header and `body`.
    pub fn new(revision: i64, body: impl Into<Bytes>) -> Answer {
        Answer { header: HeaderKind::Full, revision, body: body.into() }
    }

    /// An answer made of a message whose header is still unset.
    pub fn of_message(revision: i64, message: &impl Message) -> Answer {
        Answer::new(revision, message.encode_to_vec())
    }

    /// Appends the whole message to `out`, as this member says it in `raft_term`.
    pub fn encode(&self, identity: &Identity, raft_term: u64, out: &mut Vec<u8>) {
        if self.header == HeaderKind::Full {
            put_header(&identity.header(self.revision, raft_term), out);
        }
        out.extend_from_slice(&self.body);
    }
}

/// Appends field 1, the header.
pub fn put_header(header: &ResponseHeader, out: &mut impl BufMut) {
    put_tag(1, header.encoded_len(), out);
    header.encode_raw(out);
}

/// Appends `more` and `count` as in a RangeResponse.
pub(crate) fn put_range_tail(more: bool, count: i64, out: &mut impl BufMut) {
    if more {
        out.put_slice(&[0x18, 1]);
    }
    put_int(4, count, out);
}

/// A Put's fields after the header.
pub(crate) fn put_body(outcome: &PutOutcome) -> Vec<u8> {
    let mut out = Vec::with_capacity(outcome.prev_kv.as_ref().map_or(0, |kv| field_len(kv.len())));
    write_put(outcome, &mut out);
    out
}

/// A DeleteRange's fields after the header.
pub(crate) fn delete_body(outcome: &DeleteOutcome) -> Vec<u8> {
    let mut out = Vec::with_capacity(delete_len(outcome));
    write_delete(outcome, &mut out);
    out
}

/// A Txn's fields after the header.
pub(crate) fn txn_body(outcome: &TxnOutcome) -> Vec<u8> {
    let mut out = Vec::with_capacity(txn_len(outcome));
    write_txn(outcome, &mut out);
    out
}

/// Inside a transaction a header has its revision alone, and that of a nested one is empty.
fn inner_header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..Default::default() }
}

fn inner_header_len(revision: i64) -> usize {
    field_len(inner_header(revision).encoded_len())
}

fn put_len(outcome: &PutOutcome) -> usize {
    outcome.prev_kv.as_ref().map_or(0, |kv| field_len(kv.len()))
}

fn write_put(outcome: &PutOutcome, out: &mut Vec<u8>) {
    if let Some(kv) = &outcome.prev_kv {
        put_bytes(2, kv, out);
    }
}

fn delete_len(outcome: &DeleteOutcome) -> usize {
    int_len(outcome.deleted) + outcome.prev_kvs.iter().map(|kv| field_len(kv.len())).sum::<usize>()
}

fn write_delete(outcome: &DeleteOutcome, out: &mut Vec<u8>) {
    put_int(2, outcome.deleted, out);
    for kv in &outcome.prev_kvs {
        put_bytes(3, kv, out);
    }
}

fn range_len(outcome: &RangeOutcome) -> usize {
    outcome.kvs.len() + if outcome.more { 2 } else { 0 } + int_len(outcome.count)
}

fn write_range(outcome: &RangeOutcome, out: &mut Vec<u8>) {
    out.extend_from_slice(&outcome.kvs);
    put_range_tail(outcome.more, outcome.count, out);
}

fn txn_len(outcome: &TxnOutcome) -> usize {
    let ops = outcome.responses.iter().map(|op| field_len(field_len(op_len(op))));
    ops.sum::<usize>() + if outcome.succeeded { 2 } else { 0 }
}

fn write_txn(outcome: &TxnOutcome, out: &mut Vec<u8>) {
    if outcome.succeeded {
        out.extend_from_slice(&[0x10, 1]);
    }
    for op in &outcome.responses {
        let len = op_len(op);
        put_tag(3, field_len(len), out);
        let (field, revision) = op_head(op);
        put_tag(field, len, out);
        put_header(&inner_header(revision), out);
        match op {
            OpOutcome::Range(range) => write_range(range, out),
            OpOutcome::Put(put) => write_put(put, out),
            OpOutcome::Delete(delete) => write_delete(delete, out),
            OpOutcome::Txn(txn) => write_txn(txn, out),
        }
    }
}

/// Field in ResponseOp, and header revision.
fn op_head(op: &OpOutcome) -> (u32, i64) {
    match op {
        OpOutcome::Range(range) => (1, range.revision),
        OpOutcome::Put(put) => (2, put.revision),
        OpOutcome::Delete(delete) => (3, delete.revision),
        OpOutcome::Txn(txn) => (4, txn.revision),
    }
}

/// Length of the response inside a ResponseOp.
fn op_len(op: &OpOutcome) -> usize {
    let body = match op {
        OpOutcome::Range(range) => range_len(range),
        OpOutcome::Put(put) => put_len(put),
        OpOutcome::Delete(delete) => delete_len(delete),
        OpOutcome::Txn(txn) => txn_len(txn),
    };
    inner_header_len(op_head(op).1) + body
}

/// Appends tag and length of a field of `len` bytes; all our field numbers here are below 16.
pub(crate) fn put_tag(field: u32, len: usize, out: &mut impl BufMut) {
    debug_assert!(field < 16);
    out.put_u8((field << 3 | 2) as u8);
    encode_varint(len as u64, out);
}

/// Appends a field of bytes.
pub(crate) fn put_bytes(field: u32, bytes: &[u8], out: &mut impl BufMut) {
    put_tag(field, bytes.len(), out);
    out.put_slice(bytes);
}

/// Appends an int64 field, nothing if it is 0.
pub(crate) fn put_int(field: u32, value: i64, out: &mut impl BufMut) {
    if value != 0 {
        out.put_u8((field << 3) as u8);
        encode_varint(value as u64, out);
    }
}

/// Bytes of a field of `len` bytes with its tag and length.
pub(crate) fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

/// Bytes of an int64 field.
pub(crate) fn int_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value as u64) }
}

#[cfg(test)]
mod tests {
    use net::pb::etcdserverpb as pb;
    use net::pb::mvccpb::KeyValue;
    use pb::response_op::Response;

    use super::*;

    const WHO: Identity = Identity { cluster_id: 11, member_id: 12 };

    fn kv(key: &str) -> KeyValue {
        KeyValue { key: key.to_owned().into(), mod_revision: 300, ..Default::default() }
    }

    fn bytes(kv: &KeyValue) -> Bytes {
        kv.encode_to_vec().into()
    }

    fn inner(revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision, ..Default::default() })
    }

    #[test]
    fn a_put_answer_is_header_then_previous_row() {
        for prev_kv in [None, Some(kv("k"))] {
            let outcome = PutOutcome { revision: 9, prev_kv: prev_kv.as_ref().map(bytes) };
            let mut out = Vec::new();
            Answer::new(outcome.revision, put_body(&outcome)).encode(&WHO, 5, &mut out);
            let want = pb::PutResponse { header: Some(WHO.header(9, 5)), prev_kv };
            assert_eq!(pb::PutResponse::decode(&out[..]).unwrap(), want);
            assert_eq!(out, want.encode_to_vec());
        }
    }

    #[test]
    fn a_delete_answer_lists_the_rows() {
        for (deleted, rows) in [(0, vec![]), (2, vec![kv("a"), kv("b")])] {
            let outcome = DeleteOutcome { revision: 9, deleted, prev_kvs: rows.iter().map(bytes).collect() };
            let mut out = Vec::new();
            Answer::new(9, delete_body(&outcome)).encode(&WHO, 5, &mut out);
            let want = pb::DeleteRangeResponse { header: Some(WHO.header(9, 5)), deleted, prev_kvs: rows };
            assert_eq!(out, want.encode_to_vec());
        }
    }

    #[test]
    fn a_txn_answer_nests_with_headers_of_their_own() {
        let mut kvs = Vec::new();
        put_bytes(2, &bytes(&kv("a")), &mut kvs);
        let range = RangeOutcome { revision: 7, kvs: kvs.into(), more: true, count: 200 };
        let nested = TxnOutcome {
            revision: 0,
            succeeded: false,
            responses: vec![OpOutcome::Delete(DeleteOutcome {
                revision: 8,
                deleted: 1,
                prev_kvs: vec![bytes(&kv("d"))],
            })],
        };
        let outcome = TxnOutcome {
            revision: 8,
            succeeded: true,
            responses: vec![
                OpOutcome::Range(range),
                OpOutcome::Put(PutOutcome { revision: 8, prev_kv: None }),
                OpOutcome::Txn(nested),
            ],
        };
        let mut out = Vec::new();
        Answer::new(8, txn_body(&outcome)).encode(&WHO, 5, &mut out);
        let op = |response| pb::ResponseOp { response: Some(response) };
        let want = pb::TxnResponse {
            header: Some(WHO.header(8, 5)),
            succeeded: true,
            responses: vec![
                op(Response::ResponseRange(pb::RangeResponse {
                    header: inner(7),
                    kvs: vec![kv("a")],
                    more: true,
                    count: 200,
                })),
                op(Response::ResponsePut(pb::PutResponse { header: inner(8), prev_kv: None })),
                op(Response::ResponseTxn(pb::TxnResponse {
                    header: inner(0),
                    succeeded: false,
                    responses: vec![op(Response::ResponseDeleteRange(pb::DeleteRangeResponse {
                        header: inner(8),
                        deleted: 1,
                        prev_kvs: vec![kv("d")],
                    }))],
                })),
            ],
        };
        assert_eq!(pb::TxnResponse::decode(&out[..]).unwrap(), want);
        assert_eq!(out.len(), want.encoded_len());
        assert_eq!(txn_body(&outcome).len(), txn_len(&outcome));
    }

    #[test]
    fn defragment_has_no_header() {
        let answer = Answer { header: HeaderKind::None, revision: 0, body: Bytes::new() };
        let mut out = Vec::new();
        answer.encode(&WHO, 5, &mut out);
        assert!(out.is_empty());
    }
}
