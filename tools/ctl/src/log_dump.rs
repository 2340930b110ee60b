//! `log dump`: the log as a start would read it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use consensus::log::{SegmentReader, recover};
use consensus::{ConfChange, Entry, EntryKind, Index, LogPosition, Term};
use engine::tree::OpenError;
use engine::{Config, Store};
use net::pb::etcdserverpb::InternalRaftRequest;
use prost::Message;

use crate::data_dir::DataDir;

/// Prints the log of a stopped server.
pub fn run(data_dir: &Path, wal_dir: Option<&Path>, out: &mut impl Write) -> Result<(), String> {
    let dir = DataDir::open(data_dir)?;
    let applied = applied(&dir)?;
    let segments = dir.segments(wal_dir)?;
    let recovered = recover(&segments, dir.identity, applied).map_err(|error| error.to_string())?;
    let text = |error: std::io::Error| error.to_string();
    writeln!(out, "cluster {:x}, member {:x}", dir.identity.cluster, dir.identity.member.0).map_err(text)?;
    for info in segments.segments() {
        writeln!(out, "segment {}, {} bytes", info.id.file_name(), info.size).map_err(text)?;
    }
    let hard_state = recovered.state.hard_state;
    writeln!(out, "hard state: {hard_state:?}").map_err(text)?;
    writeln!(out, "the last checkpoint holds what is applied up to index {}", applied.index).map_err(text)?;
    for note in &recovered.notes {
        writeln!(out, "note: {note}").map_err(text)?;
    }
    for entry in &recovered.state.entries {
        writeln!(out, "index {} term {} {}", entry.index, entry.term, contents(entry)).map_err(text)?;
    }
    writeln!(out, "{} entries above the checkpoint", recovered.state.entries.len()).map_err(text)
}

/// What the last checkpoint covers; nothing if there has been none.
fn applied(dir: &DataDir) -> Result<LogPosition, String> {
    // The shortest TTL matters for grants only, and nothing is granted here.
    let identity = engine::tree::Identity { cluster: dir.identity.cluster, member: dir.identity.member.0 };
    let config = Config { tree: engine::tree::Config { identity, nonce: 0 }, lease_ttl_s_min: 1 };
    match Store::open(config, Arc::new(dir.tree()?)) {
        Ok(store) => {
            let applied = store.applied();
            Ok(LogPosition { index: Index(applied.index), term: Term(applied.term) })
        }
        Err(OpenError::Empty { .. }) => Ok(LogPosition::default()),
        Err(error) => Err(format!("the tree file: {error}; see `ringctl store check`")),
    }
}

/// One line about what an entry does.
fn contents(entry: &Entry) -> String {
    let len = entry.data.len();
    match entry.kind {
        EntryKind::ConfChange => match ConfChange::decode(&entry.data) {
            Ok(change) => format!("conf change {:?} {:x}", change.kind, change.node.0),
            Err(error) => format!("conf change of {len} bytes that can't be read: {error:?}"),
        },
        EntryKind::Normal if len == 0 => "empty: a leader has begun its term".into(),
        EntryKind::Normal => match InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) => format!("{} ({len} bytes)", summary(&request)),
            Err(error) => format!("request of {len} bytes that can't be read: {error}"),
        },
    }
}

fn summary(request: &InternalRaftRequest) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(put) = &request.put {
        return format!("put {} = {} bytes", text(&put.key), put.value.len());
    }
    if let Some(delete) = &request.delete_range {
        return format!("delete range {} {}", text(&delete.key), text(&delete.range_end));
    }
    if let Some(txn) = &request.txn {
        let counts = (txn.compare.len(), txn.success.len(), txn.failure.len());
        return format!("txn of {} compares, {} and {} operations", counts.0, counts.1, counts.2);
    }
    if let Some(compaction) = &request.compaction {
        return format!("compaction at {}", compaction.revision);
    }
    if let Some(grant) = &request.lease_grant {
        return format!("lease grant {:016x} for {} s", grant.id, grant.ttl);
    }
    if let Some(revoke) = &request.lease_revoke {
        return format!("lease revoke {:016x}", revoke.id);
    }
    if let Some(alarm) = &request.alarm {
        return format!("alarm {alarm:?}");
    }
    if let Some(version) = &request.cluster_version_set {
        return format!("cluster version {}", version.ver);
    }
    if let Some(attributes) = &request.cluster_member_attr_set {
        return format!("attributes of member {:x}", attributes.member_id);
    }
    "another request".into()
}
