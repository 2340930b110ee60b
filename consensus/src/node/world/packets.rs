//! Packets that a story takes out of the network and puts back.

use super::*;

/// Held back from the network.
#[derive(Default)]
pub(in crate::node) struct Packets(Vec<Packet>);

impl Packets {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn extend(&mut self, others: Packets) {
        self.0.extend(others.0);
    }
}

impl World {
    /// Bytes of entries in packets from one to another.
    pub fn under_way(&self, from: NodeId, to: NodeId) -> usize {
        let packets = self.net.iter().filter(|packet| (packet.from, packet.to) == (from, to));
        let bytes = |packet: &Packet| match &*packet.message {
            PeerMessage::Raft(message) => message.data.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        packets.map(bytes).sum()
    }

    /// Takes raft's messages of a kind (and from somebody) out of the network.
    pub fn take_packets(&mut self, mut which: impl FnMut(MessageType, NodeId) -> bool) -> Packets {
        let net = std::mem::take(&mut self.net);
        let (taken, left) = net.into_iter().partition(|packet| match &*packet.message {
            PeerMessage::Raft(message) => which(message.raft.get_msg_type(), packet.from),
            _ => false,
        });
        self.net = left;
        Packets(taken)
    }

    /// Puts copies of packets back.
    pub fn put_packets(&mut self, packets: &Packets) {
        self.net.extend(packets.0.iter().cloned());
    }
}
