//! The one table of methods: every RPC of etcd's client API, of its lock and election services, and of
//! `grpc.health.v1`.
//!
//! A request's `:path` is compared exactly with `/package.Service/Method` (no trimming, no case folding, no
//! missing slash: CVE-2026-33186); everything after the resolution, authorization included, goes by [`Method`].

use std::borrow::Cow;

use crate::grpc::{Code, Status};

/// Who sends how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request message, one answer.
    Unary,
    /// One request message, any number of answers.
    ServerStream,
    /// Any number of both.
    Stream,
}

macro_rules! methods {
    ($($name:ident, $kind:ident, $service:literal, $rpc:literal;)*) => {
        /// An RPC that this API knows. Which of them are served is the server's decision.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are etcd's; the table below says which is which")]
        pub enum Method {
            $($name,)*
        }

        impl Method {
            /// Every method, in the order of the table.
            pub const ALL: &'static [Method] = &[$(Method::$name,)*];

            /// The `:path` of the method.
            pub fn path(self) -> &'static str {
                match self {
                    $(Method::$name => concat!("/", $service, "/", $rpc),)*
                }
            }

            /// Service with its package, and method: `("etcdserverpb.KV", "Range")`.
            pub fn names(self) -> (&'static str, &'static str) {
                match self {
                    $(Method::$name => ($service, $rpc),)*
                }
            }

            /// How many messages go which way.
            pub fn kind(self) -> Kind {
                match self {
                    $(Method::$name => Kind::$kind,)*
                }
            }

            /// The method of a `:path`, if there is one.
            pub fn from_path(path: &[u8]) -> Option<Method> {
                $(
                    if path == concat!("/", $service, "/", $rpc).as_bytes() {
                        return Some(Method::$name);
                    }
                )*
                None
            }
        }
    };
}

methods! {
    KvRange, Unary, "etcdserverpb.KV", "Range";
    KvRangeStream, ServerStream, "etcdserverpb.KV", "RangeStream";
    KvPut, Unary, "etcdserverpb.KV", "Put";
    KvDeleteRange, Unary, "etcdserverpb.KV", "DeleteRange";
    KvTxn, Unary, "etcdserverpb.KV", "Txn";
    KvCompact, Unary, "etcdserverpb.KV", "Compact";
    Watch, Stream, "etcdserverpb.Watch", "Watch";
    LeaseGrant, Unary, "etcdserverpb.Lease", "LeaseGrant";
    LeaseRevoke, Unary, "etcdserverpb.Lease", "LeaseRevoke";
    LeaseKeepAlive, Stream, "etcdserverpb.Lease", "LeaseKeepAlive";
    LeaseTimeToLive, Unary, "etcdserverpb.Lease", "LeaseTimeToLive";
    LeaseLeases, Unary, "etcdserverpb.Lease", "LeaseLeases";
    MemberAdd, Unary, "etcdserverpb.Cluster", "MemberAdd";
    MemberRemove, Unary, "etcdserverpb.Cluster", "MemberRemove";
    MemberUpdate, Unary, "etcdserverpb.Cluster", "MemberUpdate";
    MemberList, Unary, "etcdserverpb.Cluster", "MemberList";
    MemberPromote, Unary, "etcdserverpb.Cluster", "MemberPromote";
    MaintenanceAlarm, Unary, "etcdserverpb.Maintenance", "Alarm";
    MaintenanceStatus, Unary, "etcdserverpb.Maintenance", "Status";
    MaintenanceDefragment, Unary, "etcdserverpb.Maintenance", "Defragment";
    MaintenanceHash, Unary, "etcdserverpb.Maintenance", "Hash";
    MaintenanceHashKv, Unary, "etcdserverpb.Maintenance", "HashKV";
    MaintenanceSnapshot, ServerStream, "etcdserverpb.Maintenance", "Snapshot";
    MaintenanceMoveLeader, Unary, "etcdserverpb.Maintenance", "MoveLeader";
    MaintenanceDowngrade, Unary, "etcdserverpb.Maintenance", "Downgrade";
    AuthEnable, Unary, "etcdserverpb.Auth", "AuthEnable";
    AuthDisable, Unary, "etcdserverpb.Auth", "AuthDisable";
    AuthStatus, Unary, "etcdserverpb.Auth", "AuthStatus";
    AuthAuthenticate, Unary, "etcdserverpb.Auth", "Authenticate";
    AuthUserAdd, Unary, "etcdserverpb.Auth", "UserAdd";
    AuthUserGet, Unary, "etcdserverpb.Auth", "UserGet";
    AuthUserList, Unary, "etcdserverpb.Auth", "UserList";
    AuthUserDelete, Unary, "etcdserverpb.Auth", "UserDelete";
    AuthUserChangePassword, Unary, "etcdserverpb.Auth", "UserChangePassword";
    AuthUserGrantRole, Unary, "etcdserverpb.Auth", "UserGrantRole";
    AuthUserRevokeRole, Unary, "etcdserverpb.Auth", "UserRevokeRole";
    AuthRoleAdd, Unary, "etcdserverpb.Auth", "RoleAdd";
    AuthRoleGet, Unary, "etcdserverpb.Auth", "RoleGet";
    AuthRoleList, Unary, "etcdserverpb.Auth", "RoleList";
    AuthRoleDelete, Unary, "etcdserverpb.Auth", "RoleDelete";
    AuthRoleGrantPermission, Unary, "etcdserverpb.Auth", "RoleGrantPermission";
    AuthRoleRevokePermission, Unary, "etcdserverpb.Auth", "RoleRevokePermission";
    Lock, Unary, "v3lockpb.Lock", "Lock";
    Unlock, Unary, "v3lockpb.Lock", "Unlock";
    ElectionCampaign, Unary, "v3electionpb.Election", "Campaign";
    ElectionProclaim, Unary, "v3electionpb.Election", "Proclaim";
    ElectionLeader, Unary, "v3electionpb.Election", "Leader";
    ElectionObserve, ServerStream, "v3electionpb.Election", "Observe";
    ElectionResign, Unary, "v3electionpb.Election", "Resign";
    HealthCheck, Unary, "grpc.health.v1.Health", "Check";
    HealthWatch, ServerStream, "grpc.health.v1.Health", "Watch";
    HealthList, Unary, "grpc.health.v1.Health", "List";
}

/// The answer to a `:path` that is no method, in grpc-go's words (`server.go`, `handleStream`).
pub fn unknown(path: &[u8]) -> Status {
    let text = String::from_utf8_lossy(path);
    let Some((service, method)) = text.strip_prefix('/').and_then(|rest| rest.rsplit_once('/')) else {
        return Status::new(Code::Unimplemented, format!("malformed method name: {text:?}"));
    };
    let known = Method::ALL.iter().any(|m| m.names().0 == service);
    let message = if known {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    };
    Status { code: Code::Unimplemented, message: Cow::Owned(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_resolves_to_its_method_and_to_no_other() {
        for &method in Method::ALL {
            let (service, rpc) = method.names();
            assert_eq!(method.path(), format!("/{service}/{rpc}"));
            assert_eq!(Method::from_path(method.path().as_bytes()), Some(method));
        }
        assert_eq!(Method::ALL.len(), 52);
    }

    #[test]
    fn only_the_canonical_path_is_a_method() {
        let cases = [
            "etcdserverpb.KV/Range",
            "//etcdserverpb.KV/Range",
            "/etcdserverpb.KV/Range/",
            "/etcdserverpb.KV/range",
            "/etcdserverpb.kv/Range",
            "/etcdserverpb.KV/Range?x",
            "/",
            "",
        ];
        for path in cases {
            assert_eq!(Method::from_path(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn unknown_methods_get_the_words_of_grpc_go() {
        let cases = [
            ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
            ("/no.Such/Thing", "unknown service no.Such"),
            ("/a/b/c", "unknown service a/b"),
            ("nope", "malformed method name: \"nope\""),
        ];
        for (path, want) in cases {
            assert_eq!(unknown(path.as_bytes()), Status::new(Code::Unimplemented, want));
        }
    }
}
