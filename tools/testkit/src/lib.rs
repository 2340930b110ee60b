//! What tests and benchmarks share: servers as processes, an outside client, and readings of a process.
//!
//! A [`Server`] is ringd or the real etcd, run as a child process with its own address and data directory, so that one
//! test can be proved against etcd first and then be put to ringd. The clients are tonic's and the `etcd-client`
//! crate: none of our own network code judges itself.

mod cluster;
mod disk;
pub mod history;
mod network;
mod oracle;
mod patience;
pub mod process;
mod server;
mod stream;

pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use network::Network;
pub use oracle::{Oracle, oracle};
pub use patience::within;
pub use server::{Program, Server, ServerOptions, scratch_dir};
pub use stream::Duplex;

/// Generated messages and clients, one module per protobuf package.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
    pub use etcdserverpb::*;
    pub use mvccpb::{Event, KeyValue};
}

use std::time::Duration;

use pb::cluster_client::ClusterClient;
use pb::health::health_client::HealthClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::transport::{Channel, Endpoint};

/// How long a call may take until its answer begins: a server that hangs must not hang its test.
const PATIENCE: Duration = Duration::from_secs(30);

/// All services of one server over one connection, with no limit on the size of answers.
#[derive(Clone, Debug)]
pub struct Client {
    /// `etcdserverpb.KV`
    pub kv: KvClient<Channel>,
    /// `etcdserverpb.Watch`
    pub watch: WatchClient<Channel>,
    /// `etcdserverpb.Lease`
    pub lease: LeaseClient<Channel>,
    /// `etcdserverpb.Cluster`
    pub cluster: ClusterClient<Channel>,
    /// `etcdserverpb.Maintenance`
    pub maintenance: MaintenanceClient<Channel>,
    /// `grpc.health.v1.Health`
    pub health: HealthClient<Channel>,
    /// The connection itself, for calls that no generated client makes.
    pub channel: Channel,
}

impl Client {
    /// Connects to `url` now (`http://127.0.0.1:2379`).
    pub async fn connect(url: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).timeout(PATIENCE);
        Ok(Self::over(endpoint.connect().await?))
    }

    /// The services over a connection that is there already.
    pub fn over(channel: Channel) -> Self {
        let limit = usize::MAX;
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(limit),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(limit),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            health: HealthClient::new(channel.clone()),
            channel,
        }
    }
}
