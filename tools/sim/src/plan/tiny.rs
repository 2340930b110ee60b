//! Bounds that the machines are told when they are made, drawn far below production's: what is cut, split, refused and tried again
//! there only under great load happens here all the time.

use consensus::Config;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// Worlds with such bounds, of 1000.
const TINY_WORLDS: usize = 400;

/// See the module's header. Bytes, but for reads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tiny {
    /// [`Config::append_bytes`].
    pub append: usize,
    /// [`Config::peer_bytes_in_flight`].
    pub in_flight: usize,
    /// [`Config::fetch_bytes`].
    pub fetch: usize,
    /// [`Config::proposal_bytes_limit`].
    pub proposals: usize,
    /// [`Config::reads_limit`].
    pub reads: usize,
    /// [`node::watch_hub::Config::fragment_bytes_max`].
    pub fragment: usize,
}

impl Tiny {
    pub(super) fn draw(rng: &mut Rng) -> Option<Tiny> {
        rng.permille(TINY_WORLDS).then(|| Tiny {
            append: rng.pick(&[1, 200, 4000, 1 << 20]),
            in_flight: rng.pick(&[1, 3000, 8 << 20]),
            fetch: rng.pick(&[1, 500, 20_000]),
            proposals: rng.pick(&[20_000, 64 << 20]),
            reads: rng.pick(&[1, 3, 1 << 17]),
            fragment: rng.pick(&[1, 300, 5000]),
        })
    }

    /// A node is told so.
    pub fn bound(&self, config: &mut Config) {
        config.append_bytes = self.append;
        config.peer_bytes_in_flight = self.in_flight;
        config.fetch_bytes = self.fetch;
        config.proposal_bytes_limit = self.proposals;
        config.reads_limit = self.reads;
    }
}
