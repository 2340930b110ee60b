//! Bidirectional streams as a test wants them: send now, wait for the next answer at most so long.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::pb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchRequest, WatchResponse};
use crate::{Client, within};

/// How long an answer that must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream of requests and one of answers.
///
/// A server need not begin its answer before it has something to say, so the call runs in a task of its own and
/// requests can be sent at once.
#[derive(Debug)]
pub struct Duplex<Q, A> {
    requests: Option<mpsc::UnboundedSender<Q>>,
    call: Option<JoinHandle<Result<Response<Streaming<A>>, Status>>>,
    answers: Option<Streaming<A>>,
}

impl Client {
    /// Opens a `Watch` stream.
    pub fn open_watch(&self) -> Duplex<WatchRequest, WatchResponse> {
        let mut client = self.watch.clone();
        Duplex::open(|requests| async move { client.watch(requests).await })
    }

    /// Opens a `LeaseKeepAlive` stream.
    pub fn open_keep_alive(&self) -> Duplex<LeaseKeepAliveRequest, LeaseKeepAliveResponse> {
        let mut client = self.lease.clone();
        Duplex::open(|requests| async move { client.lease_keep_alive(requests).await })
    }
}

impl<Q: Send + 'static, A: Send + 'static> Duplex<Q, A> {
    fn open<F>(call: impl FnOnce(UnboundedReceiverStream<Q>) -> F) -> Self
    where
        F: Future<Output = Result<Response<Streaming<A>>, Status>> + Send + 'static,
    {
        let (requests, queue) = mpsc::unbounded_channel();
        let call = tokio::spawn(call(UnboundedReceiverStream::new(queue)));
        Self { requests: Some(requests), call: Some(call), answers: None }
    }
}

impl<Q, A: std::fmt::Debug> Duplex<Q, A> {
    /// Sends a request.
    ///
    /// # Panics
    /// After [`Self::half_close`], or if the stream has ended.
    pub fn send(&self, request: Q) {
        let requests = self.requests.as_ref().expect("not half-closed");
        assert!(requests.send(request).is_ok(), "the stream has ended");
    }

    /// Sends a request, unless the stream has ended; whether it could.
    pub fn try_send(&self, request: Q) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }

    /// Says that no more requests come.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// The next answer; `None` if the server ended the stream with OK.
    ///
    /// # Panics
    /// If nothing comes for 20 s.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        self.next_within(PATIENCE).await.expect("an answer on the stream")
    }

    /// The next answer, which must come.
    ///
    /// # Panics
    /// If the stream ends, or nothing comes for 20 s.
    pub async fn expect(&mut self) -> A {
        self.next().await.expect("the stream goes on").expect("the stream has no end yet")
    }

    /// The next answer if one comes within `wait`.
    ///
    /// # Panics
    /// If the stream ends.
    pub async fn within(&mut self, wait: Duration) -> Option<A> {
        let answer = self.next_within(wait).await?;
        Some(answer.expect("the stream goes on").expect("the stream has no end yet"))
    }

    /// The next answer, or how the stream ended, if either comes within `wait`. Never panics.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Result<Option<A>, Status>> {
        within(wait, self.message()).await
    }

    async fn message(&mut self) -> Result<Option<A>, Status> {
        if let Some(call) = &mut self.call {
            let response = call.await.expect("a call does not panic");
            self.call = None;
            self.answers = Some(response?.into_inner());
        }
        self.answers.as_mut().expect("a call that failed is not asked again").message().await
    }
}
