//! Every error a client can see, in one table: name, gRPC code, text.
//!
//! clientv3 recognises an error by its exact text and Kubernetes compares the revision errors for equality, so a text
//! changes only when etcd changes it. Two codes look wrong and are right: etcd declares "too many requests" and "not
//! enough started members" with other codes, but maps them in a way that puts Unknown on the wire.

use std::borrow::Cow;

use engine::{RangeError, TxnError};
use net::grpc::{Code, Status};

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident, $code:ident, $text:literal;)*) => {
        /// Why a request was refused, in etcd's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Error {
            $($(#[$doc])* $name,)*
        }

        impl Error {
            /// Every error, in the order of the table.
            pub const ALL: &'static [Error] = &[$(Error::$name,)*];

            /// The gRPC code on the wire.
            pub fn code(self) -> Code {
                match self {
                    $(Error::$name => Code::$code,)*
                }
            }

            /// The text on the wire.
            pub fn text(self) -> &'static str {
                match self {
                    $(Error::$name => $text,)*
                }
            }
        }
    };
}

errors! {
    /// Empty key in Range, Put, DeleteRange or Compare.
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a missing key, or an operation without a request in a txn.
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` with a value.
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` with a lease.
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    /// More operations than `--max-txn-ops` allows, nesting counted.
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    /// The same key written twice by one transaction.
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Metadata that is not UTF-8.
    InvalidClientApiVersion, InvalidArgument, "etcdserver: invalid client api version";
    /// Unknown sort order or target.
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    /// The revision lies before the compact revision.
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision is not reached yet.
    FutureRevision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is used up, or a NOSPACE alarm is active.
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// No such lease.
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    /// A grant with an id in use.
    LeaseExists, FailedPrecondition, "etcdserver: lease already exists";
    /// A grant of more than 9 000 000 000 seconds.
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    /// The client cancelled its watch stream.
    WatchCanceled, Canceled, "etcdserver: watch canceled";
    /// MemberAdd of an id that exists.
    MemberExists, FailedPrecondition, "etcdserver: member ID already exist";
    /// A peer URL that another member has.
    PeerUrlExists, FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// A membership change that could cost the quorum.
    NotEnoughStartedMembers, Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// Member URLs that do not parse.
    BadMemberUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No such member, or removed.
    MemberNotFound, NotFound, "etcdserver: member not found";
    /// Promotion of a voter.
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that lags.
    LearnerNotReady, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than `--max-learners`.
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A peer of another cluster.
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// The Raft entry would exceed `--max-request-bytes`.
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    /// Too much is proposed and not yet applied.
    TooManyRequests, Unknown, "etcdserver: too many requests";
    /// No leader is known.
    NoLeader, Unavailable, "etcdserver: no leader";
    /// Only the leader can do this.
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    /// Leadership moved while the request was under way.
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    /// The cluster version is not known yet.
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    /// The server shuts down.
    Stopped, Unavailable, "etcdserver: server stopped";
    /// No result within the request timeout; the outcome is unknown.
    Timeout, Unavailable, "etcdserver: request timed out";
    /// As `Timeout`, when a leader was lost meanwhile.
    TimeoutLeaderFailure, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// As `Timeout`, while disconnected from the quorum.
    TimeoutConnectionLost, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// The applied index did not catch up within a second.
    TimeoutWaitApplied, Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// MoveLeader: the other didn't lead before the caller's deadline.
    TimeoutLeaderTransfer, Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// Not connected to a quorum.
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    /// A CORRUPT alarm is active, or stored bytes failed their checksum.
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    /// A learner serves few calls.
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// MoveLeader to an unknown member or a learner.
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    /// The caller went away.
    Canceled, Canceled, "context canceled";
    /// The caller's deadline passed.
    DeadlineExceeded, DeadlineExceeded, "context deadline exceeded";
    /// This member stopped timing leases (it is no longer the leader).
    NotPrimary, Unknown, "not a primary lessor";
    /// A health check of a service name that is not registered.
    UnknownService, NotFound, "unknown service";
    /// The request is not a message of its type.
    Malformed, Internal, "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
}

impl Error {
    /// The status that ends the call.
    pub fn status(self) -> Status {
        Status { code: self.code(), message: Cow::Borrowed(self.text()) }
    }

    /// The error as Go prints a gRPC error; cancel reasons of watches carry it so.
    pub fn go_text(self) -> String {
        format!("rpc error: code = {:?} desc = {}", self.code(), self.text())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        error.status()
    }
}

impl From<&TxnError> for Error {
    fn from(error: &TxnError) -> Error {
        match error {
            TxnError::LeaseNotFound { .. } => Error::LeaseNotFound,
            TxnError::LeaseExists { .. } => Error::LeaseExists,
            TxnError::LeaseTtlTooLarge { .. } => Error::LeaseTtlTooLarge,
            TxnError::KeyNotFound => Error::KeyNotFound,
            TxnError::Compacted { .. } => Error::Compacted,
            TxnError::FutureRevision { .. } => Error::FutureRevision,
            TxnError::Damaged(_) => Error::Corrupt,
        }
    }
}

impl From<&RangeError> for Error {
    fn from(error: &RangeError) -> Error {
        match error {
            RangeError::Compacted { .. } => Error::Compacted,
            RangeError::FutureRevision { .. } => Error::FutureRevision,
            RangeError::Damaged(_) => Error::Corrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_etcd_puts_on_the_wire() {
        // number of the code, start of the text; one row per code in use
        let cases = [
            (Error::WatchCanceled, 1, "etcdserver: watch canceled"),
            (Error::TooManyRequests, 2, "etcdserver: too many requests"),
            (Error::NotEnoughStartedMembers, 2, "etcdserver: re-configuration failed"),
            (Error::EmptyKey, 3, "etcdserver: key is not provided"),
            (Error::DeadlineExceeded, 4, "context deadline exceeded"),
            (Error::LeaseNotFound, 5, "etcdserver: requested lease not found"),
            (Error::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
            (Error::LeaseExists, 9, "etcdserver: lease already exists"),
            (Error::Compacted, 11, "etcdserver: mvcc: required revision has been compacted"),
            (Error::Malformed, 13, "grpc: error unmarshalling request"),
            (Error::NoLeader, 14, "etcdserver: no leader"),
            (Error::Corrupt, 15, "etcdserver: corrupt cluster"),
        ];
        for (error, code, text) in cases {
            assert_eq!(error.code() as u8, code, "{error:?}");
            assert!(error.text().starts_with(text), "{error:?}");
        }
    }

    #[test]
    fn no_two_errors_share_a_text() {
        for (i, a) in Error::ALL.iter().enumerate() {
            for b in &Error::ALL[i + 1..] {
                assert_ne!(a.text(), b.text(), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn go_prints_code_and_description() {
        assert_eq!(
            Error::Compacted.go_text(),
            "rpc error: code = OutOfRange desc = etcdserver: mvcc: required revision has been compacted"
        );
    }
}
