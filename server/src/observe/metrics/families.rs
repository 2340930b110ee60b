//! The table of metrics: field, name, help, and for histograms the buckets.
//!
//! Names, types, labels and buckets of the first block are etcd 3.7's, because dashboards and alerts use them; a name
//! here stands for something that happens here, and what ringd doesn't do has no metric. Ours follow, with `ringd_`.

use super::cell::{BUCKETS_MAX, Bounds, Counter, Gauge, Histogram};

/// How the raw value of a histogram is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Raw nanoseconds, shown as seconds.
    Seconds,
    /// Raw nanoseconds, shown as milliseconds.
    Milliseconds,
    /// As it is.
    One,
}

impl Unit {
    /// Raw units in a shown one.
    pub fn scale(self) -> f64 {
        match self {
            Unit::Seconds => 1e9,
            Unit::Milliseconds => 1e6,
            Unit::One => 1.0,
        }
    }
}

/// Buckets and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Bounds in raw units.
    pub bounds: Bounds,
    /// How they are shown.
    pub unit: Unit,
}

/// exp(`first` in microseconds, 2, `count`), shown as seconds.
const fn seconds(first_us: u64, count: usize) -> Scale {
    Scale { bounds: Bounds::Doubling { first: first_us * 1000, count }, unit: Unit::Seconds }
}

/// exp(`first` in microseconds, 2, `count`), shown as milliseconds.
const fn milliseconds(first_us: u64, count: usize) -> Scale {
    Scale { bounds: Bounds::Doubling { first: first_us * 1000, count }, unit: Unit::Milliseconds }
}

/// exp(`first`, 2, `count`) of a count or size.
const fn plain(first: u64, count: usize) -> Scale {
    Scale { bounds: Bounds::Doubling { first, count }, unit: Unit::One }
}

/// exp(0.0001, 2, 20): etcd's buckets of a Range and of an apply.
pub const APPLY: Scale = seconds(100, 20);
/// exp(0.001, 2, 14): etcd's buckets of a request.
pub const REQUEST: Scale = seconds(1000, 14);
/// Buckets of `ringd_heartbeat_lateness_seconds`: 5 ms is what it must not exceed, 100 ms a heartbeat's usual interval.
const LATENESS: Scale = Scale {
    bounds: Bounds::List(&[
        50_000,
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        200_000_000,
        500_000_000,
        1_000_000_000,
    ]),
    unit: Unit::Seconds,
};
/// exp(0.0001, 2, 16): etcd's buckets of the round trip to a peer.
pub const ROUND_TRIP: Scale = seconds(100, 16);
/// exp(0.1, 2, 10): etcd's buckets of a snapshot's way to a peer or from one.
pub const SNAPSHOT: Scale = seconds(100_000, 10);
/// Buckets of `grpc_server_handling_seconds`: Prometheus' defaults.
pub const HANDLING: Scale = Scale {
    bounds: Bounds::List(&[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ]),
    unit: Unit::Seconds,
};

/// Receives every plain family of a shard in the order of the table.
pub(super) trait Visit {
    fn counter(&mut self, name: &'static str, help: &'static str, cell: &Counter);
    fn gauge(&mut self, name: &'static str, help: &'static str, cell: &Gauge);
    fn histogram(&mut self, name: &'static str, help: &'static str, scale: Scale, cell: &Histogram);
}

macro_rules! families {
    (@type counter) => { Counter };
    (@type gauge) => { Gauge };
    (@type histogram) => { Histogram };
    (@new counter) => { Counter::default() };
    (@new gauge) => { Gauge::default() };
    (@new histogram $scale:expr) => { Histogram::new($scale.bounds) };
    (@visit $visit:ident counter $name:literal $help:literal $cell:expr) => { $visit.counter($name, $help, $cell) };
    (@visit $visit:ident gauge $name:literal $help:literal $cell:expr) => { $visit.gauge($name, $help, $cell) };
    (@visit $visit:ident histogram $name:literal $help:literal $cell:expr, $scale:expr) => {
        $visit.histogram($name, $help, $scale, $cell)
    };
    ($($kind:ident $field:ident $name:literal $help:literal $(in $scale:expr)?;)*) => {
        /// The families without labels.
        #[derive(Debug)]
        pub struct Plain {
            $(#[doc = concat!("`", $name, "`: ", $help, ".")] pub $field: families!(@type $kind),)*
        }

        impl Default for Plain {
            fn default() -> Plain {
                Plain { $($field: families!(@new $kind $($scale)?),)* }
            }
        }

        impl Plain {
            /// Hands every family to `visit`.
            pub(super) fn visit(&self, visit: &mut impl Visit) {
                $(families!(@visit visit $kind $name $help &self.$field $(, $scale)?);)*
            }
        }

        /// Name, type and help of every family without labels.
        #[cfg(test)]
        pub(super) const NAMES: &[(&str, &str)] = &[$(($name, stringify!($kind)),)*];
    };
}

families! {
    // etcd's: server
    gauge has_leader "etcd_server_has_leader" "Whether or not a leader exists. 1 is existence, 0 is not";
    gauge is_leader "etcd_server_is_leader" "Whether or not this member is a leader. 1 if is, 0 otherwise";
    gauge is_learner "etcd_server_is_learner" "Whether or not this member is a learner. 1 if is, 0 otherwise";
    counter leader_changes "etcd_server_leader_changes_seen_total" "The number of leader changes seen";
    gauge proposals_committed "etcd_server_proposals_committed_total" "The total number of consensus proposals committed";
    gauge proposals_applied "etcd_server_proposals_applied_total" "The total number of consensus proposals applied";
    gauge proposals_pending "etcd_server_proposals_pending" "The current number of pending proposals to commit";
    counter proposals_failed "etcd_server_proposals_failed_total" "The total number of failed proposals seen";
    counter heartbeat_send_failures "etcd_server_heartbeat_send_failures_total" "The total number of leader heartbeat send failures (likely overloaded from slow disk)";
    counter slow_apply "etcd_server_slow_apply_total" "The total number of slow apply requests (likely overloaded from slow disk)";
    counter read_indexes_failed "etcd_server_read_indexes_failed_total" "The total number of failed read indexes seen";
    counter slow_read_indexes "etcd_server_slow_read_indexes_total" "The total number of pending read indexes not in sync with leader's or timed out read index requests";
    gauge snapshot_apply_in_progress "etcd_server_snapshot_apply_in_progress_total" "1 if the server is applying the incoming snapshot. 0 if none";
    gauge quota_backend_bytes "etcd_server_quota_backend_bytes" "Current backend storage quota size in bytes";
    counter health_success "etcd_server_health_success" "The total number of successful health checks";
    counter health_failures "etcd_server_health_failures" "The total number of failed health checks";
    counter lease_expired "etcd_debugging_server_lease_expired_total" "The total number of expired leases";

    // etcd's: log and store files
    histogram wal_fsync "etcd_disk_wal_fsync_duration_seconds" "The latency distributions of a durable write to the log; one direct write is write and fsync at once" in seconds(1000, 14);
    histogram wal_write "etcd_disk_wal_write_duration_seconds" "The latency distributions of a durable write to the log; one direct write is write and fsync at once" in seconds(1000, 14);
    gauge wal_write_bytes "etcd_disk_wal_write_bytes_total" "Total number of bytes written in the log";
    histogram backend_commit "etcd_disk_backend_commit_duration_seconds" "The latency distributions of a checkpoint of the tree file" in seconds(1000, 14);
    histogram backend_defrag "etcd_disk_backend_defrag_duration_seconds" "The latency distribution of backend defragmentation, from its call to the cut file" in seconds(100_000, 13);
    gauge defrag_inflight "etcd_disk_defrag_inflight" "Whether or not defrag is active on the member. 1 means active, 0 means not";

    // etcd's: store
    counter range_total "etcd_mvcc_range_total" "Total number of ranges seen by this member";
    counter put_total "etcd_mvcc_put_total" "Total number of puts seen by this member";
    counter delete_total "etcd_mvcc_delete_total" "Total number of deletes seen by this member";
    counter txn_total "etcd_mvcc_txn_total" "Total number of txns seen by this member";
    gauge db_total_size "etcd_mvcc_db_total_size_in_bytes" "Total size of the underlying database physically allocated in bytes";
    gauge db_in_use_size "etcd_mvcc_db_total_size_in_use_in_bytes" "Total size of the underlying database logically in use in bytes";
    histogram hash "etcd_mvcc_hash_duration_seconds" "The latency distribution of storage hash operation" in seconds(10_000, 15);
    histogram hash_rev "etcd_mvcc_hash_rev_duration_seconds" "The latency distribution of storage hash by revision operation" in seconds(10_000, 15);
    gauge keys "etcd_debugging_mvcc_keys_total" "Total number of keys";
    gauge total_put_size "etcd_debugging_mvcc_total_put_size_in_bytes" "The total size of put kv pairs seen by this member";
    gauge current_revision "etcd_debugging_mvcc_current_revision" "The current revision of store";
    gauge compact_revision "etcd_debugging_mvcc_compact_revision" "The revision of the last compaction in store";
    counter compaction_keys "etcd_debugging_mvcc_db_compaction_keys_total" "Total number of db keys compacted";
    gauge compaction_last "etcd_debugging_mvcc_db_compaction_last" "The unix time of the last db compaction. Resets to 0 on start";
    histogram compaction_pause "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" "Bucketed histogram of db compaction pause duration" in milliseconds(1000, 13);
    histogram compaction_total "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" "Bucketed histogram of db compaction total duration" in milliseconds(100_000, 14);

    // etcd's: watches and leases
    gauge watch_streams "etcd_debugging_mvcc_watch_stream_total" "Total number of watch streams";
    gauge watchers "etcd_debugging_mvcc_watcher_total" "Total number of watchers";
    gauge slow_watchers "etcd_debugging_mvcc_slow_watcher_total" "Total number of unsynced slow watchers";
    counter events "etcd_debugging_mvcc_events_total" "Total number of events sent by this member";
    counter lease_granted "etcd_debugging_lease_granted_total" "The total number of granted leases";
    counter lease_revoked "etcd_debugging_lease_revoked_total" "The total number of revoked leases";
    counter lease_renewed "etcd_debugging_lease_renewed_total" "The number of renewed leases seen by the leader";
    histogram lease_ttl "etcd_debugging_lease_ttl_total" "Bucketed histogram of lease TTLs" in plain(1, 24);

    // etcd's: network
    counter client_received_bytes "etcd_network_client_grpc_received_bytes_total" "The total number of bytes received from grpc clients";
    counter client_sent_bytes "etcd_network_client_grpc_sent_bytes_total" "The total number of bytes sent to grpc clients";

    // ours: log
    histogram log_write "ringd_log_write_duration_seconds" "Time of one durable write to the log, from submission to completion" in seconds(10, 22);
    histogram log_batch_bytes "ringd_log_batch_bytes" "Bytes of one durable write to the log" in plain(4096, 12);
    histogram log_batch_entries "ringd_log_batch_entries" "Raft entries in one durable write to the log" in plain(1, 16);
    gauge log_segments "ringd_log_segments" "Segments of the log, free ones included";
    gauge log_bytes_since_checkpoint "ringd_log_bytes_since_checkpoint" "Bytes of log that a restart would replay";

    // ours: ticks, batches
    histogram tick_lateness "ringd_tick_lateness_seconds" "How much later than due the raft core ticked" in seconds(10, 22);
    histogram heartbeat_lateness "ringd_heartbeat_lateness_seconds" "How much later than due a leader handed a heartbeat to its socket; due is start + n x interval, and heartbeats that were left out count" in LATENESS;
    counter ticks_skipped "ringd_ticks_skipped_total" "Ticks left out because the raft core came too late for them";
    histogram apply_batch "ringd_apply_batch_duration_seconds" "Time to apply what one turn of the store core had queued" in seconds(10, 22);
    histogram apply_batch_entries "ringd_apply_batch_entries" "Entries applied between two published snapshots" in plain(1, 16);

    // ours: tree file
    histogram checkpoint "ringd_checkpoint_duration_seconds" "Time of one checkpoint, from its roots to its meta page" in seconds(100, 22);
    counter checkpoint_pages "ringd_checkpoint_pages_total" "Pages written by checkpoints";
    counter checkpoint_failures "ringd_checkpoint_failures_total" "Checkpoints that could not be written";
    counter scrub_pages "ringd_scrub_pages_total" "Pages of the tree file verified by the background scrub";
    counter scrub_passes "ringd_scrub_passes_total" "Passes of the scrub over the whole tree file that found no damage";
    gauge scrub_finished "ringd_scrub_last_finished_timestamp_seconds" "When the last such pass ended, in seconds since 1970; 0 before the first";
    gauge heap_bytes "ringd_tree_heap_bytes" "Tree pages in memory, changed since the last checkpoint or still read";
    gauge pages_allocated "ringd_tree_pages_allocated" "Pages of the tree file that are not free";
    gauge pages_in_use "ringd_tree_pages_in_use" "Pages of the tree file that the newest snapshot reaches";
    gauge file_pages "ringd_tree_file_pages" "Length of the tree file in pages";

    // ours: connections
    gauge connections "ringd_client_connections" "Open client connections";
    counter connections_accepted "ringd_client_connections_accepted_total" "Client connections accepted";
    counter connections_refused "ringd_client_connections_refused_total" "Client connections that ended before they spoke a protocol: failed TLS handshakes, silence, probes";
    counter proposals_shed "ringd_proposals_shed_total" "Proposals answered with too many requests because a bound was reached";
}

const _: () = assert!(BUCKETS_MAX >= 24, "etcd_debugging_lease_ttl_total has 24 buckets");
