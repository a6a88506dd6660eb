//! Who may use the inspector: the user of this machine alone, over the address that the agent printed.
//!
//! Invariant: a page of another origin can neither read nor do anything here. Its requests carry its own `Origin` and not our
//! cookie (`SameSite=Strict`), and a name that it lets point to loopback is refused by the `Host` header (DNS rebinding).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use protocol::envelope::digest;

use super::Inspector;
use super::problem::Problem;

/// What every answer carries. Nothing outside is loaded, no script or style runs that is in the page itself, and no other page
/// can frame this one.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The key of this run, and where the inspector is.
#[derive(Clone)]
pub(super) struct Access {
    /// SHA-256 of the key: how long a comparison of digests takes says nothing about the key.
    digest: String,
    /// The path of this run, without a slash at its end.
    path: String,
    port: u16,
}

impl Access {
    pub(super) fn new(key: &str, path: String, port: u16) -> Self {
        Self {
            digest: digest(key.as_bytes()),
            path,
            port,
        }
    }

    pub(super) fn is_key(&self, key: &str) -> bool {
        digest(key.as_bytes()) == self.digest
    }

    /// Each agent of this machine has its own.
    fn cookie_name(&self) -> String {
        format!("edge-agent-{}", self.port)
    }

    /// The `Set-Cookie` value that holds the key. Ports of one host share their cookies (RFC 6265, section 8.5): a server at
    /// another port gets it only if the browser asks that one for the path of this run, which nobody else knows.
    pub(super) fn cookie(&self, key: &str) -> String {
        format!(
            "{}={key}; Path={}/; HttpOnly; SameSite=Strict",
            self.cookie_name(),
            self.path
        )
    }

    /// Whether a request carries the key, in the cookie or as a bearer token.
    pub(super) fn has_key(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut cookies = cookies.filter_map(|cookies| cookies.to_str().ok());
        let has_cookie = cookies.any(|cookies| {
            (cookies.split("; "))
                .filter_map(|cookie| cookie.split_once('='))
                .any(|(of, key)| of == name && self.is_key(key))
        });
        has_cookie || self.has_bearer(headers)
    }

    fn has_bearer(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION);
        value
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .is_some_and(|key| self.is_key(key))
    }

    /// Whether a request was made to this inspector by a name of loopback.
    fn is_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return false;
        };
        let Ok(authority) = Authority::try_from(host.as_bytes()) else {
            return false;
        };
        let name = authority.host();
        let is_loopback = name.eq_ignore_ascii_case("localhost")
            || (name.trim_start_matches('[').trim_end_matches(']').parse())
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        is_loopback
            && !authority.as_str().contains('@')
            && authority.port_u16().unwrap_or(80) == self.port
    }

    /// Whether a request may change something: it comes from the inspector's own page, or from a program with the key as a bearer
    /// token, which sends no origin.
    fn may_change(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin == format!("http://{host}"),
            _ => self.has_bearer(headers) && !headers.contains_key(header::ORIGIN),
        }
    }
}

/// Checks every request, and adds [`HEADERS`] to every answer.
pub(super) fn guard(
    router: Router<Arc<Inspector>>,
    inspector: &Arc<Inspector>,
) -> Router<Arc<Inspector>> {
    router.layer(from_fn_with_state(Arc::clone(inspector), check))
}

async fn check(State(inspector): State<Arc<Inspector>>, request: Request, next: Next) -> Response {
    let mut response = match refuse(&inspector.access, &request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        (response.headers_mut()).insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refuse(access: &Access, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if !access.is_host(headers) {
        return Some(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_host",
            format!(
                "The `Host` has to be `localhost` or a loopback address, with the port {}.",
                access.port
            ),
        ));
    }
    let path = request.uri().path().strip_prefix(&access.path);
    if !path.is_some_and(|path| path.starts_with("/api/")) {
        return None;
    }
    if !access.has_key(headers) {
        return Some(Problem::new(
            StatusCode::UNAUTHORIZED,
            "no_key",
            "This needs the key of the running agent: open the address that `edge-agent inspect` prints.",
        ));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) && !access.may_change(headers) {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "other_origin",
            "Only the inspector's own page, or a program with the key as a bearer token, may change anything.",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123";

    fn headers<const N: usize>(headers: [(HeaderName, &str); N]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn only_names_of_loopback_with_the_port_are_answered() {
        let access = Access::new(KEY, "/run".to_owned(), 4748);
        for (host, expected) in [
            ("127.0.0.1:4748", true),
            ("localhost:4748", true),
            ("LOCALHOST:4748", true),
            ("[::1]:4748", true),
            ("127.0.0.2:4748", true),
            ("127.0.0.1", false),
            ("127.0.0.1:4747", false),
            ("evil.example:4748", false),
            ("localhost.evil.example:4748", false),
            ("127.0.0.1.evil.example:4748", false),
            ("localhost@evil.example:4748", false),
            ("evil.example@localhost:4748", false),
            ("192.168.0.2:4748", false),
            ("", false),
        ] {
            assert_eq!(
                access.is_host(&headers([(header::HOST, host)])),
                expected,
                "{host}"
            );
        }
        assert!(!access.is_host(&HeaderMap::new()));
        let two = headers([
            (header::HOST, "localhost:4748"),
            (header::HOST, "evil.example:4748"),
        ]);
        assert!(!access.is_host(&two));
    }

    #[test]
    fn the_key_is_a_cookie_of_this_port_or_a_bearer_token() {
        let access = Access::new(KEY, "/run".to_owned(), 4748);
        for (name, value, expected) in [
            (header::COOKIE, "edge-agent-4748=0123", true),
            (header::COOKIE, "a=b; edge-agent-4748=0123; c=d", true),
            (header::COOKIE, "edge-agent-4747=0123", false),
            (header::COOKIE, "edge-agent-4748=012", false),
            (header::COOKIE, "edge-agent-4748=", false),
            (header::AUTHORIZATION, "Bearer 0123", true),
            (header::AUTHORIZATION, "Bearer 01234", false),
            (header::AUTHORIZATION, "Basic 0123", false),
        ] {
            assert_eq!(
                access.has_key(&headers([(name, value)])),
                expected,
                "{value}"
            );
        }
        assert!(access.cookie(KEY).ends_with("; HttpOnly; SameSite=Strict"));
    }

    #[test]
    fn a_change_needs_the_same_origin_or_a_bearer_token() {
        let access = Access::new(KEY, "/run".to_owned(), 4748);
        let host = (header::HOST, "127.0.0.1:4748");
        let of = |origin| headers([host.clone(), (header::ORIGIN, origin)]);
        assert!(access.may_change(&of("http://127.0.0.1:4748")));
        for origin in [
            "http://127.0.0.1:4747",
            "http://localhost:4748",
            "https://127.0.0.1:4748",
            "http://evil.example",
            "null",
        ] {
            assert!(!access.may_change(&of(origin)), "{origin}");
        }
        let bearer = (header::AUTHORIZATION, "Bearer 0123");
        assert!(access.may_change(&headers([host.clone(), bearer.clone()])));
        assert!(!access.may_change(&headers([host.clone()])));
        let foreign = headers([host, bearer, (header::ORIGIN, "http://evil.example")]);
        assert!(!access.may_change(&foreign));
    }
}
