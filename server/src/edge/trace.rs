//! What a process tells its raft node, the raft core around it and its store core, written down for a replay. Compiled in
//! only with the feature `failpoints`.
//!
//! The variable `RINGD_TRACE` names a directory. Each life of the process writes a file for each machine there,
//! `<member id>-<nonce of this start>.<machine>.trace`: `node` ([`consensus::trace`] has the format), `raft`
//! ([`node::raft_core::trace`]) and `store` ([`node::store_core::trace`]). It holds the state the machine began with, every
//! input, every output. It is written at the end of each turn, before anything that the turn has brought about is started, so
//! that a process that is killed leaves all that others can know of. `ringsim replay-trace` tells it to another machine.
//!
//! A trace ends when it is `TRACE_BYTES_MAX` long, or when it can't be written; the server goes on.

/// The node; where traces are compiled in and asked for, one that writes down what happens to it.
#[cfg(not(feature = "failpoints"))]
pub type TracedNode = consensus::Node;

/// The raft core; where traces are compiled in and asked for, one that writes down what happens to it.
#[cfg(not(feature = "failpoints"))]
pub type TracedRaft<S> = node::raft_core::RaftCore<S>;

/// The store core; where traces are compiled in and asked for, one that writes down what happens to it.
#[cfg(not(feature = "failpoints"))]
pub type TracedStore<O> = node::store_core::StoreCore<O>;

#[cfg(feature = "failpoints")]
pub use armed::{TracedNode, TracedRaft, TracedStore};

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::File;
    use std::io::Write;
    use std::ops::Deref;
    use std::path::Path;
    use std::time::Duration;

    use consensus::log::State;
    use consensus::trace::{Recorded, encode_start};
    use consensus::{ConfState, Config, Index, Input, LogPosition, Node, NodeId, Output};
    use engine::Store;
    use node::cores::ToStore;
    use node::membership::Member;
    use node::propose::IdGenerator;
    use node::raft_core::{self, Consensus, RaftCore, Shell, trace::Recorded as RecordedRaft};
    use node::store_core::{self, Observer, Present, Settings, StoreCore, trace::Recorded as RecordedStore};

    /// A trace that has got so long ends.
    const TRACE_BYTES_MAX: u64 = 1 << 30;

    /// See the module's header. Driven like a [`Node`].
    pub enum TracedNode {
        /// Nobody asked for a trace.
        Plain(Box<Node>),
        /// Its inputs and outputs go to a file.
        Recorded {
            /// The node.
            node: Box<Recorded>,
            /// The file.
            trace: Trace,
            /// What it began with, for the raft core's trace.
            start: Vec<u8>,
        },
    }

    /// A file that a trace is written to.
    pub struct Trace {
        /// Whose.
        member: u64,
        /// Of which of its lives.
        nonce: u64,
        file: File,
        written: u64,
    }

    impl TracedNode {
        /// See [`Node::new`].
        pub fn new(config: Config, state: State, applied: LogPosition, conf: ConfState) -> TracedNode {
            match Trace::begin(config.id.0, config.boot_nonce, "node") {
                None => TracedNode::Plain(Box::new(Node::new(config, state, applied, conf))),
                Some(trace) => {
                    let start = encode_start(&config, &state, applied, &conf);
                    let node = Box::new(Recorded::new(config, state, applied, conf));
                    TracedNode::Recorded { node, trace, start }
                }
            }
        }
    }

    impl Consensus for TracedNode {
        fn step(&mut self, input: Input, out: &mut Vec<Output>) {
            match self {
                TracedNode::Plain(node) => node.step(input, out),
                TracedNode::Recorded { node, .. } => node.step(input, out),
            }
        }

        fn flush(&mut self, out: &mut Vec<Output>) {
            match self {
                TracedNode::Plain(node) => node.flush(out),
                TracedNode::Recorded { node, trace, .. } => {
                    node.flush(out);
                    trace.write(&node.take());
                }
            }
        }

        fn node(&self) -> &Node {
            match self {
                TracedNode::Plain(node) => node,
                TracedNode::Recorded { node, .. } => node,
            }
        }
    }

    /// See the module's header. Driven like a [`RaftCore`].
    pub struct TracedRaft<S: Shell> {
        core: RecordedRaft<S>,
        trace: Option<Trace>,
    }

    impl<S: Shell<Node = TracedNode>> TracedRaft<S> {
        /// See [`RaftCore::new`].
        pub fn new(
            mut node: TracedNode,
            config: raft_core::Config,
            members: Vec<Member>,
            removed: Vec<NodeId>,
        ) -> TracedRaft<S> {
            let (trace, start) = match &mut node {
                TracedNode::Plain(_) => (None, Vec::new()),
                TracedNode::Recorded { trace, start, .. } => {
                    (Trace::begin(trace.member, trace.nonce, "raft"), std::mem::take(start))
                }
            };
            let start = trace.as_ref().map(|_| &start[..]);
            TracedRaft { core: RecordedRaft::new(node, start, config, members, removed), trace }
        }
    }

    impl<S: Shell> TracedRaft<S> {
        /// See [`RaftCore::applied`].
        pub fn applied(&mut self, applied: Index) {
            self.core.applied(applied);
        }

        /// See [`RaftCore::handle`].
        pub fn handle(
            &mut self,
            now: Duration,
            input: raft_core::Input<S>,
            out: &mut Vec<raft_core::Output<S>>,
        ) {
            self.core.handle(now, input, out);
        }

        /// See [`RaftCore::tick`].
        pub fn tick(&mut self, now: Duration, log_waits: Duration, out: &mut Vec<raft_core::Output<S>>) {
            self.core.tick(now, log_waits, out);
        }

        /// See [`RaftCore::end_turn`]. All outputs of a turn are started behind it.
        pub fn end_turn(&mut self, now: Duration, out: &mut Vec<raft_core::Output<S>>) {
            self.core.end_turn(now, out);
            self.write();
        }

        /// See [`RaftCore::look_at_versions`].
        pub fn look_at_versions(
            &mut self,
            now: Duration,
            version_of: impl Fn(NodeId) -> Option<String>,
        ) -> Option<ToStore> {
            let message = self.core.look_at_versions(now, version_of);
            self.write();
            message
        }

        fn write(&mut self) {
            if let Some(trace) = &mut self.trace {
                trace.write(&self.core.take());
            }
        }
    }

    impl<S: Shell> Deref for TracedRaft<S> {
        type Target = RaftCore<S>;

        fn deref(&self) -> &RaftCore<S> {
            &self.core
        }
    }

    /// See the module's header. Driven like a [`StoreCore`].
    pub struct TracedStore<O> {
        core: RecordedStore<O>,
        trace: Option<Trace>,
    }

    impl<O: Observer> TracedStore<O> {
        /// See [`StoreCore::new`].
        pub fn new(
            store: Store,
            ids: IdGenerator,
            settings: Settings,
            present: Present,
            observer: O,
        ) -> TracedStore<O> {
            let trace = Trace::begin(settings.member, settings.nonce, "store");
            let core = RecordedStore::new(store, ids, settings, present, observer, trace.is_some());
            TracedStore { core, trace }
        }

        /// See [`StoreCore::step`].
        ///
        /// # Errors
        /// See there.
        pub fn step(&mut self, present: Present, input: store_core::Input) -> Result<(), store_core::Fatal> {
            // What messages bring about is started behind the end of their turn.
            let in_turn = matches!(input, store_core::Input::Message(_));
            let done = self.core.step(present, input);
            if let Some(trace) = self.trace.as_mut().filter(|_| !in_turn || done.is_err()) {
                trace.write(&self.core.take());
            }
            done
        }

        /// See [`StoreCore::outputs`].
        pub fn outputs(&mut self) -> std::vec::Drain<'_, store_core::Output> {
            self.core.outputs()
        }
    }

    impl<O> Deref for TracedStore<O> {
        type Target = StoreCore<O>;

        fn deref(&self) -> &StoreCore<O> {
            &self.core
        }
    }

    impl Trace {
        /// Of this machine in this life of the member, if it is asked for.
        fn begin(member: u64, nonce: u64, machine: &str) -> Option<Trace> {
            let dir = std::env::var_os("RINGD_TRACE")?;
            let path = Path::new(&dir).join(format!("{member:x}-{nonce:016x}.{machine}.trace"));
            let file = File::create_new(&path);
            let file =
                file.inspect_err(|error| tracing::error!("no trace in {}: {error}", path.display())).ok()?;
            Some(Trace { member, nonce, file, written: 0 })
        }

        fn write(&mut self, bytes: &[u8]) {
            if self.written < TRACE_BYTES_MAX {
                self.written += bytes.len() as u64;
                if let Err(error) = self.file.write_all(bytes) {
                    tracing::error!("the trace ends: {error}");
                    self.written = TRACE_BYTES_MAX;
                }
            }
        }
    }
}
