//! The messages of etcd's services, generated from `proto/` by `build.rs` (there is no other schema in the project).
//!
//! Two things surprise: prost spells `peerURLs` as `peer_ur_ls` and `grantedTTL` as `granted_ttl`, and enum fields are
//! plain `i32`, so that a value unknown to us arrives as it was sent and can be refused by name.
#![allow(missing_docs, clippy::all)]

/// KeyValue and Event.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
/// Users, roles, permissions.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
/// Membership requests of the Raft log.
pub mod membershippb {
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
}
/// The client services and the Raft entry (`InternalRaftRequest`).
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}
/// Leases as stored and as asked between members.
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}
/// The lock service.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
/// The election service.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
/// The gRPC health service, package `grpc.health.v1`.
pub mod healthpb {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
