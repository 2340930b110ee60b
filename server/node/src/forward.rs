//! What a member asks the leader on behalf of a client: only the leader times leases, and only it knows how far a
//! learner has come.
//!
//! These are the bodies of `consensus::message::PeerMessage::{Request, Response}`, which consensus passes on without
//! a look. Numbers are big-endian. A body has exactly the bytes that its kind says; anything else is an error.
//!
//! | request | bytes |
//! |---|---|
//! | keep a lease alive | `01`, lease id (8) |
//! | time to live | `02`, lease id (8), 1 if keys are wanted, else 0 (1) |
//! | promote a learner | `03`, member id (8) |
//!
//! | response | bytes |
//! |---|---|
//! | refused | `00`, etcd's text of the error (UTF-8, to the end) |
//! | kept alive | `01`, granted TTL in seconds, 0 if there is no such lease (8) |
//! | time to live | `02`, fields of a LeaseTimeToLiveResponse but its header (protobuf, to the end) |
//! | promoted | `03`, fields of a MemberPromoteResponse but its header (protobuf, to the end) |
//!
//! The header of the client's answer is that of the member it asked (etcd does the same). Version rule: kinds keep
//! their numbers and meanings; a member that gets an unknown one answers nothing, and the asker's time runs out.
//!
//! A request may arrive twice or never. All of them can be done twice: a promotion that was done is refused as such.

use bytes::{Bytes, BytesMut};

use crate::api::Error;

/// What is asked of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Renew a lease.
    KeepAlive {
        /// Which.
        lease: i64,
    },
    /// What is left of a lease.
    TimeToLive {
        /// Which.
        lease: i64,
        /// With the attached keys.
        keys: bool,
    },
    /// Make a voter of a learner.
    Promote {
        /// Which.
        member: u64,
    },
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::KeepAlive`]: the granted TTL in seconds, 0 if there is no such lease.
    KeptAlive(i64),
    /// To [`Request::TimeToLive`]: the answer's fields after the header.
    TimeToLive(Bytes),
    /// To [`Request::Promote`]: the answer's fields after the header.
    Promoted(Bytes),
    /// To any of them.
    Refused(Error),
}

/// Bytes that are no request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a request or response between members")
    }
}

impl std::error::Error for Invalid {}

const REFUSED: u8 = 0;
const KEEP_ALIVE: u8 = 1;
const TIME_TO_LIVE: u8 = 2;
const PROMOTE: u8 = 3;

impl Request {
    /// The body.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(10);
        match self {
            Request::KeepAlive { lease } => {
                out.push(KEEP_ALIVE);
                out.extend_from_slice(&lease.to_be_bytes());
            }
            Request::TimeToLive { lease, keys } => {
                out.push(TIME_TO_LIVE);
                out.extend_from_slice(&lease.to_be_bytes());
                out.push(u8::from(keys));
            }
            Request::Promote { member } => {
                out.push(PROMOTE);
                out.extend_from_slice(&member.to_be_bytes());
            }
        }
        out.into()
    }

    /// Undoes [`Request::encode`].
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn decode(body: &[u8]) -> Result<Request, Invalid> {
        let (kind, rest) = body.split_first().ok_or(Invalid)?;
        let (number, flag) = rest.split_first_chunk::<8>().ok_or(Invalid)?;
        match (*kind, flag) {
            (KEEP_ALIVE, []) => Ok(Request::KeepAlive { lease: i64::from_be_bytes(*number) }),
            (TIME_TO_LIVE, [keys @ (0 | 1)]) => {
                Ok(Request::TimeToLive { lease: i64::from_be_bytes(*number), keys: *keys == 1 })
            }
            (PROMOTE, []) => Ok(Request::Promote { member: u64::from_be_bytes(*number) }),
            _ => Err(Invalid),
        }
    }
}

impl Response {
    /// The body.
    pub fn encode(&self) -> Bytes {
        let (kind, rest): (u8, &[u8]) = match self {
            Response::Refused(error) => (REFUSED, error.text().as_bytes()),
            Response::KeptAlive(ttl) => (KEEP_ALIVE, &ttl.to_be_bytes()),
            Response::TimeToLive(fields) => (TIME_TO_LIVE, fields),
            Response::Promoted(fields) => (PROMOTE, fields),
        };
        let mut out = BytesMut::with_capacity(1 + rest.len());
        out.extend_from_slice(&[kind]);
        out.extend_from_slice(rest);
        out.freeze()
    }

    /// Undoes [`Response::encode`]; what is long shares the body's bytes.
    ///
    /// # Errors
    /// [`Invalid`], also for the text of an error that this version doesn't know.
    pub fn decode(body: &Bytes) -> Result<Response, Invalid> {
        let kind = *body.first().ok_or(Invalid)?;
        let rest = body.slice(1..);
        match kind {
            REFUSED => {
                let error = Error::ALL.iter().find(|error| error.text().as_bytes() == rest);
                error.map(|error| Response::Refused(*error)).ok_or(Invalid)
            }
            KEEP_ALIVE => {
                let ttl = <[u8; 8]>::try_from(&rest[..]).map_err(|_| Invalid)?;
                Ok(Response::KeptAlive(i64::from_be_bytes(ttl)))
            }
            TIME_TO_LIVE => Ok(Response::TimeToLive(rest)),
            PROMOTE => Ok(Response::Promoted(rest)),
            _ => Err(Invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_requests() {
        let cases: [(Request, &[u8]); 4] = [
            (Request::KeepAlive { lease: 0x0102 }, &[1, 0, 0, 0, 0, 0, 0, 1, 2]),
            (Request::TimeToLive { lease: -1, keys: false }, &[2, 255, 255, 255, 255, 255, 255, 255, 255, 0]),
            (Request::TimeToLive { lease: 7, keys: true }, &[2, 0, 0, 0, 0, 0, 0, 0, 7, 1]),
            (
                Request::Promote { member: 0x8e9e_05c5_2164_694d },
                &[3, 0x8e, 0x9e, 0x05, 0xc5, 0x21, 0x64, 0x69, 0x4d],
            ),
        ];
        for (request, bytes) in cases {
            assert_eq!(&request.encode()[..], bytes, "{request:?}");
            assert_eq!(Request::decode(bytes), Ok(request));
            for cut in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..cut]), Err(Invalid), "{request:?} cut at {cut}");
            }
            assert_eq!(Request::decode(&[bytes, &[0, 0]].concat()), Err(Invalid), "{request:?} and more");
        }
        assert_eq!(Request::decode(&[2, 0, 0, 0, 0, 0, 0, 0, 7, 2]), Err(Invalid));
        assert_eq!(Request::decode(&[9, 0, 0, 0, 0, 0, 0, 0, 7]), Err(Invalid));
    }

    #[test]
    fn golden_responses() {
        let cases: [(Response, &[u8]); 4] = [
            (Response::KeptAlive(60), &[1, 0, 0, 0, 0, 0, 0, 0, 60]),
            (Response::TimeToLive(Bytes::from_static(&[0x10, 7])), &[2, 0x10, 7]),
            (Response::Promoted(Bytes::new()), &[3]),
            (Response::Refused(Error::NotLeader), b"\0etcdserver: not leader"),
        ];
        for (response, bytes) in cases {
            assert_eq!(&response.encode()[..], bytes, "{response:?}");
            assert_eq!(Response::decode(&Bytes::copy_from_slice(bytes)), Ok(response));
        }
        for bad in [&b""[..], b"\0", b"\0etcdserver: not", b"\x01\0", b"\x01\0\0\0\0\0\0\0\0\0", b"\x09"] {
            assert_eq!(Response::decode(&Bytes::copy_from_slice(bad)), Err(Invalid), "{bad:?}");
        }
    }

    #[test]
    fn every_error_comes_back() {
        for &error in Error::ALL {
            let response = Response::Refused(error);
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(request) = Request::decode(&bytes) {
                prop_assert_eq!(&request.encode()[..], &bytes[..]);
            }
            if let Ok(response) = Response::decode(&Bytes::from(bytes.clone())) {
                prop_assert_eq!(&response.encode()[..], &bytes[..]);
            }
        }
    }
}
