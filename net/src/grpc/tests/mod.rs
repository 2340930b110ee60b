//! Client role against server role, over nothing but byte vectors.

mod attacks;
mod bodies;
mod calls;
mod segments;

use std::time::Duration;

use crate::grpc::{Bodies, CallId, Client, ClientConfig, ClientEvent, Config, Event, Fill, Server, Status};

/// Bodies of a known byte pattern, one per call.
#[derive(Default)]
pub struct Patterns {
    pub bodies: Vec<(CallId, u64, u64)>, // call, bytes given, length
    pub fills: usize,
    /// Give nothing for this call until told otherwise.
    pub hold: Option<CallId>,
    /// Break off at this byte.
    pub abort_at: Option<(u64, Status)>,
}

pub fn pattern(at: u64) -> u8 {
    (at % 251) as u8
}

impl Bodies for Patterns {
    fn fill(&mut self, call: CallId, max: usize, out: &mut Vec<u8>) -> Fill {
        self.fills += 1;
        if self.hold == Some(call) {
            return Fill::Wrote(0);
        }
        let (_, given, length) =
            self.bodies.iter_mut().find(|(c, ..)| *c == call).expect("a body of this call");
        if let Some((at, status)) = &self.abort_at
            && *given >= *at
        {
            return Fill::Abort(status.clone());
        }
        let mut size = (max as u64).min(*length - *given);
        if let Some((at, _)) = &self.abort_at {
            size = size.min(at - *given);
        }
        out.extend((*given..*given + size).map(pattern));
        *given += size;
        if given == length { Fill::Done(size as usize) } else { Fill::Wrote(size as usize) }
    }
}

/// A client and a server, joined.
pub struct Pair {
    pub client: Client,
    pub server: Server,
    pub bodies: Patterns,
    pub now: Duration,
}

impl Pair {
    pub fn new() -> Pair {
        Pair::with(Config::default())
    }

    pub fn with(config: Config) -> Pair {
        let now = Duration::from_secs(1000);
        let mut pair = Pair {
            client: Client::new(ClientConfig::default(), now),
            server: Server::new(config, now),
            bodies: Patterns::default(),
            now,
        };
        pair.pump();
        pair
    }

    /// Moves bytes until nobody has any.
    pub fn pump(&mut self) {
        while self.feed_server() + self.feed_client(1 << 16) > 0 {}
    }

    pub fn feed_server(&mut self) -> usize {
        let mut bytes = Vec::new();
        self.client.poll_transmit(self.now, &mut bytes, 1 << 16);
        self.server.handle_bytes(self.now, &bytes);
        bytes.len()
    }

    pub fn feed_client(&mut self, limit: usize) -> usize {
        let mut bytes = Vec::new();
        self.server.poll_transmit(self.now, &mut bytes, limit, &mut self.bodies);
        self.client.handle_bytes(self.now, &bytes);
        bytes.len()
    }

    pub fn server_events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    pub fn client_events(&mut self) -> Vec<ClientEvent> {
        std::iter::from_fn(|| self.client.poll_event()).collect()
    }

    /// Runs until the client's next event.
    pub fn next_client_event(&mut self) -> Option<ClientEvent> {
        self.pump();
        self.client.poll_event()
    }

    pub fn pull_reply(&mut self, call: CallId, length: u64) {
        self.bodies.bodies.push((call, 0, length));
        self.server.reply_pulled(call, length);
    }
}

pub fn request_of(event: &Event) -> (CallId, &[u8]) {
    match event {
        Event::Request { call, message, .. } => (*call, message),
        other => panic!("a request was expected: {other:?}"),
    }
}

pub fn closed(events: &[ClientEvent]) -> Vec<(CallId, Status)> {
    let closed = |e: &ClientEvent| match e {
        ClientEvent::Closed { call, status } => Some((*call, status.clone())),
        ClientEvent::Message { .. } => None,
    };
    events.iter().filter_map(closed).collect()
}
