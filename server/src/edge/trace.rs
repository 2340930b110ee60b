//! What a process tells its raft node, written down for a replay. Compiled in only with the feature `failpoints`.
//!
//! The variable `RINGD_TRACE` names a directory. Each life of the process writes a file of its own there,
//! `<member id>-<nonce of this start>.trace`, whose format is in [`consensus::trace`]: the state the node began with, every
//! input, every output. It is written at the end of each turn, before anything that the turn has brought about is started, so
//! that a process that is killed leaves all that others can know of. `ringsim replay-trace` tells it to another node.
//!
//! A trace ends when it is `TRACE_BYTES_MAX` long, or when it can't be written; the server goes on.

/// The node; where traces are compiled in and asked for, one that writes down what happens to it.
#[cfg(not(feature = "failpoints"))]
pub type TracedNode = consensus::Node;

#[cfg(feature = "failpoints")]
pub use armed::TracedNode;

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::File;
    use std::io::{self, Write};
    use std::path::Path;

    use consensus::log::State;
    use consensus::trace::Recorded;
    use consensus::{ConfState, Config, Input, LogPosition, Node, Output};
    use node::raft_core::Consensus;

    /// A trace that has got so long ends.
    const TRACE_BYTES_MAX: u64 = 1 << 30;

    /// See the module's header. Driven like a [`Node`].
    pub enum TracedNode {
        /// Nobody asked for a trace.
        Plain(Box<Node>),
        /// Its inputs and outputs go to a file.
        Recorded(Box<Recorded>, Trace),
    }

    /// A file that a trace is written to.
    pub struct Trace {
        file: File,
        written: u64,
    }

    impl TracedNode {
        /// See [`Node::new`].
        pub fn new(config: Config, state: State, applied: LogPosition, conf: ConfState) -> TracedNode {
            let trace = std::env::var_os("RINGD_TRACE").and_then(|dir| {
                let path =
                    Path::new(&dir).join(format!("{:x}-{:016x}.trace", config.id.0, config.boot_nonce));
                let file = File::create_new(&path);
                file.inspect_err(|error| tracing::error!("no trace in {}: {error}", path.display())).ok()
            });
            match trace {
                None => TracedNode::Plain(Box::new(Node::new(config, state, applied, conf))),
                Some(file) => {
                    let node = Box::new(Recorded::new(config, state, applied, conf));
                    TracedNode::Recorded(node, Trace { file, written: 0 })
                }
            }
        }
    }

    impl Consensus for TracedNode {
        fn step(&mut self, input: Input, out: &mut Vec<Output>) {
            match self {
                TracedNode::Plain(node) => node.step(input, out),
                TracedNode::Recorded(node, _) => node.step(input, out),
            }
        }

        fn flush(&mut self, out: &mut Vec<Output>) {
            match self {
                TracedNode::Plain(node) => node.flush(out),
                TracedNode::Recorded(node, trace) => {
                    node.flush(out);
                    let written = trace.write(&node.take());
                    let _ = written.inspect_err(|error| {
                        tracing::error!("the trace ends: {error}");
                        trace.written = TRACE_BYTES_MAX;
                    });
                }
            }
        }

        fn node(&self) -> &Node {
            match self {
                TracedNode::Plain(node) => node,
                TracedNode::Recorded(node, _) => node,
            }
        }
    }

    impl Trace {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            if self.written < TRACE_BYTES_MAX {
                self.file.write_all(bytes)?;
                self.written += bytes.len() as u64;
            }
            Ok(())
        }
    }
}
