//! A listener for strangers: bounded in connections, and in the time of a header and of an idle connection.
//!
//! Invariant: no client can keep a connection for longer than it takes to send a request and to have it answered. If there are
//! as many as there may be, the one that has been without a request for the longest is closed for the next, so that idle and
//! half-open ones cannot keep the others out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long the header of a request may take, and how long a connection may be idle before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest header of a request.
const HEADER_BYTES: usize = 64 * 1024;
/// How long a connection may be without a request while another one wants its place. Whoever uses it again and again does not lose
/// it.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a connection may go on that was to be closed when it had just got a request.
const LAST_REQUEST: Duration = Duration::from_secs(60);
/// How long nothing is accepted after a failure. Its cause, such as too many open files, may pass.
const PAUSE: Duration = Duration::from_millis(200);

/// What goes wrong with connections.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The system gives none.
    #[error("cannot accept a connection: {0}")]
    Accept(#[from] std::io::Error),
    /// One broke off.
    #[error("a connection broke off: {0}")]
    BrokeOff(#[from] hyper::Error),
}

/// Serves so many connections at a time, each with the service for its peer, until `stop` is cancelled. Others wait, if all of
/// these have a request. Returns what ends the connections once their requests are answered.
pub async fn serve<S>(
    listener: TcpListener,
    connections: usize,
    stop: CancellationToken,
    service: impl Fn(SocketAddr) -> S,
    log: fn(ConnectionError),
) -> GracefulShutdown
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let waiting = Waiting::default();
    let mut accepted_connections = 0;
    let places = Arc::new(Semaphore::new(connections));
    let ending = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return ending,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                log(error.into());
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Responses are small. Waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let place = tokio::select! {
            place = make_room(&places, &waiting) => place,
            () = stop.cancelled() => return ending,
        };
        let closed = CancellationToken::new();
        accepted_connections += 1;
        let waits = waiting.add(accepted_connections, closed.clone());
        let service = Watched {
            service: service(peer),
            waits: Arc::clone(&waits),
        };
        let connection = ending.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = serve_one(connection, &closed, &waits).await {
                log(error.into());
            }
            drop(waits);
            drop(place);
        });
    }
}

/// Serves a connection until it ends, or until it is closed for another one.
async fn serve_one(
    connection: impl Future<Output = hyper::Result<()>>,
    closed: &CancellationToken,
    waits: &Waits,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    tokio::select! {
        // A request that has come is read before anything is closed.
        biased;
        ended = &mut connection => ended,
        () = closed.cancelled() => match waits.has_request() {
            // Its answer ends the connection.
            true => timeout(LAST_REQUEST, connection).await.unwrap_or(Ok(())),
            false => Ok(()),
        }
    }
}

/// A place for a connection: a free one, or that of a connection that has been without a request for too long.
async fn make_room(
    places: &Arc<Semaphore>,
    waiting: &Waiting,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    loop {
        let oldest = waiting.oldest();
        let is_due = async {
            match oldest {
                Some((since, _)) => tokio::time::sleep_until(since + PATIENCE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            place = Arc::clone(places).acquire_owned() => return place,
            // It may have got a request meanwhile, and is not the oldest then.
            () = is_due => if oldest.is_some_and(|oldest| waiting.close(oldest)) {
                // It gives up its place at once, unless it has just got a request.
                let place = timeout(PATIENCE, Arc::clone(places).acquire_owned());
                if let Ok(place) = place.await {
                    return place;
                }
            },
        }
    }
}

/// Since when a connection has no request, and its number.
type Since = (Instant, u64);

/// The connections that have no request, and what closes each.
#[derive(Debug, Clone, Default)]
struct Waiting(Arc<Mutex<BTreeMap<Since, CancellationToken>>>);

impl Waiting {
    fn add(&self, number: u64, closed: CancellationToken) -> Arc<Waits> {
        let waits = Waits {
            all: self.clone(),
            closed,
            number,
            since: Mutex::new(None),
        };
        waits.begin();
        Arc::new(waits)
    }

    fn oldest(&self) -> Option<Since> {
        self.0.lock().first_key_value().map(|(since, _)| *since)
    }

    /// Closes a connection, unless it has had a request since.
    fn close(&self, since: Since) -> bool {
        let closed = self.0.lock().remove(&since);
        closed.inspect(CancellationToken::cancel).is_some()
    }
}

/// One connection, which waits for a request or has one.
#[derive(Debug)]
struct Waits {
    all: Waiting,
    closed: CancellationToken,
    number: u64,
    /// None while it has a request.
    since: Mutex<Option<Instant>>,
}

impl Waits {
    fn begin(&self) {
        let since = *self.since.lock().insert(Instant::now());
        (self.all.0.lock()).insert((since, self.number), self.closed.clone());
    }

    fn end(&self) {
        if let Some(since) = self.since.lock().take() {
            self.all.0.lock().remove(&(since, self.number));
        }
    }

    fn has_request(&self) -> bool {
        self.since.lock().is_none()
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.end();
    }
}

/// A service whose connection does not wait while it has a request.
struct Watched<S> {
    service: S,
    waits: Arc<Waits>,
}

impl<S> Service<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.waits.end();
        let (answering, waits) = (self.service.call(request), Arc::clone(&self.waits));
        Box::pin(async move {
            let mut answered = answering.await;
            if !waits.closed.is_cancelled() {
                waits.begin();
            } else if let Ok(answer) = &mut answered {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            answered
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(stream: &mut TcpStream) -> String {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        answer(stream).await
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    /// On a busy machine a request may be there for a while before it is read.
    #[tokio::test]
    async fn a_request_that_is_there_is_answered_although_its_connection_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = |_| service_fn(async |_| Ok(Response::new(Body::from("done"))));
        tokio::spawn(serve(listener, 1, stop.clone(), service, |_| ()));
        let mut was_last = false;
        for _ in 0..5 {
            let mut first = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut first).await.contains("200 OK"));
            let second = std::net::TcpStream::connect(address).unwrap();
            second.set_nonblocking(true).unwrap();
            first
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                .await
                .unwrap();
            let mut second = TcpStream::from_std(second).unwrap();
            // Nothing runs on this thread meanwhile.
            std::thread::sleep(PATIENCE + Duration::from_millis(50));
            let last = answer(&mut first).await;
            assert!(last.contains("200 OK"), "{last}");
            was_last |= last.contains("connection: close");
            assert_eq!(answer(&mut first).await, "");
            assert!(ask(&mut second).await.contains("200 OK"));
        }
        assert!(
            was_last,
            "the request came before the connection was to be closed"
        );
        stop.cancel();
    }
}
