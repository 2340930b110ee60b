//! One cluster with its keys, and one measurement on it.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::pb::{PutRequest, RequestOp, StatusRequest, TxnRequest, request_op};
use testkit::{Client, Cluster, Program, ServerOptions, scratch_dir};
use tokio::runtime::Runtime;

use crate::metrics::{Scrape, quantile};
use crate::noise::{Kind, Noise};
use crate::probe;
use crate::report::Measured;

/// What the keys of lists begin with, and the end of their range.
pub const LIST_PREFIX: &str = "/registry/pods/";
/// See [`LIST_PREFIX`].
pub const LIST_END: &str = "/registry/pods0";

/// Keys that are listed.
const KEYS: usize = 20_000;

/// Bytes of each value.
const VALUE_BYTES: usize = 10 << 10;

/// What is waited after a disturbance until the next measurement.
const CALM: Duration = Duration::from_secs(4);

/// How long a disturbance goes on before the first put.
const ONSET: Duration = Duration::from_secs(1);

/// A cluster of three.
pub struct Site {
    cluster: Cluster,
    runtime: Runtime,
}

impl Site {
    /// Starts the members and puts the keys.
    ///
    /// # Errors
    /// A put fails.
    pub fn start(program: &Program) -> Result<Site, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let options = ServerOptions::new(program.clone()).arg("--quota-backend-bytes=8589934592");
        let site = Site { cluster: Cluster::start(options, 3), runtime };
        site.runtime.block_on(async {
            let leader = site.cluster.leader(&[0, 1, 2]).await;
            load(site.cluster.client(leader).await).await
        })?;
        std::thread::sleep(CALM);
        Ok(site)
    }

    /// Puts for so long under one disturbance.
    ///
    /// # Errors
    /// Puts that were answered aren't there, or the disturbance was none.
    pub fn measure(&self, kind: Kind, rate: u32, seconds: f64) -> Result<Measured, String> {
        let leader = self.runtime.block_on(self.cluster.leader(&[0, 1, 2]));
        let member = &self.cluster.members()[leader];
        let address = SocketAddr::from((member.address(), 2379));
        let scrape = || Scrape::of(address).map_err(|error| format!("/metrics: {error}"));
        let noise = Noise::start(kind, address, &scratch_dir()).map_err(|error| error.to_string())?;
        std::thread::sleep(ONSET);
        let (term, before) = (self.term()?, scrape()?);
        let puts = probe::run(member.url(), rate, seconds)?;
        let after = scrape()?;
        let remark = noise.end()?;
        let elections = self.term()? - term;
        std::thread::sleep(CALM);
        let missed = "etcd_server_heartbeat_send_failures_total";
        let lateness = "ringd_heartbeat_lateness_seconds";
        Ok(Measured {
            puts,
            elections,
            missed: after.value(missed).unwrap_or(0.0) - before.value(missed).unwrap_or(0.0),
            lateness_us: quantile(&before.histogram(lateness), &after.histogram(lateness), 0.999),
            remark,
        })
    }

    /// The highest term of all members.
    fn term(&self) -> Result<u64, String> {
        self.runtime.block_on(async {
            let mut term = 0;
            for number in 0..3 {
                let mut client = self.cluster.client(number).await;
                let status = client.maintenance.status(StatusRequest {}).await;
                term = term.max(status.map_err(|status| status.to_string())?.into_inner().raft_term);
            }
            Ok(term)
        })
    }
}

/// Puts the keys, 100 to a transaction.
async fn load(mut client: Client) -> Result<(), String> {
    for batch in 0..KEYS / 100 {
        let put = |i: usize| PutRequest {
            key: format!("{LIST_PREFIX}ns-{:03}/pod-{i:07}", i % 100).into_bytes(),
            value: vec![b'a' + (i % 26) as u8; VALUE_BYTES],
            ..Default::default()
        };
        let success = (batch * 100..(batch + 1) * 100)
            .map(|i| RequestOp { request: Some(request_op::Request::RequestPut(put(i))) })
            .collect();
        let txn = TxnRequest { success, ..Default::default() };
        client.kv.txn(txn).await.map_err(|status| status.to_string())?;
    }
    Ok(())
}
