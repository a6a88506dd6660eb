//! The page and its files. They are in the program: nothing is built, and nothing comes from elsewhere.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;

use super::Inspector;
use super::problem::Problem;
use crate::output::warn;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    version: &'static str,
}

#[derive(Template)]
#[template(path = "locked.html")]
struct Locked {
    version: &'static str,
}

#[derive(Deserialize)]
struct Key {
    key: Option<String>,
}

/// The routes: the page, its files and the interface, all under the path of this run.
pub(super) fn routes(path: &str, interface: Router<Arc<Inspector>>) -> Router<Arc<Inspector>> {
    let file = |kind: &'static str, text: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind)], text))
    };
    let script = file(
        "text/javascript; charset=utf-8",
        include_str!("inspector.js"),
    );
    let style = file("text/css; charset=utf-8", include_str!("inspector.css"));
    let icon = file("image/svg+xml", include_str!("favicon.svg"));
    let files = Router::new()
        .route("/inspector.js", script)
        .route("/inspector.css", style.clone())
        .route("/favicon.svg", icon.clone());
    Router::new()
        .route(&format!("{path}/"), get(page))
        .nest(path, files.merge(interface))
        .route("/", get(locked))
        .route("/inspector.css", style)
        .route("/favicon.svg", icon)
        .fallback(async || {
            let status = StatusCode::NOT_FOUND;
            Problem::new(status, "not_found", "There is nothing at this path.")
        })
        .method_not_allowed_fallback(async || {
            let (status, code) = (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
            Problem::new(status, code, "This path does not take this method.")
        })
}

/// The page, if the request has the key. The key in the address becomes a cookie at once, in this answer: after a redirect from
/// another site's link, a browser would not send it.
async fn page(
    State(inspector): State<Arc<Inspector>>,
    query: Result<Query<Key>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let access = &inspector.access;
    let version = crate::VERSION;
    // An address with two keys has none.
    let key = query.ok().and_then(|Query(Key { key })| key);
    if let Some(key) = key.filter(|key| access.is_key(key)) {
        let cookie = [(header::SET_COOKIE, access.cookie(&key))];
        return (cookie, html(&Page { version })).into_response();
    }
    if access.has_key(&headers) {
        return html(&Page { version });
    }
    locked().await
}

async fn locked() -> Response {
    let version = crate::VERSION;
    (StatusCode::UNAUTHORIZED, html(&Locked { version })).into_response()
}

fn html(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            warn(format_args!("the inspector: {error}"));
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "page_failed", "The page cannot be rendered.").into_response()
        }
    }
}
