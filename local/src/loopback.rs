//! Protects the endpoint of the embedded AWS services, which require no credentials.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode, header};
use axum::middleware::Next;
use url::{Host, Url};

/// Refuses the requests that a browser sends for a web page.
pub(crate) async fn own_clients_only(request: Request, next: Next) -> Response<Body> {
    let headers = request.headers();
    let host = headers
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let host = host.and_then(|host| Url::parse(&format!("http://{host}/")).ok());
    let is_loopback = match host.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(v4)) => v4.is_loopback(),
        Some(Host::Ipv6(v6)) => v6.is_loopback(),
        None => false,
    };
    if is_loopback && !headers.contains_key(header::ORIGIN) {
        return next.run(request).await;
    }
    let mut response = Response::new(Body::from("this endpoint is for clients on this machine\n"));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}
